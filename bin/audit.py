"""What `bin/audit` does: runs pip-audit, and tells what it found from what it could not ask."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

HERE = Path(__file__).resolve().parent
ACCEPTED = HERE / "audit-accepted"
# What the product and the demo are made of is among what the tests run with.
LISTS = ("requirements-dev.txt", "requirements-audit.txt")
# In what pip-audit, or the client beneath it, says when nobody answers.
_UNREACHABLE = ("Connection", "Timeout", "ProxyError", "SSLError", "ServiceError")


def accepted() -> list[str]:
    """The names of the vulnerabilities that are known to do no harm here."""
    names = []
    for line in ACCEPTED.read_text().splitlines():
        name, _, reason = line.strip().partition(" ")
        if not name or name.startswith("#"):
            continue
        if not reason.strip():
            stop(f"{ACCEPTED.name}: {name}: got no reason; allowed: why it does no harm here")
        names.append(name)
    return names


def audited(name: str, words: list[str]) -> list[dict[str, Any]]:
    """Each package of a list with its `vulns`, or why it was skipped; none if nobody answers."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes"]
        command += ["--progress-spinner", "off", "--format", "json", "--output", str(found)]
        command += ["--requirement", str(HERE.parent / name)]
        for each in accepted():
            command += ["--ignore-vuln", each]
        done = subprocess.run([*command, *words], capture_output=True, text=True)  # noqa: S603
        if found.exists():
            packages: list[dict[str, Any]] = json.loads(found.read_text())["dependencies"]
            return packages
    last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    if not any(word in last for word in _UNREACHABLE):
        stop(f"pip-audit failed: {last}")
    return []


def say(what: str) -> None:
    sys.stdout.write(f"audit: {what}\n")


def stop(why: str) -> NoReturn:
    sys.stderr.write(f"audit: {why}\n")
    raise SystemExit(1)


def main() -> None:
    told: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for name in LISTS:
        packages = audited(name, sys.argv[1:])
        known = {(e["name"], e["version"]): e["vulns"] for e in packages if "vulns" in e}
        if not known:
            say(
                f"NOTHING IS KNOWN of {name}: nobody tells here of vulnerabilities in packages;"
                " run bin/audit where the package index's own data can be reached"
            )
            break
        told |= known
        skipped = [each["name"] for each in packages if "vulns" not in each]
        if skipped:
            say(f"nothing is known of {', '.join(sorted(skipped))}")
    found = "".join(
        f"\n{package} {version}: {each['id']} ({', '.join(each['aliases']) or 'no other name'}),"
        f" mended in {', '.join(each['fix_versions']) or 'no version yet'}"
        for (package, version), all_known in told.items()
        for each in all_known
    )
    if found:
        stop(f"upgrade these, or say in bin/{ACCEPTED.name} why they do no harm here:{found}")
    if told:
        say(f"no vulnerability is known of {len(told)} packages")


if __name__ == "__main__":
    main()
