"""How bad input is reported: one message a field, with what was given and what is allowed; and what
may be told of a driver's error.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with an input.

    `field` is a dotted path (`triggers[0].retries`); `given` is repr-like text, never a secret.
    """

    field: str
    given: str
    allowed: str

    def __str__(self) -> str:
        return f"{self.field}: got {self.given}; allowed: {self.allowed}"


class InvalidInput(Exception):
    """Input that was refused; nothing has been changed."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = problems


def shown(value: object) -> str:
    """A value as a message may show it: short, and never a structure's contents."""
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return repr(value if len(value) <= 80 else value[:77] + "...")
    if isinstance(value, bool | int | float):
        return str(value).lower() if isinstance(value, bool) else str(value)
    if isinstance(value, Sequence) and all(isinstance(item, str | int) for item in value):
        return shown(", ".join(map(str, value))) if value else "an empty list"
    return f"a {type(value).__name__}"


def first_line(error: Exception) -> str:
    """What a driver says of an error, without the rest, which may quote values."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
