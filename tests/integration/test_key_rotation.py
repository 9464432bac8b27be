"""`manage.py rotate_keys`: everything is rewritten, again and again, and nothing is lost by it."""

import io
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection
from django.test import override_settings

from eventing import key_rotation
from eventing.access import command_line
from eventing.models import Database, EventingDb, Project, RetiredSource, Trigger
from eventing.models.fields import UndecryptableValue
from tests.factories import make_database, make_project, make_trigger

OLD, NEW, OTHER = "old-" * 10, "new-" * 10, "other-" * 10


@pytest.fixture
def stored(transactional_db: None) -> Iterator[None]:
    """A secret of each kind, encrypted with OLD."""
    with override_settings(ENCRYPTION_KEYS=[OLD]):
        project = make_project("shop")
        database = make_database(project, "postgresql://u:planted-1@db/shop")
        make_trigger(project, "https://example.com", headers={"X-Key": "planted-2"})
        EventingDb.objects.create(
            project=project, database=database, alias="a", type="postgres", url=database.url
        )
        RetiredSource.objects.create(
            database_id=1, type="postgres", url="postgresql://planted-3@db/x", source_name="s"
        )
    yield
    project.delete()
    RetiredSource.objects.all().delete()


def secrets() -> list[str]:
    trigger = Trigger.objects.get()
    return [
        Database.objects.get().url,
        EventingDb.objects.get().url,
        RetiredSource.objects.get().url,
        trigger.headers,
        trigger.signing_secrets,
    ]


def run(**options: Any) -> str:
    out = io.StringIO()
    call_command("rotate_keys", stdout=out, **options)
    return out.getvalue()


def test_every_secret_is_rewritten_and_the_old_key_can_go(stored: None) -> None:
    with override_settings(ENCRYPTION_KEYS=[NEW, OLD]):
        before = secrets()
        said = run()
        assert secrets() == before
    assert said.count(": 1 rewritten, 0 with the first key already") == 5
    assert "planted" not in said
    with override_settings(ENCRYPTION_KEYS=[NEW]):
        assert secrets() == before
        assert run().count(": 0 rewritten, 1 with the first key already") == 5


def test_a_dry_run_counts_and_changes_nothing(stored: None) -> None:
    with override_settings(ENCRYPTION_KEYS=[NEW, OLD]):
        assert run(dry_run=True).count(": 1 to rewrite") == 5
    with override_settings(ENCRYPTION_KEYS=[OLD]):
        assert len(secrets()) == 5


def test_rows_that_no_key_opens_are_named_and_the_others_are_rewritten_nevertheless(
    stored: None,
) -> None:
    project_id = Project.objects.get().pk
    with override_settings(ENCRYPTION_KEYS=[OTHER]):
        url = "postgresql://u:planted-4@db/lost"
        lost = Database.objects.create(
            project_id=project_id, alias="lost", type="postgres", url=url, source_name="lost"
        )
    errors = io.StringIO()
    with override_settings(ENCRYPTION_KEYS=[NEW, OLD]):
        with pytest.raises(CommandError, match="1 secrets were encrypted with a key that is not"):
            run(stderr=errors)
        assert errors.getvalue() == f"eventing_database.url: no key opens row {lost.pk}\n"
        with pytest.raises(UndecryptableValue):
            str(Database.objects.get(pk=lost.pk).url)
    with override_settings(ENCRYPTION_KEYS=[NEW]):
        assert Database.objects.get(alias="main").url == "postgresql://u:planted-1@db/shop"
        run(stderr=errors, empty_unreadable=True)
        assert Database.objects.get(pk=lost.pk).url == ""
        assert Database.objects.get(alias="main").url == "postgresql://u:planted-1@db/shop"


def test_it_goes_on_where_it_was_stopped(stored: None) -> None:
    with override_settings(ENCRYPTION_KEYS=[NEW, OLD]):
        columns = key_rotation.rotate(by=command_line())
        first = next(columns)
        assert first.rewritten == 1
        columns.close()
        done = [each.rewritten for each in key_rotation.rotate(by=command_line())]
        assert sum(done) == 4


def test_what_is_saved_meanwhile_is_not_overwritten(stored: None) -> None:
    """The row changes between being read and being rewritten, as a concurrent save would do it."""
    changed = "postgresql://u:changed@db/shop"

    def save_first(
        execute: object, sql: str, params: object, many: bool, context: object
    ) -> object:
        if sql.startswith("UPDATE") and "eventing_database" in sql and not saved:
            saved.append(True)
            Database.objects.update(url=changed)
        return execute(sql, params, many, context)

    saved: list[bool] = []
    with override_settings(ENCRYPTION_KEYS=[NEW, OLD]):
        with connection.execute_wrapper(save_first):
            run()
        assert saved
        assert Database.objects.get().url == changed
