"""What the log of a process says of errors: where they were, never what their messages quote."""

import io
import logging
import logging.config
import secrets
from typing import Any

import pytest
from django.conf import settings


def refuse(row: str) -> None:
    """As a server does that quotes the row."""
    try:
        raise LookupError(f"Failing row contains ({row})")
    except LookupError as error:
        raise ValueError(row) from error


@pytest.fixture
def output() -> io.StringIO:
    """What a logger with the settings' formatter writes."""
    return io.StringIO()


@pytest.fixture
def log(output: io.StringIO) -> logging.Logger:
    described: dict[str, Any] = {**settings.LOGGING["formatters"]["structured"]}
    handler = logging.StreamHandler(output)
    handler.setFormatter(described.pop("()")(**described))
    logger = logging.Logger("somebody")
    logger.addHandler(handler)
    return logger


def test_a_traceback_has_its_frames_and_no_message(
    log: logging.Logger, output: io.StringIO
) -> None:
    row = secrets.token_hex(8)
    try:
        refuse(row)
    except ValueError:
        log.exception("it could not be stored")
    told = output.getvalue()
    assert "it could not be stored" in told
    assert told.count("in refuse") == 2
    assert "ValueError" in told
    assert "LookupError" in told
    assert row not in told
