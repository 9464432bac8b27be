"""Texts that name a choice or a time, read the same wherever they come from: pages, API or a file.

What is wrong with a parameter is noted with the others and reads as if it had not been given, so
that all of it can be said at once.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from eventing.problems import Problem

# The longest value of any parameter, in characters.
LONGEST: Final = 1000


def choice_of(
    given: Mapping[str, str], name: str, allowed: Sequence[str], problems: list[Problem]
) -> str | None:
    """One of the `allowed`; None if nothing was given, or something else, which is noted."""
    value = given.get(name)
    if value is None or value in allowed:
        return value
    problems.append(Problem(name, repr(value[:80]), "one of " + ", ".join(allowed)))
    return None


def number_of(
    given: Mapping[str, str], name: str, most: int, problems: list[Problem]
) -> int | None:
    """A whole number from 1 to `most`; None if nothing was given, or no such, which is noted."""
    value = given.get(name)
    if value is None:
        return None
    if value.isascii() and value.isdigit() and len(value) < 10 and 1 <= int(value) <= most:
        return int(value)
    problems.append(Problem(name, repr(value[:80]), f"a whole number from 1 to {most}"))
    return None


def moment_of(
    given: Mapping[str, str], name: str, allowed: str, problems: list[Problem]
) -> datetime | None:
    """A time in UTC; None if nothing was given, or no time, which is noted with `allowed`."""
    value = given.get(name)
    if value is None:
        return None
    try:
        return utc_of(value)
    except (ValueError, OverflowError):
        problems.append(Problem(name, repr(value[:80]), allowed))
        return None


def utc_of(text: str) -> datetime:
    """An ISO 8601 time; one without zone is UTC. Raises ValueError, OverflowError."""
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
