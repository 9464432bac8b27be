"""The bare loops that capture is compared with: what the driver alone costs.

They match no trigger, make no id, keep no position, so the ratio says what the product adds. That
of Postgres stores each row by COPY; that of MongoDB only reads, as `watch()` hands changes out.
"""

import io
import time
from urllib.parse import urlsplit

import psycopg2
import psycopg2.extras
from pymongo.database import Database
from pymysqlreplication import BinLogStreamReader
from pymysqlreplication.row_event import WriteRowsEvent

from tests.databases import execute, is_mariadb


def capture(source_url: str, log_url: str, rows: int) -> float:
    """Rows per second from a slot to a table, for `rows` inserted rows that wait in the slot."""
    log = psycopg2.connect(log_url)
    with log.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS bare_log")
        cursor.execute("CREATE TABLE bare_log (id bigserial PRIMARY KEY, payload text)")
    log.commit()
    stream = psycopg2.connect(
        source_url, connection_factory=psycopg2.extras.LogicalReplicationConnection
    )
    reader = stream.cursor()
    options = {"proto_version": "1", "publication_names": "bench_bare"}
    reader.start_replication("bench_bare", decode=False, options=options)
    started = time.perf_counter()
    stored = 0
    lines: list[str] = []
    while stored < rows:
        message = reader.read_message()
        if message is None or message.payload[:1] != b"I":
            continue
        lines.append(_line(message.payload))
        if len(lines) == 1000 or stored + len(lines) == rows:
            with log, log.cursor() as cursor:
                cursor.copy_expert(
                    "COPY bare_log (payload) FROM STDIN", io.StringIO("".join(lines))
                )
            stored += len(lines)
            lines = []
    seconds = time.perf_counter() - started
    stream.close()
    log.close()
    return rows / seconds


def watch(database: Database, token: object, changes: int) -> float:  # type: ignore[type-arg]
    """Changes per second out of `watch()`, for `changes` that wait behind `token`."""
    with database.watch(full_document="updateLookup", resume_after=token) as stream:
        started = time.perf_counter()
        for _ in range(changes):
            stream.next()
        return changes / (time.perf_counter() - started)


def end_of_binary_log(url: str) -> tuple[str, int]:
    """File and offset of a server's binary log now."""
    file, offset = execute(url, "SHOW BINARY LOGS")[-1][:2]
    return str(file), int(offset)


def binary_log(url: str, end: tuple[str, int], rows: int) -> float:
    """Rows per second out of pymysqlreplication, for `rows` that wait behind a place in the log."""
    parts = urlsplit(url)
    reader = BinLogStreamReader(
        connection_settings={
            "host": parts.hostname,
            "port": parts.port,
            "user": parts.username,
            "passwd": parts.password,
        },
        server_id=4_000_000_000,
        is_mariadb=is_mariadb(url),
        resume_stream=True,
        log_file=end[0],
        log_pos=end[1],
        only_events=[WriteRowsEvent],
    )
    started = time.perf_counter()
    seen = 0
    for event in reader:
        seen += len(event.rows)
        if seen >= rows:
            break
    seconds = time.perf_counter() - started
    reader.close()
    return rows / seconds


def _line(payload: bytes) -> str:
    """The values of an Insert message, one after another, as a line of COPY."""
    values = []
    place = 8
    for _ in range(int.from_bytes(payload[6:8], "big")):
        kind = payload[place]
        place += 1
        if kind == 0x74:
            length = int.from_bytes(payload[place : place + 4], "big")
            values.append(payload[place + 4 : place + 4 + length].decode())
            place += 4 + length
    return '{"' + '","'.join(values) + '"}\n'
