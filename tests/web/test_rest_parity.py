"""REST can do all that the console can: each form of the console has its counterpart.

The forms come from the table of all addresses, which the URL configuration is held to. One that is
in neither list here fails the test.
"""

from typing import Final

import pytest

from tests.web.routes import API, CONSOLE, PROJECTS
from tests.web.test_every_deed import NOT_NOTED, NOTED, Way

_P: Final = "projects/<named:project>/"
_A: Final = PROJECTS + "<name:project>/"
_DATABASE: Final = _A + "databases/<name:alias>/"
_TRIGGER: Final = _A + "triggers/<name:name>/"
_MEMBER: Final = _A + "members/<str:username>/"
_NOTIFICATION: Final = _A + "notifications/<name:name>/"

# What is done over REST in place of what a form does; several where the form does several things.
IN_REST: Final[dict[str, tuple[Way, ...]]] = {
    "projects/add/": ((PROJECTS, "POST"),),
    _P + "begin/database/": ((_A + "databases/", "POST"), (_A + "check/", "POST")),
    _P + "begin/trigger/": ((_A + "triggers/", "POST"),),
    _P + "begin/enable/": ((_A + "settings/", "PATCH"),),
    _P + "databases/add/": ((_A + "databases/", "POST"), (_A + "check/", "POST")),
    _P + "databases/<named:alias>/": ((_DATABASE, "PATCH"), (_DATABASE + "check/", "POST")),
    _P + "databases/<named:alias>/delete/": ((_DATABASE, "DELETE"),),
    _P + "databases/<named:alias>/start-anew/": ((_DATABASE + "start-anew/", "POST"),),
    _P + "triggers/add/": ((_A + "triggers/", "POST"),),
    _P + "triggers/preview/": ((_A + "sample/", "POST"),),
    _P + "triggers/sample/": ((_A + "sample/", "POST"),),
    _P + "triggers/try/": ((_A + "try/", "POST"),),
    _P + "triggers/<named:name>/edit/": ((_TRIGGER, "PATCH"),),
    _P + "triggers/<named:name>/state/": ((_TRIGGER, "PATCH"),),
    _P + "triggers/<named:name>/test/": ((_TRIGGER + "test/", "POST"),),
    _P + "triggers/<named:name>/secret/": ((_TRIGGER + "secret/", "POST"),),
    _P + "triggers/<named:name>/secret/rotate/": ((_TRIGGER + "secret/rotate/", "POST"),),
    _P + "triggers/<named:name>/secret/retire/": ((_TRIGGER + "secret/retire/", "POST"),),
    _P + "triggers/<named:name>/delete/": ((_TRIGGER, "DELETE"),),
    _P + "events/chosen/": (
        (_A + "events/<uuid:event_id>/redeliver/", "POST"),
        (_A + "events/cancel/", "POST"),
    ),
    _P + "events/redeliver/": ((_A + "redeliveries/", "POST"),),
    _P + "redeliveries/<int:number>/cancel/": ((_A + "redeliveries/<int:number>/cancel/", "POST"),),
    _P + "events/<uuid:event_id>/redeliver/": ((_A + "events/<uuid:event_id>/redeliver/", "POST"),),
    _P + "settings/": ((_A + "settings/", "PATCH"),),
    _P + "settings/members/": ((_A + "members/", "POST"),),
    _P + "settings/members/<int:user_id>/role/": ((_MEMBER, "PATCH"),),
    _P + "settings/members/<int:user_id>/remove/": ((_MEMBER, "DELETE"),),
    _P + "settings/members/<int:user_id>/two-factor/": ((_MEMBER + "reset-two-factor/", "POST"),),
    _P + "settings/tokens/": ((_A + "tokens/", "POST"),),
    _P + "settings/tokens/<int:token_id>/revoke/": ((_A + "tokens/<int:token_id>/", "DELETE"),),
    _P + "settings/notifications/add/": ((_A + "notifications/", "POST"),),
    _P + "settings/notifications/<named:name>/": ((_NOTIFICATION, "PATCH"),),
    _P + "settings/notifications/<named:name>/test/": ((_NOTIFICATION + "test/", "POST"),),
    _P + "settings/notifications/<named:name>/delete/": ((_NOTIFICATION, "DELETE"),),
    _P + "settings/configuration/": ((_A + "configuration/", "PUT"),),
    _P + "settings/rename/": ((_A, "PATCH"),),
    _P + "settings/delete/": ((_A, "DELETE"),),
}
_SIGN_IN: Final = "signs a person in or out; a program has a token"
_PERSON: Final = "of a person's own password and second factor, which open no REST"
OF_A_BROWSER: Final[dict[str, str]] = {
    "sign-in/": _SIGN_IN,
    "sign-in/code/": _SIGN_IN,
    "sign-out/": _SIGN_IN,
    "account/password/": _PERSON,
    "account/confirm/": _PERSON,
    "account/confirm/code/": _PERSON,
    "account/two-factor/on/": _PERSON,
    "account/two-factor/off/": _PERSON,
    "account/recovery-codes/new/": _PERSON,
    "first-run/": "makes the first user, before there is a token; or `manage.py createsuperuser`",
    "theme/": "a cookie of one browser",
}


def _actions(ways: tuple[Way, ...]) -> set[str]:
    """What the audit log calls what is done there; empty where nothing is noted."""
    assert all(way in NOTED or way in NOT_NOTED for way in ways)
    return {NOTED[way][0] for way in ways if way in NOTED}


def test_each_form_of_the_console_has_a_counterpart_in_rest() -> None:
    forms = {route for route, rules in CONSOLE.items() if "POST" in rules}
    missing = forms - IN_REST.keys() - OF_A_BROWSER.keys()
    assert not missing, (
        "say in IN_REST by which methods and addresses REST does the same (adding them if there"
        f" are none), or in OF_A_BROWSER why no program needs it: {sorted(missing)}"
    )
    assert forms == IN_REST.keys() | OF_A_BROWSER.keys(), "these are no forms any more"
    assert not IN_REST.keys() & OF_A_BROWSER.keys()


@pytest.mark.parametrize("form", IN_REST)
def test_the_counterpart_does_the_same_for_the_same_people(form: str) -> None:
    ways = IN_REST[form]
    assert ways
    for route, method in ways:
        assert API[route][method].role == CONSOLE[form]["POST"].role, (route, method)
    # What the form does is noted as what its counterpart does.
    assert _actions(((form, "POST"),)) <= _actions(ways)
