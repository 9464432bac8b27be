"""What docs/explanation/guarantees.md promises names tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# The rows of a table whose last column is headed so, up to the next empty line.
PROVED = re.compile(r"^\|.*\| proved by \|\n\|[-| ]+\|\n((?:\|.*\n)+)", re.MULTILINE)


def test_every_guarantee_names_tests_that_exist() -> None:
    text = (ROOT / "docs/explanation/guarantees.md").read_text()
    rows = "".join(PROVED.findall(text)).splitlines()
    assert rows
    written = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for contract in ("log_contract.py", "source_contract.py"):
        written += (ROOT / "tests/integration" / contract).read_text()
    defined = set(re.findall(r"^\s*def (test_\w+)", written, re.MULTILINE))
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row)
        assert named, f"nothing proves: {row}"
        assert set(named) <= defined, f"no such test: {set(named) - defined}"
