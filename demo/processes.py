"""The processes that the Procfile names, started as children that end with us.

Demo and end-to-end tests run the product through this, so both run what is shipped.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import psutil

ROOT: Final = Path(__file__).resolve().parent.parent


def procfile() -> dict[str, str]:
    """The shell command of each process, by its name, in the order of the file."""
    lines = (ROOT / "Procfile").read_text().splitlines()
    pairs = (line.split(":", 1) for line in lines if line and not line.startswith("#"))
    return {name.strip(): command.strip() for name, command in pairs}


class Processes:
    """Named shell commands with one environment, each one's output in `folder/<name>.log`."""

    def __init__(
        self, commands: Mapping[str, str], environment: Mapping[str, str], folder: Path
    ) -> None:
        scripts = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        self.environment = {**os.environ, **environment, "PATH": scripts}
        self._commands = dict(commands)
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def start(self, name: str) -> None:
        ends_with_us = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
        with self.log(name).open("ab") as log:
            self._running[name] = subprocess.Popen(  # noqa: S603 — the Procfile's
                [*ends_with_us, "sh", "-c", self._commands[name]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=self.environment,
                # A Ctrl-C in the terminal is for us; we stop the processes in our order.
                start_new_session=True,
            )

    def start_all(self) -> None:
        for name in self._commands:
            self.start(name)

    def log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def pid(self, name: str) -> int:
        return self._running[name].pid

    def is_running(self, name: str) -> bool:
        return name in self._running and self._running[name].poll() is None

    def ended(self) -> list[str]:
        """The names of the processes that have ended by themselves."""
        return [name for name in self._running if not self.is_running(name)]

    def stop(self, *names: str, within_seconds: float = 7.0) -> list[str]:
        """SIGTERM to all of `names` at once; returns those that had to be killed in the end."""
        processes = {name: self._running.pop(name) for name in names if name in self._running}
        families = {name: _family(process.pid) for name, process in processes.items()}
        for process in processes.values():
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + within_seconds
        killed = []
        for name, process in processes.items():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                killed.append(name)
            _kill(families[name])
            process.wait()
        return killed

    def stop_all(self, within_seconds: float = 7.0) -> list[str]:
        return self.stop(*self._running, within_seconds=within_seconds)

    def kill(self, name: str, *, whole_family: bool = True) -> None:
        """SIGKILL: the process and all it started, or (a harder case) the process alone."""
        process = self._running.pop(name)
        family = _family(process.pid) if whole_family else [psutil.Process(process.pid)]
        _kill(family)
        process.wait()


def _family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=2)
