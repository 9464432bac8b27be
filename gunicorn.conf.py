"""What gunicorn reads by itself where it is started: the settings, before there is any worker.

A worker that a malformed setting stops would be started again without end. Gunicorn's own lines go
the way of everybody's, in the format that the settings say.
"""

import logging.config
import sys
from pathlib import Path
from typing import Any

from gunicorn import glogging

sys.path.insert(0, str(Path(__file__).resolve().parent))

from config import settings

logging.config.dictConfig(settings.LOGGING)


class Logger(glogging.Logger):
    """Gunicorn's, but for what its own lines look like; requests are logged only if asked for."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True


logger_class = Logger
