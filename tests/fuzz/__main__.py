"""`python -m tests.fuzz TARGET [libFuzzer's options]`: bad input without end, led by coverage.

`-max_total_time=300` stops after five minutes; a crash leaves its input in the folder it ran in.
"""

import os
import secrets
import sys
import tempfile
from pathlib import Path

import atheris

_STAND_INS = {
    "DJANGO_SETTINGS_MODULE": "config.settings",
    "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing",
    "REDIS_URL": "redis://127.0.0.1:1",
}


def main() -> None:
    for name, value in _STAND_INS.items():
        os.environ.setdefault(name, value)
    for name in ("SECRET_KEY", "ENCRYPTION_KEYS"):
        os.environ.setdefault(name, secrets.token_urlsafe(48))
    import django

    with atheris.instrument_imports(include=["eventing", "webui"]):
        django.setup()
        from tests.fuzz.targets import SEEDS, TARGETS
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit("name one of: " + ", ".join(TARGETS))
    target = sys.argv.pop(1)
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(SEEDS[target]):
            (Path(folder) / str(number)).write_bytes(seed)
        atheris.Setup([*sys.argv, folder], TARGETS[target])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
