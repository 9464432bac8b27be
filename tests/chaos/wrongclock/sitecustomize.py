"""Puts the clock of a process wrong: Python imports this first where this folder is in its path.

The file that `CLOCK_FILE` names says by how many seconds, and may change at any moment. Only what
time of day it is goes wrong, as when a machine's clock is set; durations and pauses do not.
"""

import datetime
import os
import time

_right_time = time.time
_right_datetime = datetime.datetime


def _seconds_off() -> float:
    with open(os.environ["CLOCK_FILE"]) as file:
        return float(file.read())


def _wrong_time() -> float:
    return _right_time() + _seconds_off()


class _Like(type):
    """Whatever is a datetime is one of these too."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _right_datetime)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, _right_datetime)


class _WrongDatetime(_right_datetime, metaclass=_Like):
    @classmethod
    def now(cls, tz=None):
        return _right_datetime.fromtimestamp(_wrong_time(), tz)

    @classmethod
    def utcnow(cls):
        return _right_datetime.fromtimestamp(_wrong_time(), datetime.UTC).replace(tzinfo=None)


time.time = _wrong_time
datetime.datetime = _WrongDatetime
