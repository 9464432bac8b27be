"""Commands that are not understood say what is allowed, and do nothing."""

import pytest
from django.core.management import ManagementUtility


@pytest.mark.parametrize(
    ("words", "allowed"),
    [
        ("token", "{create}"),
        ("token make", "(choose from 'create')"),
        ("token create --user ada", "--role {viewer,editor,admin}"),
        ("token create --user ada --role king", "(choose from 'viewer', 'editor', 'admin')"),
        ("second_factor", "{reset}"),
        ("second_factor take", "(choose from 'reset')"),
        ("migrate --lock-wait-seconds soon", "got 'soon'; allowed: a whole number of seconds"),
        ("migrate --lock-wait-seconds -1", "got '-1'; allowed: a whole number of seconds"),
        ("apply", "file"),
        ("doctor --format json", "[--json]"),
    ],
)
def test_a_command_that_is_not_understood_says_what_is_allowed(
    words: str, allowed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # Without a database mark, any query would fail this test.
    with pytest.raises(SystemExit) as ended:
        ManagementUtility(["manage.py", *words.split()]).execute()
    assert ended.value.code == 2
    assert allowed in capsys.readouterr().err.replace("\n", " ")
