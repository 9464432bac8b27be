"""`apply` and `export`: the plan, one transaction, references to secrets, and what is refused."""

import io
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command

from eventing.access import actor_of_token, command_line
from eventing.configuration import apply, export
from eventing.definitions import DEFAULT_SETTINGS
from eventing.logs.postgres import PostgresEventLog
from eventing.models import Database, Project, RetiredSource, Trigger
from eventing.problems import InvalidInput
from eventing.projects import configuration_version, settings_of

pytestmark = pytest.mark.django_db(transaction=True)

ENVIRONMENT = {"SHOP_DB_URL": "postgres://u:hunter2@db:5432/shop", "HOOK_TOKEN": "s3cret"}
SHOP = """
projects:
  - name: shop
    eventing: {enabled: true, db: builtin}
    retention: {events: 30d, payloads: 7d}
    databases:
      - alias: main
        type: postgres
        url: ${SHOP_DB_URL}
        schemas: [public]
    triggers:
      - name: welcome-email
        databases: [main]
        tables: [users, "billing.*"]
        operations: [insert]
        url: https://example.com/hook
        backoff: {initial_ms: 1000, factor: 1.5}
        headers: {Authorization: "Bearer ${HOOK_TOKEN}"}
      - name: audit
        operations: [update, delete]
        url: https://example.com/audit
"""


def plan_of(text: str, *, dry_run: bool = False, prune: bool = False) -> tuple[str, ...]:
    return apply(text, ENVIRONMENT, by=command_line(), dry_run=dry_run, prune=prune).lines


def test_a_file_is_applied_and_says_what_it_did() -> None:
    assert plan_of(SHOP) == (
        "+ project shop",
        "+ database shop/main",
        "+ trigger shop/welcome-email",
        "+ trigger shop/audit",
        "~ settings shop: eventing.enabled, retention.payloads",
    )
    trigger = Trigger.objects.get(name="welcome-email")
    assert trigger.tables == ["users", "billing.*"]
    assert '"Bearer s3cret"' in trigger.headers
    assert Project.objects.get().eventing_enabled
    assert Database.objects.get().url == ENVIRONMENT["SHOP_DB_URL"]


def test_applying_twice_changes_nothing() -> None:
    plan_of(SHOP)
    version = configuration_version()
    assert plan_of(SHOP) == ()
    assert configuration_version() == version


def test_what_is_exported_can_be_applied_and_keeps_its_references() -> None:
    plan_of(SHOP)
    exported = export("shop")
    assert "${SHOP_DB_URL}" in exported
    assert "Bearer ${HOOK_TOKEN}" in exported
    assert "hunter2" not in exported
    assert "s3cret" not in exported
    assert plan_of(exported) == ()


def test_secrets_that_were_written_out_are_exported_as_references() -> None:
    plan_of(SHOP.replace("${SHOP_DB_URL}", ENVIRONMENT["SHOP_DB_URL"]))
    assert "${SHOP_MAIN_URL}" in export(None)


def test_a_dry_run_shows_the_plan_and_changes_nothing() -> None:
    plan = plan_of(SHOP, dry_run=True)
    assert plan[0] == "+ project shop"
    assert not Project.objects.exists()


def test_only_pruning_deletes_what_the_file_does_not_mention() -> None:
    plan_of(SHOP)
    plan_of(SHOP.replace("shop", "other"))
    without_audit = SHOP[: SHOP.index("      - name: audit")]
    assert plan_of(without_audit) == ()
    assert plan_of(without_audit, prune=True) == ("- trigger shop/audit", "- project other")
    assert [project.name for project in Project.objects.all()] == ["shop"]


def test_a_change_names_the_fields_that_differ() -> None:
    plan_of(SHOP)
    changed = SHOP.replace("example.com/audit", "example.com/other").replace("30d", "60d")
    assert plan_of(changed) == (
        "~ trigger shop/audit: url",
        "~ settings shop: retention.events",
    )


@pytest.mark.parametrize("prune", [False, True])
@pytest.mark.parametrize(
    ("said", "changes"),
    [
        ("", ()),
        ("eventing: {}", ()),
        ("eventing:", ()),
        ("eventing: {db: builtin}", ()),
        ("eventing: {enabled: false}", ("~ settings shop: eventing.enabled",)),
        ("retention: {events: 10d}", ("~ settings shop: retention.events",)),
        ("retention: {payloads: 3d}", ("~ settings shop: retention.payloads",)),
    ],
)
def test_settings_that_a_file_does_not_mention_stay(
    said: str, changes: tuple[str, ...], prune: bool
) -> None:
    plan_of(SHOP)
    project = Project.objects.get()
    settings = (
        "    eventing: {enabled: true, db: builtin}\n    retention: {events: 30d, payloads: 7d}\n"
    )
    file = SHOP.replace(settings, f"    {said}\n")
    assert file != SHOP
    assert plan_of(file, dry_run=True, prune=prune) == changes
    assert settings_of(Project.objects.get()) == settings_of(project)
    assert plan_of(file, prune=prune) == changes
    found = settings_of(Project.objects.get())
    assert found.eventing_enabled == ("false" not in said)
    assert found.retention_events_days == (10 if "10d" in said else 30)
    assert found.retention_payloads_days == (3 if "3d" in said else 7)
    assert plan_of(file, prune=prune) == ()


