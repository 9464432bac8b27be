"""What an event costs each part in processor time: for sizing, where throughput on one machine,
which all parts share, says little."""

import re
from collections import Counter
from typing import Final

import psutil

from demo.servers import PostgresServer, Server
from tests.stack import Stack

_PROCESSES: Final = ("capture", "worker", "beat", "web")
# As Postgres titles a process that serves a client: `… 127.0.0.1(40000) idle`.
_CLIENT_PORT: Final = re.compile(r"\((\d+)\)")


def cpu_seconds(stack: Stack, postgres: PostgresServer, broker: Server) -> Counter[str]:
    """Processor seconds used so far by each of our processes, and by Postgres on behalf of each.

    Processes of Postgres that have ended (autovacuum's, mostly) are not counted.
    """
    spent: Counter[str] = Counter()
    client_of_port = {}
    for name in _PROCESSES:
        parent = psutil.Process(stack.pid(name))
        for process in (parent, *parent.children(recursive=True)):
            spent[name] += _seconds(process)
            for each in process.net_connections("tcp"):
                client_of_port[str(each.laddr.port)] = name
    for process in psutil.Process(postgres.pid).children():
        title = process.cmdline()[0]
        port = _CLIENT_PORT.search(title)
        if "walsender" in title:
            part = "walsender"
        elif port:
            part = f"Postgres for {client_of_port.get(port.group(1), 'others')}"
        else:
            part = "Postgres, its own processes"
        spent[part] += _seconds(process)
    spent["broker"] = _seconds(psutil.Process(broker.pid))
    return spent


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
