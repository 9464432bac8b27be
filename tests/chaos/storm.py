"""Faults, and a storm of them: what can be done to a process, a server, a way or a disk, and when.

What happens is decided by a seed alone; how far the product has come at that moment is not.
"""

import contextlib
import os
import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import psutil

from demo.servers import PostgresServer, RedisServer
from tests.databases import MariaDbServer, MongoDbServer
from tests.proxy import Proxy
from tests.stack import Stack

MIB: Final = 1024 * 1024
# The longest of a network's delays, which everything that passes suffers.
_LONGEST_DELAY_SECONDS: Final = 0.2


class Fault(NamedTuple):
    """What is done to `target` for a while of `seconds` (least, most); `end` undoes `begin`.

    Two faults of one target never overlap. A `weight` of 2 happens twice as often as one of 1.
    """

    kind: str
    target: str
    begin: Callable[[], None]
    end: Callable[[], None]
    seconds: tuple[float, float]
    weight: float = 1.0


class Storm:
    """Lets some faults happen at random moments, and knows what it has done."""

    def __init__(self, faults: Sequence[Fault], seed: int) -> None:
        self._faults = faults
        self._random = random.Random(seed)
        self._nobody = threading.Event()
        self.injected: Counter[str] = Counter()
        self.done: list[str] = []

    def toss(self, likely: float) -> bool:
        """Whether something that is so likely happens."""
        return self._random.random() < likely

    def blow(self, seconds: float, most: int) -> None:
        """Up to `most` faults begin within so many seconds; all of them have ended afterwards."""
        moments = []
        for fault in self._picked(self._random.randint(2, most)):
            begin = self._random.uniform(0, seconds)
            end = begin + self._random.uniform(*fault.seconds)
            moments += [(begin, len(moments), fault, True), (end, len(moments) + 1, fault, False)]
        started = time.monotonic()
        under_way: list[Fault] = []
        try:
            for moment, _, fault, begins in sorted(moments, key=lambda each: each[:2]):
                self._nobody.wait(max(0.0, started + moment - time.monotonic()))
                if begins:
                    self._note(fault)
                    under_way.append(fault)
                    fault.begin()
                else:
                    under_way.remove(fault)
                    fault.end()
            self._nobody.wait(max(0.0, started + seconds - time.monotonic()))
        finally:
            for fault in under_way:
                fault.end()

    def _picked(self, count: int) -> list[Fault]:
        """So many faults of different targets."""
        picked: dict[str, Fault] = {}
        while len(picked) < count:
            weights = [fault.weight for fault in self._faults]
            (fault,) = self._random.choices(self._faults, weights)
            picked.setdefault(fault.target, fault)
        return list(picked.values())

    def _note(self, fault: Fault) -> None:
        self.injected[f"{fault.kind} {fault.target}"] += 1
        self.done.append(f"{fault.kind} {fault.target}")


def _nothing() -> None:
    pass


