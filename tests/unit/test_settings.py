"""The environment as an operator gives it: what is malformed stops the process with one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from demo.processes import ROOT, Processes, procfile
from tests.ports import free_port
from tests.waiting import wait_until

# With a broker that nobody reaches, and the programs of this very Python.
PLACES = {
    "DJANGO_SETTINGS_MODULE": "config.settings",
    "REDIS_URL": "redis://127.0.0.1:1",
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
}


def start(variable: str, value: str) -> "subprocess.CompletedProcess[str]":
    """A process that reads the settings with this one in its environment."""
    return subprocess.run(
        [sys.executable, "-c", "import config.settings"],
        cwd=ROOT,
        env={**os.environ, variable: value},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("REDIS_URL", "http://broker:6379/0"),
        ("REDIS_URL", "redis://"),
        ("REDIS_URL", "redis://broker:port/0"),
        ("REDIS_URL", "redis://broker/first"),
        ("REDIS_URL", "amqp://user:password@/hooks"),
        ("REDIS_URL", "unix://"),
        ("ALLOWED_HOSTS", "https://mc.example.com"),
        ("ALLOWED_HOSTS", "one.example.com two.example.com"),
        ("CSRF_TRUSTED_ORIGINS", "https://"),
        ("CSRF_TRUSTED_ORIGINS", "mc.example.com"),
        ("LOG_LEVEL", "LOUD"),
        ("LOG_FORMAT", "xml"),
        ("PORT", "\u0663\u0660\u0660"),
        ("PORT", "65536"),
        ("WEB_CONCURRENCY", "0"),
        ("WEB_CONCURRENCY", "two"),
        ("ENVIRONMENT_NAME", "x" * 25),
        ("ENVIRONMENT_NAME", "two\nlines"),
    ],
)
def test_a_malformed_setting_stops_the_process_with_one_line(variable: str, value: str) -> None:
    done = start(variable, value)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{variable} is missing or malformed; allowed: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["web", "capture", "worker", "beat"])
def test_every_process_ends_with_that_line_and_is_not_started_again(name: str) -> None:
    done = subprocess.run(
        ["sh", "-c", procfile()[name]],
        cwd=ROOT,
        env={**os.environ, **PLACES, "PORT": "x"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr == "PORT is missing or malformed; allowed: a whole number from 1 to 65535\n"


@pytest.mark.parametrize(("name", "said"), [("web", "Booting worker"), ("beat", "Trying again")])
def test_whatever_a_process_says_is_json_where_that_is_asked_for(
    name: str, said: str, tmp_path: Path
) -> None:
    asked = {"BIND": "127.0.0.1", "PORT": str(free_port()), "LOG_FORMAT": "json"}
    processes = Processes({name: procfile()[name]}, {**PLACES, **asked}, tmp_path)
    processes.start(name)
    try:
        wait_until(lambda: said in processes.log(name).read_text(), 60, f"{name} says nothing")
    finally:
        processes.stop_all()
    for line in processes.log(name).read_text().splitlines():
        assert json.loads(line)["event"]


def test_a_worker_that_is_started_by_hand_says_nothing_but_json_either(tmp_path: Path) -> None:
    """As root it also warns of that, and would do so in eight lines."""
    command = {"worker": "exec celery -A config worker"}
    processes = Processes(command, {**PLACES, "LOG_FORMAT": "json"}, tmp_path)
    processes.start("worker")
    try:
        wait_until(lambda: "Trying again" in processes.log("worker").read_text(), 60, "no word")
        said = processes.log("worker").read_text()
    finally:
        processes.stop_all()
    for line in said[: said.rindex("\n")].splitlines():
        assert json.loads(line)["event"]


def test_warnings_are_lines_of_the_log() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import django, warnings; django.setup(); warnings.warn('a\\nb')"],
        cwd=ROOT,
        env={**os.environ, **PLACES, "LOG_FORMAT": "json"},
        capture_output=True,
        text=True,
    )
    (line,) = done.stderr.splitlines()
    assert json.loads(line)["logger"] == "py.warnings"


def test_no_level_lets_libraries_quote_rows_and_secrets() -> None:
    """MongoDB's driver logs documents, the HTTP client addresses: both at DEBUG."""
    asks = (
        "import django, logging; django.setup(); print(*(logging.getLogger(name).isEnabledFor(10)"
    )
    asks += " for name in ('eventing.capture', 'pymongo.command', 'urllib3.connectionpool')))"
    done = subprocess.run(
        [sys.executable, "-c", asks],
        cwd=ROOT,
        env={**os.environ, **PLACES, "LOG_LEVEL": "DEBUG"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["True", "False", "False"]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("REDIS_URL", "redis://broker"),
        ("REDIS_URL", "rediss://:secret@broker:6380/3?ssl_cert_reqs=required"),
        ("REDIS_URL", "unix:///run/redis.sock?db=1"),
        ("REDIS_URL", "amqp://user:password@broker//"),
        ("REDIS_URL", "amqps://user:password@broker:5671/hooks"),
        ("ALLOWED_HOSTS", ".example.com, [::1], *"),
        ("CSRF_TRUSTED_ORIGINS", "https://*.example.com,http://mc:8000"),
        ("LOG_LEVEL", "debug"),
        ("LOG_FORMAT", "JSON"),
        ("PORT", "8000"),
        ("ENVIRONMENT_NAME", "Europe, production"),
        ("ENVIRONMENT_NAME", ""),
    ],
)
def test_what_is_well_formed_is_taken(variable: str, value: str) -> None:
    done = start(variable, value)
    assert (done.returncode, done.stderr) == (0, "")
