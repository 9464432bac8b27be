"""Names in addresses: a project's, a database's or a trigger's stand there as they are.

A name that is also a word of our own addresses is written with a `~` before it, which no name
begins with: a trigger called `add` is at `triggers/~add/`.
"""

from typing import Final

from eventing.definitions import NAME

_RESERVED: Final = frozenset({"add", "preview", "sample", "try"})


class NameConverter:
    """The path converter `named`."""

    regex = f"~?{NAME.pattern}"

    def to_python(self, value: str) -> str:
        return value.removeprefix("~")

    def to_url(self, value: str) -> str:
        return f"~{value}" if value in _RESERVED else value
