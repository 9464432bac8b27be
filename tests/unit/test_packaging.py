"""The files that start the product elsewhere: Procfile, Dockerfile, docker-compose.yml and bin/.

`docker compose config` is the judge where it is to be had; these tests hold what it would find, and
what it could not: that the files agree with each other and with the settings.
"""

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from demo.processes import procfile

ROOT = Path(__file__).resolve().parents[2]
PROCESSES = ("web", "capture", "worker", "beat")
# Read by the product, or by the programs that the Procfile and the image start.
SETTINGS_MODULE = (ROOT / "config" / "settings.py").read_text()

COMPOSE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["services", "volumes"],
    "properties": {
        "name": {"type": "string"},
        "volumes": {"type": "object"},
        "services": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "required": ["image", "restart"],
                "additionalProperties": False,
                "properties": {
                    "build": {"type": "string"},
                    "image": {"type": "string"},
                    "init": {"type": "boolean"},
                    "read_only": {"type": "boolean"},
                    "tmpfs": {"type": "array", "items": {"type": "string"}},
                    "cap_drop": {"type": "array", "items": {"type": "string"}},
                    "security_opt": {"type": "array", "items": {"type": "string"}},
                    "profiles": {"type": "array", "items": {"type": "string"}},
                    "restart": {"enum": ["no", "always", "on-failure", "unless-stopped"]},
                    "command": {"type": "array", "items": {"type": "string"}},
                    "ports": {"type": "array", "items": {"type": "string"}},
                    "volumes": {"type": "array", "items": {"type": "string"}},
                    "environment": {
                        "type": "object",
                        "additionalProperties": {"type": "string"},
                    },
                    "depends_on": {
                        "type": "object",
                        "additionalProperties": {
                            "type": "object",
                            "required": ["condition"],
                            "additionalProperties": False,
                            "properties": {
                                "condition": {
                                    "enum": ["service_healthy", "service_completed_successfully"]
                                }
                            },
                        },
                    },
                    "healthcheck": {
                        "type": "object",
                        "required": ["test", "interval", "timeout", "retries"],
                        "additionalProperties": False,
                        "properties": {
                            "test": {"type": "array", "items": {"type": "string"}},
                            "interval": {"type": "string", "pattern": "^[0-9]+s$"},
                            "timeout": {"type": "string", "pattern": "^[0-9]+s$"},
                            "start_period": {"type": "string", "pattern": "^[0-9]+s$"},
                            "retries": {"type": "integer"},
                        },
                    },
                },
            },
        },
    },
    "patternProperties": {"^x-": {}},
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def compose() -> Any:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


@pytest.fixture(scope="module")
def dockerfile() -> str:
    return (ROOT / "Dockerfile").read_text().replace("\\\n", " ")


def test_the_procfile_names_the_four_processes_and_replaces_its_shell_by_each() -> None:
    assert tuple(procfile()) == PROCESSES
    assert all(command.startswith("exec ") for command in procfile().values())


def test_the_compose_file_is_well_formed(compose: Any) -> None:
    jsonschema.validate(compose, COMPOSE_SCHEMA)


def test_compose_waits_only_for_services_that_can_be_waited_for(compose: Any) -> None:
    services = compose["services"]
    for service in services.values():
        for name, wanted in service.get("depends_on", {}).items():
            if wanted["condition"] == "service_healthy":
                assert "healthcheck" in services[name]
            else:
                assert services[name]["restart"] == "no"


def test_compose_starts_what_the_procfile_starts(compose: Any) -> None:
    services = compose["services"]
    always = {name for name, service in services.items() if "profiles" not in service}
    assert always == {*PROCESSES, "postgres", "redis", "migrate"}
    for name in ("capture", "worker", "beat"):
        assert services[name]["command"] == shlex.split(procfile()[name])[1:]


def test_the_image_starts_the_web_process_as_the_procfile_does(dockerfile: str) -> None:
    found = re.search(r"^CMD (\[.*\])$", dockerfile, re.MULTILINE)
    assert found is not None
    command = yaml.safe_load(found[1])
    assert command[:2] == shlex.split(procfile()["web"])[1:3]
    assert "--no-control-socket" in command
    assert "--no-control-socket" in procfile()["web"]


