"""Connection strings: taken apart and put together again, and which name the same database."""

import pytest

from eventing.changes import DatabaseType
from eventing.connection_strings import ConnectionString


@pytest.mark.parametrize(
    ("type", "url", "place"),
    [
        ("postgres", "postgresql://a:p%40ss%2Fword@db.example.com:5432/orders?sslmode=require",
         "db.example.com:5432/orders"),
        ("postgres", "postgresql://a@[::1]:5432/orders", "[::1]:5432/orders"),
        ("mysql", "mysql://root@db/shop?ssl-mode=REQUIRED&ssl-ca=%2Fca.pem", "db/shop"),
        ("mongodb", "mongodb://a:b@one:27017,two:27018/shop?replicaSet=rs0&tls=true",
         "one:27017,two:27018/shop"),
        ("mongodb", "mongodb+srv://a:b@cluster.example.com/shop", "cluster.example.com/shop"),
    ],
)  # fmt: skip
def test_a_connection_string_survives_being_taken_apart(
    type: DatabaseType, url: str, place: str
) -> None:
    parsed = ConnectionString.parse(type, url)
    assert ConnectionString.parse(type, parsed.url) == parsed
    assert parsed.place == place
    assert "p@ss" not in repr(parsed)


@pytest.mark.parametrize(
    ("type", "one", "other", "same"),
    [
        ("postgres", "postgres://a:b@db/shop", "postgresql://c:d@db:5432/shop?sslmode=require",
         True),
        ("postgres", "postgres://a@db/shop", "postgres://a@other/shop", False),
        ("postgres", "postgres:///shop?host=/one", "postgres:///shop?host=/two", False),
        ("mysql", "mysql://a@db/shop", "mariadb://b@db:3306/shop", True),
        ("mysql", "mysql://a@db/shop", "mysql://a@db/other", False),
        ("mongodb", "mongodb://one/shop", "mongodb://two:27018,ONE:27017/shop", True),
        ("mongodb", "mongodb://one/shop", "mongodb://two/shop", False),
        ("mongodb", "mongodb+srv://c.example.com/shop", "mongodb+srv://c.example.com/shop", True),
    ],
)  # fmt: skip
def test_which_connection_strings_name_the_same_database(
    type: DatabaseType, one: str, other: str, same: bool
) -> None:
    first, second = (ConnectionString.parse(type, url) for url in (one, other))
    assert first.names_the_same_database(second) is same


def test_what_is_no_address_is_refused() -> None:
    with pytest.raises(ValueError, match=r"port|Port"):
        ConnectionString.parse("mysql", "mysql://host:many/shop")
