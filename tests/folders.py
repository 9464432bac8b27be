"""Where the tests' servers keep their files: in memory where there is plenty of it. Making and
dropping the files of databases is most of what many tests take.

The benchmarks do not ask for it, and so measure what a disk takes.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

import psutil

# Names the folder in which a process makes its temporary ones; the processes of one run share it.
FOLDER: Final = "TEST_FOLDER"
_MEMORY: Final = Path("/dev/shm")
_PREFIX: Final = "mission-control-tests-of-"
# The servers of three workers take about half of it.
_ENOUGH_BYTES: Final = 12 << 30


def temporary_folder() -> Path:
    """A folder that is removed when the process ends, open to the servers' user."""
    return _removed_at_the_end("mission-control-tests-", os.environ.get(FOLDER))


def in_memory() -> dict[str, str]:
    """The variable with which temporary folders are in memory; none where they cannot be, or where
    it has been said already where they are."""
    if FOLDER in os.environ or not _has_plenty():
        return {}
    _remove_what_others_left()
    return {FOLDER: str(_removed_at_the_end(f"{_PREFIX}{os.getpid()}-", str(_MEMORY)))}


def _removed_at_the_end(prefix: str, within: str | None) -> Path:
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=within))
    folder.chmod(0o755)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _has_plenty() -> bool:
    return (
        os.access(_MEMORY, os.W_OK)
        and shutil.disk_usage(_MEMORY).free > _ENOUGH_BYTES
        and psutil.virtual_memory().available > _ENOUGH_BYTES
    )


def _remove_what_others_left() -> None:
    """Those that were killed could not."""
    for folder in _MEMORY.glob(f"{_PREFIX}*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if not psutil.pid_exists(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)