def test_what_stays_and_what_is_said_have_to_fit() -> None:
    plan_of(SHOP)
    with pytest.raises(InvalidInput, match=r"line 5: .*payloads: got '7d'; allowed: at most as"):
        plan_of(SHOP.replace("{events: 30d, payloads: 7d}", "{events: 5d}"))
    assert Project.objects.get().retention_events_days == 30


def test_a_new_project_begins_with_eventing_off() -> None:
    plan_of("projects: [{name: shop}]")
    assert settings_of(Project.objects.get()) == DEFAULT_SETTINGS
    assert not DEFAULT_SETTINGS.eventing_enabled


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("operations: [insert]", "operations: [upsert]", "line 15: projects[0].triggers[0].oper"),
        ("alias: main", "alias: no spaces", "line 7: projects[0].databases[0].alias"),
        ("databases: [main]", "databases: [nowhere]", "line 13: projects[0].triggers[0].databases"),
        ("name: audit", "name: welcome-email", "line 19: projects[0].triggers[1].name"),
        ("${HOOK_TOKEN}", "${NOT_SET}", "line 18: projects[0].triggers[0].headers.Authorization"),
        ("  - name: shop", "  - name: [", "line "),
        ("projects:", "project:", "line 2: project: got an unknown field; allowed: only projects"),
        ("projects:", "# first\nversion: 1\nprojects:", "line 3: version: got an unknown field"),
        (
            "url: https://example.com/audit",
            "colour: red",
            "line 21: projects[0].triggers[1].colour",
        ),
    ],
)
def test_a_bad_file_names_line_and_field_and_changes_nothing(
    before: str, after: str, message: str
) -> None:
    plan_of(SHOP)
    version = configuration_version()
    with pytest.raises(InvalidInput) as refused:
        plan_of(SHOP.replace(before, after, 1).replace("30d", "31d"))
    assert any(str(problem).startswith(message) for problem in refused.value.problems)
    assert "s3cret" not in str(refused.value)
    assert configuration_version() == version
    assert Project.objects.get().retention_events_days == 30


def test_another_server_gives_the_old_slot_up_and_other_credentials_do_not() -> None:
    plan_of(SHOP)
    first = Database.objects.get()
    same = ENVIRONMENT | {"SHOP_DB_URL": "postgres://u:other@db:5432/shop?sslmode=require"}
    plan = apply(SHOP, same, by=command_line(), dry_run=False, prune=False)
    assert plan.lines == ("~ database shop/main: url",)
    assert Database.objects.get().source_name == first.source_name
    assert not RetiredSource.objects.exists()
    moved = ENVIRONMENT | {"SHOP_DB_URL": "postgres://u:other@elsewhere:5432/shop"}
    apply(SHOP, moved, by=command_line(), dry_run=False, prune=False)
    assert Database.objects.get().source_name != first.source_name
    assert RetiredSource.objects.get().source_name == first.source_name


def test_the_command_prints_the_plan_and_refuses_a_bad_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: PostgresEventLog
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "shop.yaml"
    file.write_text(SHOP)
    printed = io.StringIO()
    call_command("apply", str(file), stdout=printed)
    assert printed.getvalue().splitlines()[0] == "+ project shop"
    file.write_text(SHOP.replace("[insert]", "[upsert]"))
    with pytest.raises(CommandError, match=r"shop.yaml: line 15: .*operations: got 'upsert'"):
        call_command("apply", str(file))
    with pytest.raises(CommandError, match="cannot be read"):
        call_command("apply", str(tmp_path / "missing.yaml"))


def test_the_doctor_says_which_of_its_words_names_nothing() -> None:
    plan_of(SHOP)
    with pytest.raises(CommandError, match="--project: got 'shoop'; allowed: an existing project"):
        call_command("doctor", "--project", "shoop")
    with pytest.raises(CommandError, match="--database: got 'mian'; allowed: an alias of shop"):
        call_command("doctor", "--project", "shop", "--database", "mian")
    with pytest.raises(CommandError, match="--database: got 'mian'; allowed: an alias of a"):
        call_command("doctor", "--database", "mian")


def test_a_token_acts_for_its_user_with_its_own_role_in_its_own_project() -> None:
    plan_of(SHOP)
    plan_of(SHOP.replace("shop", "other"))
    User.objects.create_superuser("root", password="correct horse battery")
    printed = io.StringIO()
    call_command(
        "token", "create", "--user", "root", "--role", "viewer", "--project", "shop", stdout=printed
    )
    actor = actor_of_token(printed.getvalue().strip())
    assert actor is not None
    assert [project.name for project in actor.projects()] == ["shop"]
    assert actor.role_in(Project.objects.get(name="shop")) == "viewer"
    assert actor.role_in(Project.objects.get(name="other")) is None
    assert not actor.may_create_projects()
    assert actor_of_token("mct_wrong") is None
    with pytest.raises(CommandError, match="--user: got 'nobody'"):
        call_command("token", "create", "--user", "nobody", "--role", "viewer")
