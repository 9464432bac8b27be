"""What may be entered as a database, and what connecting to one cannot be used for."""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from eventing.changes import DatabaseType
from eventing.connection_strings import ConnectionString
from eventing.definitions import parse_database
from eventing.dialing import refusal
from eventing.doctor import check, passes
from eventing.logs import log_at
from eventing.logs.base import LogUnavailable
from eventing.problems import InvalidInput
from tests.island import on_the_island
from tests.servers import ExternalPostgres, PostgresServer

PUBLIC = "93.184.215.14"
# At which nobody answers, in some tests.
DEAD = [f"93.184.216.{number}" for number in range(1, 13)]
NEVER = [
    "169.254.169.254",
    "169.254.1.1",
    "fe80::1",
    "fd00:ec2::254",
    "168.63.129.16",
    "100.100.100.200",
    "224.0.0.1",
    "255.255.255.255",
    "240.0.0.1",
    "ff02::1",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "64:ff9b:1::a9fe:a9fe",
    "64:ff9b:1:1:2:3:a9fe:a9fe",
    "64:ff9b:1:a9fe:a9:fe00::",
    "64:ff9b:1:a9:fe:a9fe::",
    "64:ff9b:1::a9:fea9:fe00:0",
    "::169.254.169.254",
    # Teredo, with the metadata address as its server, and as its client (inverted).
    "2001:0:a9fe:a9fe::1",
    "2001:0:5db8:d70e::5601:5601",
]
NAT64 = ["64:ff9b::a00:5", "64:ff9b:1::a00:5", "64:ff9b:1:a00:0:500::"]
LET_IN = ["127.0.0.1", "::1", "10.0.0.5", "192.168.1.1", "100.64.0.1", "fd12::1", PUBLIC, *NAT64]


@pytest.mark.parametrize("address", NEVER)
def test_no_database_is_looked_for_at_an_address_that_is_none_s(address: str) -> None:
    assert "no database is connected to there" in (refusal(address) or "")


@pytest.mark.parametrize("address", LET_IN)
def test_databases_of_the_machine_and_of_private_networks_are_reached(address: str) -> None:
    assert refusal(address) is None


def definition(kind: DatabaseType, url: str) -> Any:
    return parse_database({"alias": "a", "type": kind, "url": url}, {})


URLS: dict[DatabaseType, str] = {
    "postgres": "postgresql://u:p@{}:8080/shop",
    "mysql": "mysql://u:p@{}:8080/shop",
    "mongodb": "mongodb://u:p@{}:8080/shop",
}


@pytest.mark.parametrize("kind", URLS)
@pytest.mark.parametrize("host", ["169.254.169.254", "[::ffff:169.254.169.254]", "0xA9FEA9FE"])
def test_the_doctor_says_why_it_does_not_even_connect(kind: DatabaseType, host: str) -> None:
    findings = check(definition(kind, URLS[kind].format(host)))
    assert not passes(findings)
    assert "no database is connected to there" in findings[0].what


@pytest.mark.parametrize(
    "options",
    [
        "host=169.254.169.254",
        "hostaddr=169.254.169.254",
        "host=127.0.0.1&host=169.254.169.254",
        "host=127.0.0.1,169.254.169.254",
    ],
)
def test_an_option_of_postgres_leads_nowhere_else(options: str) -> None:
    findings = check(definition("postgres", f"postgresql://u:p@127.0.0.1:1/shop?{options}"))
    assert "no database is connected to there" in findings[0].what


@pytest.mark.parametrize("kind", URLS)
def test_a_name_that_is_bound_anew_is_connected_to_where_it_was_looked_at(
    kind: DatabaseType,
) -> None:
    answers: list[Any] = [[PUBLIC], ["169.254.169.254"]]
    url = URLS[kind].format("rebound.test")
    [found] = on_the_island({"name": "rebound.test", "answers": answers}, {"check": [kind, url]})
    assert set(found["knocked_at"]) <= {PUBLIC}


@pytest.mark.parametrize(
    "member", ["169.254.169.254:8080", "[::ffff:169.254.169.254]:8080", "inside.test:8080"]
)
def test_a_member_that_a_mongodb_tells_of_is_not_connected_to_where_no_database_is(
    member: str,
) -> None:
    url = URLS["mongodb"].format(PUBLIC)
    [found] = on_the_island(
        {"name": "inside.test", "answers": [["169.254.169.254"]]},
        {"announced": [f"{PUBLIC}:8080", member]},
        {"check": ["mongodb", url]},
    )
    assert set(found["knocked_at"]) == {PUBLIC}
    assert "no database is connected to there" in found["found"][0]


def test_a_member_that_a_mongodb_tells_of_is_no_socket_of_the_machine(tmp_path: Path) -> None:
    path = str(tmp_path / "machine.sock")
    with socket.socket(socket.AF_UNIX) as knocks:
        knocks.bind(path)
        knocks.listen()
        knocks.settimeout(0)
        [found] = on_the_island(
            {"announced": [f"{PUBLIC}:8080", path]},
            {"check": ["mongodb", URLS["mongodb"].format(PUBLIC)]},
        )
        with pytest.raises(BlockingIOError):
            knocks.accept()
    assert set(found["knocked_at"]) == {PUBLIC}


