"""The control database, whatever its server's defaults are."""

from collections.abc import Iterator

import pytest
from django.db import connection, transaction

from tests.servers import PostgresServer


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
