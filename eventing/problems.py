"""How bad input is reported: one message a field, with what was given and what is allowed; and what
may be told of a driver's error.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Parsed = TypeVar("Parsed")

# The most that are told of one input; nobody reads more of them at once.
MOST_PROBLEMS: Final = 50
# Of what a server or a driver says, a message has so many.
MOST_CHARACTERS_SAID: Final = 500


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
    """Input that was refused; nothing has been changed. Of very many problems it has the first."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems[:MOST_PROBLEMS]
        super().__init__("; ".join(map(str, self.problems)))

    def within(self, path: str) -> list[Problem]:
        """Its problems as those of a larger input, in which this one stands at `path`."""
        return [replace(problem, field=f"{path}.{problem.field}") for problem in self.problems]


def parsed(
    problems: list[Problem],
    parse: Callable[Arguments, Parsed],
    *args: Arguments.args,
    **kwargs: Arguments.kwargs,
) -> Parsed | None:
    """What `parse` makes of one part of an input; None, and its problems added to `problems`, if
    that part is refused. So all parts are looked at before anything is said of them."""
    try:
        return parse(*args, **kwargs)
    except InvalidInput as error:
        problems += error.problems
        return None


def named(name: object) -> str:
    """A name that nobody knows, as a message may show it: one line, short, and text."""
    text = str(name)
    return text if text.isprintable() and 0 < len(text) <= 80 else shown(text)


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
    return brief(str(error)) or type(error).__name__


def brief(words: str) -> str:
    """The first line of what somebody else says, of a length that a message may have."""
    lines = words.strip().splitlines()
    return lines[0][:MOST_CHARACTERS_SAID] if lines else ""