@pytest.mark.parametrize("kind", URLS)
def test_a_name_leads_to_no_address_that_is_no_database_s(kind: DatabaseType) -> None:
    names: list[dict[str, Any]] = [
        {"name": "inside.test", "answers": [["169.254.169.254", "127.0.0.1"]]},
        {"name": "chain.test", "answers": [["inside.test"]]},
    ]
    hosts = ("inside.test", "chain.test")
    for found in on_the_island(
        *names, *({"check": [kind, URLS[kind].format(host)]} for host in hosts)
    ):
        assert found["knocked_at"] == []
        assert "no database is connected to there" in found["found"][0]


@pytest.mark.parametrize("kind", URLS)
def test_a_database_is_found_though_not_all_addresses_of_its_name_answer(
    kind: DatabaseType,
) -> None:
    # MongoDB's driver tries them one after another, and has time for two.
    dead = DEAD[:2] if kind == "mongodb" else DEAD
    names = [
        {"name": "mixed.test", "answers": [[*dead, PUBLIC]]},
        {"name": "dead.test", "answers": [DEAD]},
    ]
    nobody, mixed = on_the_island(
        {"dead": DEAD},
        {"announced": [f"{PUBLIC}:8080"]},
        *names,
        *({"check": [kind, URLS[kind].format(host)]} for host in ("dead.test", "mixed.test")),
    )
    assert nobody["knocked_at"] == []
    assert "timed out" in nobody["found"][0] or "no server answers" in nobody["found"][0]
    assert set(mixed["knocked_at"]) == {PUBLIC}
    # A look at a MongoDB may take 20 s in all; twelve addresses one after another would take more.
    assert max(nobody["seconds"], mixed["seconds"]) < 30


# What is written in an address


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p@db/shop?passfile=/etc/passwd",
        "postgresql://u:p@db/shop?service=x",
        "postgresql://u:p@db/shop?servicefile=/etc/passwd",
        "postgresql://u:p@db/shop?sslkeylogfile=/tmp/keys",
        "postgresql://u:p@db/shop?dbname=other",
        "postgresql://u:p@db/shop?replication=database",
        "postgresql://u:p@db/shop?%70assfile=/etc/passwd",
        "postgresql://u:p@db/shop?sslmode=require#&passfile=/etc/passwd",
        "postgresql://u%0d%0aFLUSHALL%0d%0a:p@127.0.0.1:6379/shop",
        "postgresql://u:p@127.0.0.1:6379/shop%0aFLUSHALL%0a",
        "postgresql://u:p@127.0.0.1:6379/shop?application_name=%0aFLUSHALL%0a",
        "postgresql://u\n:p@127.0.0.1:6379/shop",
        "postgresql://u:p%00@127.0.0.1:6379/shop",
    ],
)
def test_an_address_that_libpq_would_make_more_of_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match=r"url: got an? |url: got the option") as refused:
        definition("postgres", url)
    assert "FLUSHALL" not in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "url"),
    [
        ("mysql", "mysql://u%0aFLUSHALL%0a:p@127.0.0.1:6379/shop"),
        ("mongodb", "mongodb://u%0aFLUSHALL%0a:p@127.0.0.1:6379/shop"),
        ("mongodb", "mongodb://u:p@127.0.0.1:6379/shop?appName=%0aFLUSHALL%0a"),
    ],
)
def test_no_address_speaks_to_what_else_listens(kind: DatabaseType, url: str) -> None:
    with pytest.raises(InvalidInput, match="control characters"):
        definition(kind, url)


@pytest.mark.parametrize(
    ("kind", "url", "local"),
    [
        ("postgres", "postgresql://u:p@db/shop?sslmode=verify-full&sslrootcert=system", ()),
        ("postgres", "postgresql://u:p@db/shop?sslrootcert=/etc/ssl/ca.pem", ("sslrootcert",)),
        ("postgres", "postgresql://u@db/shop?sslcert=/a&sslkey=/b", ("sslcert", "sslkey")),
        ("postgres", "postgresql:///shop", ("a local socket",)),
        ("postgres", "postgresql://u:p@/shop", ("a local socket",)),
        ("postgres", "postgresql://%2Fvar%2Frun%2Fpostgresql/shop", ("a local socket",)),
        ("postgres", "postgresql://db/shop?host=/var/run/postgresql", ("a local socket",)),
        ("postgres", "postgresql://db/shop?host=", ("a local socket",)),
        ("postgres", "postgresql://db,/shop", ("a local socket",)),
        ("postgres", "postgresql://u@:1/shop?host=@abstract", ("a local socket",)),
        ("mysql", "mysql://u:p@db/shop?ssl-mode=REQUIRED", ()),
        ("mysql", "mysql://u:p@db/shop?ssl-ca=/ca&ssl-key=/k", ("ssl-ca", "ssl-key")),
        ("mongodb", "mongodb://u:p@one,two/shop?tls=true&authSource=admin", ()),
        ("mongodb", "mongodb://db/shop?TLSCertificateKeyFile=/k", ("TLSCertificateKeyFile",)),
        ("mongodb", "mongodb://db/shop?authMechanism=MONGODB-AWS", ("authMechanism",)),
        (
            "mongodb",
            "mongodb://db/shop?authMechanism=MONGODB-OIDC&authMechanismProperties=ENVIRONMENT:gcp",
            ("authMechanism", "authMechanismProperties"),
        ),
        ("mongodb", "mongodb://%2Ftmp%2Fmongodb-27017.sock/shop", ("a local socket",)),
        ("mongodb", "mongodb://..%2Frun%2Fmachine.sock/shop", ("a local socket",)),
        ("mongodb", "mongodb://db,machine.sock/shop", ("a local socket",)),
    ],
)
def test_what_of_an_address_means_the_machine_itself_is_known(
    kind: DatabaseType, url: str, local: tuple[str, ...]
) -> None:
    assert ConnectionString.parse(kind, url).local_parts == local


