"""What gunicorn reads by itself where it is started: the settings, before there is any worker.

A worker that a malformed setting stops would be started again without end. Gunicorn's own lines go
the way of everybody's, in the format that the settings say, and quote nothing of a request: what
cannot be read as one may be a header with a token.
"""

import logging.config
import re
import socket
import struct
import sys
from pathlib import Path
from typing import Any

from gunicorn import glogging

sys.path.insert(0, str(Path(__file__).resolve().parent))

from config import settings

logging.config.dictConfig(settings.LOGGING)

workers = settings.WEB_CONCURRENCY
# The most there may be: filters of an address are told by the views what is wrong with them.
limit_request_line = 8190
# For so long a thread waits for the next bytes of a request, or for room for those of an answer.
_PATIENCE_SECONDS = 10
_QUOTING = re.compile(r"(Invalid request from ip=\S+): .*", re.DOTALL)


class Logger(glogging.Logger):
    """Gunicorn's, but for what its own lines look like; requests are logged only if asked for."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True

    def warning(self, msg: str, *args: Any, **kwargs: Any) -> None:
        super().warning(_QUOTING.sub(r"\1", msg), *args, **kwargs)

    def debug(self, msg: str, *args: Any, **kwargs: Any) -> None:
        is_quoting = msg.startswith("Ignored premature client disconnection")
        super().debug(*(("a client went away",) if is_quoting else (msg, *args)), **kwargs)

    def exception(self, msg: str, *args: Any, **kwargs: Any) -> None:
        if isinstance(sys.exc_info()[1], BlockingIOError):
            self.info("a client fell silent in the middle of a request or an answer")
            return
        super().exception(msg, *(str(each).partition("?")[0] for each in args), **kwargs)


logger_class = Logger


def when_ready(server: Any) -> None:
    """Bound how long a client may be silent: sockets of connections take that from the listeners'.

    Gunicorn's threads wait for ever in the middle of a request, so that a few clients had them all.
    """
    patience = struct.pack("ll", _PATIENCE_SECONDS, 0)
    for listener in server.LISTENERS:
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            listener.sock.setsockopt(socket.SOL_SOCKET, option, patience)
