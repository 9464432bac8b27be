"""The control database, whatever its server's defaults are, and what commands say without it."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from django.db import connection, transaction

from demo.processes import ROOT
from tests.ports import free_port
from tests.servers import ExternalPostgres, PostgresServer, new_database


@pytest.fixture
def repeatable_read(db: None, postgres_server: PostgresServer) -> Iterator[None]:
    name = connection.ops.quote_name(connection.settings_dict["NAME"])

    def set_default(clause: str) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER DATABASE {name} {clause}")

    set_default("SET default_transaction_isolation = 'repeatable read'")
    yield
    set_default("RESET default_transaction_isolation")


@pytest.mark.django_db(transaction=True)
def test_transactions_see_what_others_have_committed_whatever_the_servers_default(
    repeatable_read: None,
) -> None:
    connection.close()
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SHOW transaction_isolation")
        assert cursor.fetchone() == ("read committed",)


def said_by(command: str, url: str) -> str:
    """What a command says that ends with 1; it has nothing on its standard output."""
    done = subprocess.run(
        [sys.executable, "manage.py", *command.split()],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": url},
        input="projects: []",
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr


@pytest.mark.parametrize(
    "command",
    ["apply -", "export", "doctor", "rotate_keys", "token create --user ada --role viewer"],
)
def test_a_command_says_in_one_line_that_migrations_are_missing_or_the_database_is_away(
    command: str, postgres_server: PostgresServer | ExternalPostgres
) -> None:
    told = "CommandError: migrations are missing: run `python manage.py migrate`\n"
    with new_database(postgres_server) as url:
        assert said_by(command, url) == told
    away = f"postgresql://ada:word@127.0.0.1:{free_port()}/none"
    told = "CommandError: the control database (DATABASE_URL) does not answer\n"
    assert said_by(command, away) == told