def family(pid: int) -> list[psutil.Process]:
    """A process and all it has started; empty if it is gone."""
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def freeze(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.suspend()


def thaw(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.resume()


class _Frozen:
    """A stop of a process with all that belongs to it, and its continuation."""

    def __init__(self, pid: Callable[[], int]) -> None:
        self._pid = pid
        self._stopped: list[psutil.Process] = []

    def begin(self) -> None:
        self._stopped = family(self._pid())
        freeze(self._stopped)

    def end(self) -> None:
        thaw(self._stopped)


class _Short:
    """A process that may have only so much more memory than it has."""

    def __init__(self, pid: Callable[[], int], spare_bytes: int) -> None:
        self._pid = pid
        self._spare_bytes = spare_bytes
        self._limited: list[psutil.Process] = []

    def begin(self) -> None:
        self._limited = family(self._pid())
        for process in self._limited:
            limit_memory(process, self._spare_bytes)

    def end(self) -> None:
        for process in self._limited:
            lift_limit(process)


def limit_memory(process: psutil.Process, spare_bytes: int) -> None:
    """From now on the process may take only so much more memory for its data."""
    # One that has just ended has no data.
    with contextlib.suppress(psutil.NoSuchProcess):
        used = process.memory_info().data
        hard = process.rlimit(psutil.RLIMIT_DATA)[1]
        process.rlimit(psutil.RLIMIT_DATA, (used + spare_bytes, hard))


def lift_limit(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        hard = process.rlimit(psutil.RLIMIT_DATA)[1]
        process.rlimit(psutil.RLIMIT_DATA, (hard, hard))


def faults_of_process(stack: Stack, name: str) -> Iterator[Fault]:
    """What can happen to one of the stack's processes."""

    def start() -> None:
        stack.start(name)

    def stop() -> None:
        stack.stop(name)

    frozen = _Frozen(lambda: stack.pid(name))
    kind = name.partition("-")[0]
    yield Fault("kill", name, lambda: stack.kill(name), start, (0.0, 2.0), 2)
    yield Fault("terminate", name, stop, start, (0.0, 2.0))
    # Longer than a database's lease (8 s), at times.
    yield Fault("stop", name, frozen.begin, frozen.end, (0.5, 11.0), 2)
    if kind == "capture":
        alone = Fault(
            "kill only the supervisor of",
            name,
            lambda: stack.kill(name, whole_family=False),
            start,
            (0.0, 2.0),
        )
        yield alone
    if kind != "beat":
        short = _Short(lambda: stack.pid(name), 4 * MIB)

        def end() -> None:
            short.end()
            stack.start_what_ended()

        yield Fault("leave 4 MB of memory to", name, short.begin, end, (1.0, 5.0))


def faults_of_server(
    server: PostgresServer | RedisServer | MariaDbServer | MongoDbServer, target: str
) -> Iterator[Fault]:
    """What can happen to a server that is ours."""
    frozen = _Frozen(lambda: server.pid)

    def restart_often() -> None:
        for _ in range(10):
            server.kill()
            server.start()

    yield Fault("kill", target, server.kill, server.start, (0.0, 3.0), 1.5)
    yield Fault("stop", target, frozen.begin, frozen.end, (0.5, 6.0))
    if not isinstance(server, RedisServer):
        yield Fault("restart ten times", target, restart_often, _nothing, (0.0, 0.0), 0.1)


def faults_of_way(proxy: Proxy, target: str) -> Iterator[Fault]:
    """What can happen to the connections to a server."""
    way = f"the way to {target}"

    def delay() -> None:
        proxy.delay(_LONGEST_DELAY_SECONDS)

    yield Fault("cut", way, proxy.cut, _nothing, (0.0, 0.0))
    yield Fault("reset", way, proxy.reset, _nothing, (0.0, 0.0))
    yield Fault("truncate on", way, proxy.truncate, proxy.heal, (0.2, 2.0))
    yield Fault("delay on", way, delay, proxy.heal, (1.0, 4.0))
    yield Fault("let nothing pass on", way, proxy.stall, proxy.heal, (0.5, 6.0))
    yield Fault("refuse on", way, proxy.refuse, proxy.heal, (0.5, 4.0))


class SmallDisk:
    """A disk of its own for a server, as root; nobody else can make one."""

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        folder.chmod(0o755)
        self._is_own = os.geteuid() == 0
        self._ballast = folder / "ballast"
        if self._is_own:
            options = f"size={size_bytes},mode=755"
            subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder], check=True)

    def close(self) -> None:
        if self._is_own:
            subprocess.run(["umount", "--lazy", self.folder], check=True)

    def fill(self) -> None:
        """Leave no room at all. Refused where the disk is not its own, but the machine's."""
        assert self._is_own, "filling a disk needs one of its own: run this test as root"
        piece = b"x" * MIB
        with self._ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(piece)

    def empty(self) -> None:
        self._ballast.unlink()

    def faults(self, server: PostgresServer, target: str) -> Iterator[Fault]:
        """No room for a while, after which the server is started if that was too much for it."""

        def end() -> None:
            self.empty()
            if not server.is_running:
                server.stop()
                server.start()

        if self._is_own:
            yield Fault("fill the disk of", target, self.fill, end, (1.0, 5.0), 2)