# What servers may not learn


def test_passwords_that_only_this_machine_knows_are_sent_to_no_source(
    postgres_server: PostgresServer | ExternalPostgres,
    source_database: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    parts = urlsplit(source_database)
    password = parts.password or ""
    file = tmp_path / "pgpass"
    file.write_text(f"*:*:*:*:{password}\n")
    file.chmod(0o600)
    monkeypatch.setenv("PGPASSWORD", password)
    monkeypatch.setenv("PGPASSFILE", str(file))
    without = source_database.replace(f":{password}@", "@")
    assert without != source_database
    findings = check(definition("postgres", without))
    assert "no password supplied" in findings[0].what
    with pytest.raises(LogUnavailable, match="no password supplied"):
        log_at("postgres", without).make_tables("owner")


class LoadsFiles:
    """A MySQL that asks for a file of its client in answer to every statement."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.received = b""
        self.ended = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError), self._listener:
            connection, _ = self._listener.accept()
            with connection:
                greeting = (
                    b"\x0a8.0.0\x00\x01\x00\x00\x00saltsalt\x00\xff\xf7\xff\x02\x00\xff\xdf\x15"
                    + b"\x00" * 10
                    + b"saltsaltsalt\x00mysql_native_password\x00"
                )
                self._send(connection, 0, greeting)
                connection.recv(65536)
                self._send(connection, 2, b"\x00\x00\x00\x02\x00\x00\x00")
                while data := connection.recv(65536):
                    self.received += data
                    self._send(connection, 1, b"\xfb" + self._file.encode())
        self.ended.set()

    def _send(self, connection: socket.socket, number: int, body: bytes) -> None:
        connection.sendall(struct.pack("<I", len(body))[:3] + bytes([number]) + body)


def test_a_mysql_that_asks_for_a_file_of_ours_gets_none(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("planted")
    server = LoadsFiles(str(file))
    url = f"mysql://u:p@127.0.0.1:{server.port}/shop?ssl-mode=DISABLED"
    findings = check(definition("mysql", url))
    assert server.ended.wait(10)
    assert not passes(findings)
    assert b"SET NAMES" in server.received
    assert b"planted" not in server.received


HOSTILE = [
    b"",
    b"\x00",
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"-ERR unknown command\r\n" * 100,
    b"\xff" * 100_000,
    b"\x00" * 100_000,
    b"E" + struct.pack(">I", 2**31 - 1) + b"S" * 1000,
    b"R\x00\x00\x00\x08\x00\x00\x00\x00" * 50,
    struct.pack("<I", 5)[:3] + b"\x00\x0a8.0",
    struct.pack("<I", 0xFFFFFF)[:3] + b"\x00" + b"\x0a" * 1000,
    struct.pack("<IIII", 2**31 - 1, 1, 1, 2013) + b"\x00" * 1000,
    struct.pack("<IIII", 26, 1, 1, 2013) + b"\x00" * 1000,
]


@pytest.fixture
def speaker() -> Iterator[Any]:
    """Starts a server that says what it is given to everyone, and says nothing more."""
    listeners = []

    def start(words: bytes) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with contextlib.suppress(OSError), connection:
                        connection.sendall(words)
                        connection.shutdown(socket.SHUT_WR)
                        connection.settimeout(0.2)
                        connection.recv(65536)

        threading.Thread(target=serve, daemon=True).start()
        port: int = listener.getsockname()[1]
        return port

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@pytest.mark.parametrize("kind", URLS)
def test_what_is_no_database_is_a_finding_without_the_words_it_spoke(
    kind: DatabaseType, speaker: Any
) -> None:
    urls = [
        URLS[kind].format("127.0.0.1").replace(":8080", f":{speaker(words)}") for words in HOSTILE
    ]
    # MongoDB's driver tries for seconds.
    with ThreadPoolExecutor(len(urls)) as threads:
        of_each = list(threads.map(lambda url: check(definition(kind, url)), urls))
    for words, findings in zip(HOSTILE, of_each, strict=True):
        assert not passes(findings), words
        told = " ".join(finding.what for finding in findings)
        assert "OpenSSH" not in told
        assert "unknown command" not in told
