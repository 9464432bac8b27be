"""Ports for the servers of the tests. Several runs, and the workers of one, start servers at once
and stop them for a while: each process has a block of ports of its own, below those that the system
gives to whoever asks for any, so that nobody takes the port of a server that is about to come back.
"""

import itertools
import socket
from collections.abc import Iterator
from typing import Final

from demo.servers import ServerError

_BLOCKS: Final = range(10_000, 32_000, 1_000)


def free_port() -> int:
    """A TCP port of 127.0.0.1 of our own that nothing listens on; the next one each time."""
    return next(_ports)


def _own_ports() -> Iterator[int]:
    with _own_block() as claim:
        first = claim.getsockname()[1]
        for port in itertools.cycle(range(first + 1, first + _BLOCKS.step)):
            if _is_free(port):
                yield port


def _own_block() -> socket.socket:
    """A block is its process's that listens on the block's first port, for as long as it lives."""
    for first in _BLOCKS:
        claim = socket.socket()
        try:
            claim.bind(("127.0.0.1", first))
            claim.listen()
        except OSError:
            claim.close()
        else:
            return claim
    raise ServerError(f"more than {len(_BLOCKS)} processes of tests at once")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


_ports = _own_ports()
