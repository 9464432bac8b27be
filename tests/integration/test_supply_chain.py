"""What the product is made of: the bill of materials, and what is known against it; and that
nothing is unpacked that nobody has signed.
"""

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]


def pins(name: str) -> dict[str, tuple[str, set[str]]]:
    """The packages of a list of requirements: version and hashes by name."""
    found = {}
    for line in (ROOT / name).read_text().replace("\\\n", " ").splitlines():
        pin = re.match(r"([\w.-]+)==([^ ;]+)", line)
        if pin is not None:
            found[pin[1]] = (pin[2], set(re.findall(r"--hash=sha256:(\w+)", line)))
    return found


def test_what_ships_is_what_the_tests_run_with() -> None:
    tested = pins("requirements-dev.txt")
    for name in ("requirements.txt", "requirements-demo.txt"):
        assert not [each for each, pin in pins(name).items() if tested[each] != pin], name


def test_the_bill_of_materials_names_every_package_with_its_hashes(tmp_path: Path) -> None:
    files = [tmp_path / "one.json", tmp_path / "two.json"]
    for file in files:
        subprocess.run([ROOT / "bin" / "sbom", file], check=True, capture_output=True)
    assert files[0].read_bytes() == files[1].read_bytes()
    bill = json.loads(files[0].read_text())
    assert (bill["bomFormat"], bill["metadata"]["component"]["name"]) == (
        "CycloneDX",
        "mission-control",
    )
    named = {
        each["name"]: (
            each["version"],
            {made["content"] for ref in each["externalReferences"] for made in ref["hashes"]},
        )
        for each in bill["components"]
    }
    assert named == pins("requirements.txt")


@contextmanager
def index_of_vulnerabilities(package: str) -> Iterator[str]:
    """Somebody who knows of one vulnerability, of `package`; in the words of OSV's API."""

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            known = asked["package"]["name"] == package
            body = json.dumps({"vulns": [_vulnerability(package)]} if known else {}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def _vulnerability(package: str) -> dict[str, Any]:
    events = [{"introduced": "0"}, {"fixed": "999.0"}]
    return {
        "id": "GHSA-none",
        "aliases": ["CVE-2026-0"],
        "summary": "made up",
        "details": "made up",
        "affected": [
            {
                "package": {"name": package, "ecosystem": "PyPI"},
                "ranges": [{"type": "ECOSYSTEM", "events": events}],
            }
        ],
    }


@pytest.fixture
def audit(tmp_path: Path) -> Path:
    """bin/audit in a folder of its own, where what is accepted may be written."""
    (tmp_path / "bin").mkdir()
    for each in ("audit", "audit.py", "audit-accepted", "environment"):
        shutil.copy(ROOT / "bin" / each, tmp_path / "bin" / each)
    for name in ("requirements-dev.txt", "requirements-audit.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    environment = ". bin/environment; make_environment var/audit requirements-audit.txt"
    subprocess.run(["bash", "-c", environment], cwd=ROOT, check=True, capture_output=True)
    (tmp_path / "var").symlink_to(ROOT / "var")
    return tmp_path / "bin" / "audit"


def run(audit: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([audit, *words], capture_output=True, text=True)


def test_a_known_vulnerability_fails_until_it_is_accepted_with_a_reason(audit: Path) -> None:
    with index_of_vulnerabilities("django") as url:
        words = ("--vulnerability-service", "osv", "--osv-url", url)
        failed = run(audit, *words)
        assert failed.returncode == 1
        version, _ = pins("requirements.txt")["django"]
        assert f"django {version}: CVE-2026-0 (GHSA-none), mended in 999.0" in failed.stderr
        accepted = audit.with_name("audit-accepted")
        with accepted.open("a") as file:
            file.write("CVE-2026-0\n")
        refused = run(audit, *words)
        assert refused.returncode == 1
        assert "CVE-2026-0: got no reason" in refused.stderr
        accepted.write_text("CVE-2026-0  It is made up.\n")
        passed = run(audit, *words)
    assert passed.returncode == 0, passed.stderr
    assert re.search(r"no vulnerability is known of \d{2,} packages", passed.stdout)


def test_where_nobody_can_be_asked_that_is_said_and_nothing_fails(audit: Path) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    done = run(audit, "--vulnerability-service", "osv", "--osv-url", nobody)
    assert done.returncode == 0, done.stderr
    assert "NOTHING IS KNOWN of requirements-dev.txt" in done.stdout
    assert "no vulnerability is known" not in done.stdout


def test_whatever_else_goes_wrong_fails(audit: Path) -> None:
    (audit.parent.parent / "requirements-dev.txt").write_text("django==5.2\n")
    done = run(audit)
    assert done.returncode == 1
    assert "pip-audit failed" in done.stderr


def test_packages_that_debian_has_not_signed_are_not_unpacked(tmp_path: Path) -> None:
    """A mirror that serves what anybody could have made."""
    suite = tmp_path / "debian" / "dists" / "bullseye"
    packages = suite / "main" / "binary-amd64" / "Packages"
    packages.parent.mkdir(parents=True)
    packages.write_text("Package: libssl1.1\nVersion: 1\nArchitecture: amd64\nFilename: it.deb\n")
    (suite / "Release").write_text(
        "Suite: bullseye\nCodename: bullseye\nComponents: main\nArchitectures: amd64\nSHA256:\n"
        f" {hashlib.sha256(packages.read_bytes()).hexdigest()} {packages.stat().st_size}"
        " main/binary-amd64/Packages\n"
    )
    sources = tmp_path / "sources.list"
    sources.write_text(f"deb [trusted=yes] file:{tmp_path}/debian bullseye main\n")
    lists = tmp_path / "lists"
    (lists / "partial").mkdir(parents=True)
    configuration = tmp_path / "apt.conf"
    configuration.write_text(
        f'Dir::Etc::sourcelist "{sources}";\nDir::Etc::sourceparts "/dev/null";\n'
        f'Dir::State::lists "{lists}";\n'
    )
    environment = {**os.environ, "APT_CONFIG": str(configuration)}
    subprocess.run(["apt-get", "update"], env=environment, check=True, capture_output=True)
    script = f". bin/environment; debian_files bullseye {shlex.quote(str(tmp_path / 'files'))}"
    done = subprocess.run(
        ["bash", "-c", f"{script} --alone libssl1.1"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "its signature is none of" in done.stderr
    assert not (tmp_path / "files" / ".complete").exists()
    assert not list((tmp_path / "files" / "root").iterdir())
