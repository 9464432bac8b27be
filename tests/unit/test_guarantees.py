"""What docs/explanation/guarantees.md promises names tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_guarantee_names_tests_that_exist() -> None:
    lines = (ROOT / "docs/explanation/guarantees.md").read_text().splitlines()
    rows = [line for line in lines if re.match(r"\| (?!fault|attack|---)", line)]
    assert rows
    written = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    defined = set(re.findall(r"^\s*def (test_\w+)", written, re.MULTILINE))
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row)
        assert named, f"nothing proves: {row}"
        assert set(named) <= defined, f"no such test: {set(named) - defined}"