def test_compose_keeps_the_log_in_a_named_volume(compose: Any) -> None:
    [mount] = compose["services"]["postgres"]["volumes"]
    assert mount.split(":")[0] in compose["volumes"]


def test_compose_makes_the_server_stream_logically(compose: Any) -> None:
    assert "wal_level=logical" in compose["services"]["postgres"]["command"]


def test_compose_keeps_the_sources_to_try_in_profiles_and_named_volumes(compose: Any) -> None:
    for name in ("mysql", "mongodb"):
        assert compose["services"][name]["profiles"] == [name]
        [mount] = compose["services"][name]["volumes"]
        assert mount.split(":")[0] in compose["volumes"]


def test_compose_has_a_mysql_ready_to_be_captured(compose: Any) -> None:
    assert set(compose["services"]["mysql"]["command"][1:]) == {
        "--gtid-mode=ON",
        "--enforce-gtid-consistency=ON",
        "--binlog-row-metadata=FULL",
    }


def test_the_user_that_compose_makes_in_mysql_has_the_rights_of_the_guide(compose: Any) -> None:
    guide = (ROOT / "docs" / "guides" / "mysql.md").read_text()
    as_a_source, _, _ = guide.partition("## As the Eventing DB")
    named = re.findall(r"^ +GRANT (.+) TO 'mission_control'@'%';$", as_a_source, re.MULTILINE)
    assert len(named) == 2
    kind, made = compose["services"]["mysql"]["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    assert re.findall(r"GRANT (.+) TO mission_control;", made) == named
    subprocess.run(["sh", "-n", "-c", made.replace("$$", "$")], check=True)
    # A single dollar sign is compose's own, and would be put in before the shell sees it.
    assert "$" not in made.replace("$$", "")


def test_compose_has_a_mongodb_that_makes_itself_a_replica_set_of_one(compose: Any) -> None:
    mongodb = compose["services"]["mongodb"]
    name = mongodb["command"][mongodb["command"].index("--replSet") + 1]
    program, *_, script = mongodb["healthcheck"]["test"][1:]
    assert program == "mongosh"
    # Under the name by which the product's containers reach it: drivers follow what the set says.
    assert f"rs.initiate({{_id: '{name}', members: [{{_id: 0, host: 'mongodb:27017'}}]}})" in script
    assert "isWritablePrimary" in script


def test_compose_hands_every_setting_on_but_those_of_the_container_itself(compose: Any) -> None:
    read = re.findall(r'\b_\w+\("([A-Z_]+)"|"(OIDC_\w+)"', SETTINGS_MODULE)
    settings = {name for names in read for name in names if name}
    assert set(compose["services"]["web"]["environment"]) == settings - {"DEBUG", "PORT"}


def test_secrets_have_no_default(compose: Any) -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    for secret in ("POSTGRES_PASSWORD", "SECRET_KEY", "ENCRYPTION_KEYS"):
        assert f"${{{secret}:?" in text
        assert f"${{{secret}:-" not in text
        assert re.search(rf"^{secret}=$", (ROOT / ".env.example").read_text(), re.MULTILINE)


def test_the_example_environment_holds_only_what_compose_reads() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    example = (ROOT / ".env.example").read_text()
    for name in re.findall(r"^([A-Z_]+)=", example, re.MULTILINE):
        assert f"${{{name}:" in text, name


def test_the_image_runs_as_nobody_in_particular(dockerfile: str) -> None:
    lines = dockerfile.splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users
    assert users[-1] not in ("root", "0")
    assert any(f" {users[-1]}" in line for line in lines if line.startswith("RUN useradd"))


def test_the_product_s_containers_may_do_nothing_that_they_need_not(compose: Any) -> None:
    for name in (*PROCESSES, "migrate"):
        service = compose["services"][name]
        assert service["read_only"] is True
        assert service["tmpfs"] == ["/tmp"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


# What a unit says of what it is and how it is run; all else is there to close it.
_OF_EACH_UNIT = {
    *("Description", "After", "Wants", "WantedBy"),
    *("User", "WorkingDirectory", "EnvironmentFile", "ExecStart"),
    *("Restart", "RestartSec", "TimeoutStopSec", "LimitNOFILE"),
}
_ON = (
    *("NoNewPrivileges", "ProtectHome", "PrivateTmp", "PrivateDevices", "PrivateUsers"),
    *("ProtectHostname", "ProtectClock", "ProtectKernelTunables", "ProtectKernelModules"),
    *("ProtectKernelLogs", "ProtectControlGroups", "RestrictNamespaces"),
    *("RestrictRealtime", "RestrictSUIDSGID", "LockPersonality", "RemoveIPC"),
)
_CLOSED = {
    **{name: [""] for name in ("CapabilityBoundingSet", "AmbientCapabilities")},
    **{name: ["yes"] for name in _ON},
    "ProtectSystem": ["strict"],
    "ProtectProc": ["invisible"],
    "RestrictAddressFamilies": ["AF_INET AF_INET6 AF_UNIX"],
    "SystemCallArchitectures": ["native"],
    "SystemCallFilter": ["@system-service", "~@privileged"],
    "SystemCallErrorNumber": ["EPERM"],
    "UMask": ["0077"],
}


def _units() -> dict[str, dict[str, list[str]]]:
    units = {}
    for path in (ROOT / "deploy" / "systemd").glob("*.service"):
        settings: dict[str, list[str]] = {}
        for line in path.read_text().splitlines():
            name, equals, value = line.partition("=")
            if equals and not line.startswith("#"):
                settings.setdefault(name, []).append(value)
        units[path.stem.removeprefix("mission-control-")] = settings
    return units


def test_systemd_starts_what_the_procfile_starts_as_closed_as_the_container() -> None:
    units = _units()
    assert set(units) == set(PROCESSES)
    for name, settings in units.items():
        [command] = settings["ExecStart"]
        words = command.replace("/opt/mission-control/.venv/bin/", "").split()
        assert words == shlex.split(procfile()[name].replace("${", "$").replace("}", ""))[1:] or (
            name == "web" and words[:2] == ["gunicorn", "config.wsgi"]
        )
        assert settings["User"] == ["mission-control"]
        # Nothing beside it either: a setting may be given twice, and the last one counts.
        assert {key: on for key, on in settings.items() if key not in _OF_EACH_UNIT} == _CLOSED


def test_the_image_copies_only_what_is_there_and_let_in(dockerfile: str) -> None:
    let_in = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = set()
    for line in dockerfile.splitlines():
        if line.startswith("COPY "):
            copied.update(line.split()[1:-1])
    assert copied == let_in
    assert all((ROOT / name).exists() for name in copied)


def test_the_image_has_a_python_that_the_project_allows(dockerfile: str) -> None:
    version = re.search(r"^FROM python:3\.(\d+)-slim$", dockerfile, re.MULTILINE)
    assert version is not None
    assert int(version[1]) >= 11


@pytest.mark.parametrize(
    "requirements", ["requirements", "requirements-demo", "requirements-dev", "requirements-audit"]
)
def test_every_requirement_is_pinned_with_a_hash(requirements: str) -> None:
    text = (ROOT / f"{requirements}.txt").read_text()
    pins = re.findall(r"^[a-z0-9][^\n]*\n(?:[ \t]+[^\n]*\n)*", text, re.MULTILINE | re.IGNORECASE)
    assert len(pins) > 20
    for pin in pins:
        assert "==" in pin.split("\n")[0]
        assert "--hash=sha256:" in pin


@pytest.mark.parametrize(
    "script",
    ["bin/demo", "bin/test", "bin/bench", "bin/audit", "bin/sbom", "bin/environment", ".ci/run"],
)
def test_the_commands_are_well_formed_shell(script: str) -> None:
    subprocess.run(["bash", "-n", ROOT / script], check=True)
    assert script == "bin/environment" or os.access(ROOT / script, os.X_OK)
