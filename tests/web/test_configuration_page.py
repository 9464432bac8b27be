"""Settings, Configuration: a project's YAML taken out, planned, and applied to it alone."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
import yaml
from django.contrib.auth.models import User
from django.test import Client

from eventing.access import command_line
from eventing.history import redeliver
from eventing.models import Database, Project, Trigger
from eventing.projects import save_trigger, trigger_definition_of
from tests.factories import make_project, make_trigger
from tests.web.conftest import SOURCE, Shop


def path(shop: Shop) -> str:
    return shop.path("settings/configuration/")


def exported(shop: Shop, client: Client) -> Any:
    answer = client.get(path(shop) + "export/")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="shop.yaml"'
    return yaml.safe_load(answer.content)


def send(shop: Shop, client: Client, document: Any, action: str, **more: str) -> tuple[int, str]:
    text = document if isinstance(document, str) else yaml.safe_dump(document)
    answer = client.post(path(shop), {"text": text, "action": action, **more})
    return answer.status_code, answer.content.decode()


def test_what_is_exported_changes_nothing_and_has_no_secret(shop: Shop, admin: Client) -> None:
    document = exported(shop, admin)
    assert "s3cret" not in str(document)
    status, text = send(shop, admin, document, "plan")
    assert status == 200
    assert "Nothing to change" in text
    assert 'value="apply"' not in text


def test_the_plan_is_shown_and_then_applied_with_secrets_kept(shop: Shop, admin: Client) -> None:
    document = exported(shop, admin)
    document["projects"][0]["triggers"][0]["retries"] = 9
    document["projects"][0]["databases"][0]["schemas"] = ["public"]
    status, text = send(shop, admin, document, "plan")
    assert (status, "~ trigger shop/welcome-email: retries" in text) == (200, True)
    assert "~ database shop/main: schemas" in text
    assert Trigger.objects.get().retries == 3
    status, _ = send(shop, admin, document, "apply")
    assert status == 303
    trigger = Trigger.objects.get()
    assert trigger.retries == 9
    assert dict(trigger_definition_of(trigger).headers) == {"Authorization": "Bearer hook-s3cret"}
    assert trigger.header_references == {}
    database = Database.objects.get()
    assert (database.url, database.url_reference) == (SOURCE, "")
    assert database.schemas == ["public"]


def test_the_plan_says_how_many_events_are_cancelled_with_a_trigger_that_goes(
    shop: Shop, admin: Client
) -> None:
    document = exported(shop, admin)
    document["projects"][0]["triggers"] = []
    _, text = send(shop, admin, document, "plan", prune="on")
    assert "No event of the triggers that go is waiting for delivery." in text
    redeliver(shop.project, [UUID(each) for each in shop.add_events(3)], by=command_line())
    _, text = send(shop, admin, document, "plan", prune="on")
    assert "3 events</strong> of the triggers that go are not delivered yet" in text
    # A plan cancels nothing.
    assert shop.log.counts(shop.project.pk)["pending"] == 3
    _, text = send(shop, admin, document, "plan")
    assert "triggers that go" not in text
    assert send(shop, admin, document, "apply", prune="on")[0] == 303
    assert shop.log.counts(shop.project.pk)["cancelled"] == 3


def test_what_is_applied_is_the_plan_that_was_shown(shop: Shop, admin: Client) -> None:
    document = exported(shop, admin)
    document["projects"][0]["triggers"][0]["retries"] = 9

    def planned(page: str) -> str:
        (tag,) = re.findall(r'name="planned" value="(\w+)"', page)
        return str(tag)

    tag = planned(send(shop, admin, document, "plan")[1])
    changed = replace(trigger_definition_of(shop.trigger), timeout_ms=1234)
    save_trigger(shop.project, changed, shop.trigger, by=command_line())
    status, text = send(shop, admin, document, "apply", planned=tag)
    assert (status, "since its plan was shown" in text) == (409, True)
    assert "~ trigger shop/welcome-email: retries, timeout_ms" in text
    trigger = Trigger.objects.get()
    assert (trigger.retries, trigger.timeout_ms) == (3, 1234)
    assert send(shop, admin, document, "apply", planned=planned(text))[0] == 303
    trigger.refresh_from_db()
    assert (trigger.retries, trigger.timeout_ms) == (9, 5000)


def test_a_stored_secret_stands_in_its_own_place_alone(shop: Shop, admin: Client) -> None:
    document = exported(shop, admin)
    reference = document["projects"][0]["databases"][0]["url"]
    document["projects"][0]["triggers"][0]["headers"]["X-Mine"] = reference
    for action in ("plan", "apply"):
        status, text = send(shop, admin, document, action)
        assert status == 422
        assert "stands for it in its place alone" in text
        assert "triggers[0].headers.X-Mine" in text
        assert "s3cret" not in text
    assert dict(trigger_definition_of(Trigger.objects.get()).headers).keys() == {"Authorization"}


@pytest.mark.parametrize("place", ["postgresql://h/d?{}=1", "{}://h/d", "postgresql://h/{}"])
def test_no_message_tells_what_a_reference_stands_for(
    shop: Shop, admin: Client, place: str
) -> None:
    document = exported(shop, admin)
    (trigger,) = document["projects"][0]["triggers"]
    written = place.format(trigger["headers"]["Authorization"])
    document["projects"][0]["databases"].append(
        {"alias": "mine", "type": "postgres", "url": written}
    )
    status, text = send(shop, admin, document, "plan")
    assert status == 422
    assert "hook-s3cret" not in text


@pytest.mark.parametrize("action", ["plan", "apply"])
def test_files_and_sockets_of_the_machine_are_not_to_be_had_by_a_file_either(
    shop: Shop, admin: Client, action: str
) -> None:
    document = exported(shop, admin)
    mine = {
        "alias": "mine",
        "type": "postgres",
        "url": "postgresql:///mission_control?host=/var/run/postgresql",
    }
    document["projects"][0]["databases"].append(mine)
    document["projects"][0]["eventing"]["db"] = "mine"
    status, text = send(shop, admin, document, action)
    assert status == 422
    assert "projects[0].databases[1].url" in text
    assert "for administrators of the installation" in text
    assert Database.objects.count() == 1
    User.objects.filter(username="admin").update(is_superuser=True)
    del document["projects"][0]["eventing"]["db"]
    assert send(shop, admin, document, action)[0] in (200, 303)


def test_the_environment_is_for_administrators_of_the_installation(
    shop: Shop, admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK_TOKEN", "from-the-environment")
    document = exported(shop, admin)
    document["projects"][0]["triggers"][0]["headers"] = {"X-Token": "${HOOK_TOKEN}"}
    status, text = send(shop, admin, document, "apply")
    assert (status, "HOOK_TOKEN is unset" in text) == (422, True)
    root = Client()
    root.force_login(User.objects.create_superuser("root"))
    assert send(shop, root, document, "apply")[0] == 303
    headers = trigger_definition_of(Trigger.objects.get()).headers
    assert dict(headers) == {"X-Token": "from-the-environment"}


def test_a_secret_with_a_reference_in_it_stays_what_it_is(shop: Shop, admin: Client) -> None:
    Trigger.objects.update(header_references={"Authorization": "Bearer ${HOOK_TOKEN}"})
    document = exported(shop, admin)
    headers = document["projects"][0]["triggers"][0]["headers"]
    assert headers == {"Authorization": "Bearer ${HOOK_TOKEN}"}
    document["projects"][0]["triggers"][0]["retries"] = 9
    assert send(shop, admin, document, "apply")[0] == 303
    trigger = Trigger.objects.get()
    assert dict(trigger_definition_of(trigger).headers) == {"Authorization": "Bearer hook-s3cret"}
    assert trigger.header_references == {"Authorization": "Bearer ${HOOK_TOKEN}"}
    headers["Authorization"] = "Basic ${HOOK_TOKEN}"
    assert send(shop, admin, document, "apply")[0] == 422


def test_no_other_project_is_touched(shop: Shop, admin: Client) -> None:
    other = make_project("other")
    make_trigger(other, "https://example.com/", "theirs")
    document = exported(shop, admin)
    renamed = {"projects": [{**document["projects"][0], "name": "other"}]}
    both = {"projects": [*document["projects"], {"name": "third"}]}
    for wrong in (renamed, both, {"projects": []}):
        status, text = send(shop, admin, wrong, "apply", prune="on")
        assert (status, "one project, shop" in text) == (422, True)
    document["projects"][0]["triggers"] = []
    status, text = send(shop, admin, document, "plan", prune="on")
    assert "- trigger shop/welcome-email" in text
    assert send(shop, admin, document, "apply", prune="on")[0] == 303
    assert list(Trigger.objects.values_list("name", flat=True)) == ["theirs"]
    assert Project.objects.count() == 2


def test_mission_control_itself_has_no_address_in_a_file(shop: Shop, admin: Client) -> None:
    document = exported(shop, admin)
    own = {"alias": "own", "type": "mission-control"}
    document["projects"][0]["databases"].append(own)
    document["projects"][0]["triggers"][0]["databases"] = ["own"]
    assert send(shop, admin, document, "apply")[0] == 303
    again = exported(shop, admin)
    assert again["projects"][0]["databases"][1] == own
    assert "Nothing to change" in send(shop, admin, again, "plan")[1]
    again["projects"][0]["databases"][1] = own | {"url": "postgres://db/s3cret"}
    status, page = send(shop, admin, again, "apply")
    assert status == 422
    assert "databases[1].url: got what was given; allowed: nothing" in page


def test_a_bad_file_names_line_and_field(shop: Shop, admin: Client) -> None:
    text = "projects:\n  - name: shop\n    triggers:\n      - name: a\n        retries: many\n"
    status, page = send(shop, admin, text, "apply")
    assert status == 422
    assert "line 5: projects[0].triggers[0].retries" in page
    assert send(shop, admin, "- : nonsense: [", "plan")[0] == 422
    assert send(shop, admin, "", "plan")[0] == 422


@pytest.mark.parametrize("role", ["viewer", "editor"])
def test_it_is_for_administrators(shop: Shop, as_role: Callable[[str], Client], role: str) -> None:
    client = as_role(role)
    assert client.get(path(shop)).status_code == 403
    assert client.get(path(shop) + "export/").status_code == 403
    assert client.post(path(shop), {"text": "", "action": "apply"}).status_code == 403
