"""Which tables a statement in a binary log may have changed rows of, without the log saying which.

A session with binlog_format STATEMENT or MIXED logs what it was told instead of what came of it; so
do sessions that were open when the server was set to ROW. Rows cannot be had from that, but it can
be said that there were some: of every table that the statement names as one that it may change.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from eventing.changes import Operation


class Touched(NamedTuple):
    """A table that a statement may have changed, and how; `schema` is empty for the session's."""

    schema: str
    table: str
    operations: tuple[Operation, ...]


# What is open to the end ends there, so that no text is looked through twice.
_TOKEN: Final = re.compile(
    r"""
      (?P<nothing> \s+ | /\*(?!!) (?: .*? \*/ | .* ) | (?:--[ \t]|\#) [^\n]* )
    | (?P<text> ' (?: [^'\\] | \\. | '' )* (?: ' | \\?\Z )
              | " (?: [^"\\] | \\. | "" )* (?: " | \\?\Z ) )
    | (?P<name> ` (?: [^`] | `` )+ ` )
    | (?P<word> [\w$]+ )
    | (?P<sign> . )
    """,
    re.VERBOSE | re.DOTALL,
)
_TEXT: Final = "''"
_FLAGS: Final = frozenset({"LOW_PRIORITY", "DELAYED", "HIGH_PRIORITY", "IGNORE", "QUICK", "INTO"})
_JOINS: Final = frozenset({"JOIN", "STRAIGHT_JOIN", ","})
_AFTER_TABLES: Final = frozenset({"SET", "WHERE", "ORDER", "LIMIT", "RETURNING"})
# Where its tables are named; a statement may be a list of values of megabytes.
_HEAD_BYTES: Final = 20_000


def tables_touched(statement: bytes) -> list[Touched]:
    """The tables that a statement of the binary log may have changed rows of; none for one that
    changes none, such as a definition."""
    tokens = list(_tokens(statement[:_HEAD_BYTES].decode("utf-8", "replace")))
    words = [token.upper() for token in tokens]
    if words[:1] == ["WITH"]:
        # What the queries before it are called is of no interest.
        after = [at for at in range(1, len(words)) if words[at - 1] == ")"]
        begin = next((at for at in after if words[at] in ("UPDATE", "DELETE")), len(words))
        tokens, words = tokens[begin:], words[begin:]
    match words[:1]:
        case ["INSERT"]:
            is_update = _place_of(words, "ON", "DUPLICATE", "KEY") is not None
            return _at(tokens, words, 1, ("insert", "update") if is_update else ("insert",))
        case ["REPLACE"]:
            return _at(tokens, words, 1, ("insert", "delete", "update"))
        case ["LOAD"]:
            place = _place_of(words, "INTO", "TABLE")
            return [] if place is None else _at(tokens, words, place + 2, ("insert",))
        case ["CREATE"]:
            return _created(tokens, words)
        case ["UPDATE"]:
            return _listed(tokens, words, 1, "update")
        case ["DELETE"] if words[1:2] != ["HISTORY"] and "FROM" in words:
            return _listed(tokens, words, words.index("FROM") + 1, "delete")
    return []


def _tokens(text: str) -> Iterator[str]:
    """Words, quoted names, signs; every text as an empty one."""
    for found in _TOKEN.finditer(text):
        if found.lastgroup == "text":
            yield _TEXT
        elif found.lastgroup != "nothing":
            yield found[0]


def _place_of(words: Sequence[str], *phrase: str) -> int | None:
    """Where some words stand one after another."""
    wanted = list(phrase)
    places = range(len(words) - len(wanted) + 1)
    return next((at for at in places if words[at : at + len(wanted)] == wanted), None)


def _created(tokens: Sequence[str], words: Sequence[str]) -> list[Touched]:
    """A table that is made with the rows of a query."""
    begin = 3 if words[1:3] == ["OR", "REPLACE"] else 1
    if words[begin : begin + 1] != ["TABLE"] or "SELECT" not in words:
        return []
    begin += 4 if words[begin + 1 : begin + 4] == ["IF", "NOT", "EXISTS"] else 1
    return _at(tokens, words, begin, ("insert",))


def _at(
    tokens: Sequence[str], words: Sequence[str], at: int, operations: tuple[Operation, ...]
) -> list[Touched]:
    """The table that is named there, behind flags."""
    while words[at : at + 1] and words[at] in _FLAGS:
        at += 1
    first = _plain(tokens[at : at + 1])
    if not first:
        return []
    second = _plain(tokens[at + 2 : at + 3]) if words[at + 1 : at + 2] == ["."] else ""
    schema, table = (first, second) if second else ("", first)
    return [Touched(schema, table, operations)]


def _listed(
    tokens: Sequence[str], words: Sequence[str], begin: int, operation: Operation
) -> list[Touched]:
    """The tables of a list from there on, which may have joins and brackets in it."""
    touched: list[Touched] = []
    is_next, inside = True, 0
    for at in range(begin, len(words)):
        word = words[at]
        if inside or (word == "(" and not is_next):
            # Columns, conditions, another query: none of them is changed.
            inside += (word == "(") - (word == ")")
        elif word in _AFTER_TABLES:
            break
        elif word == "SELECT":
            is_next, inside = False, 1
        elif word in _JOINS or (word == "USING" and words[at + 1 : at + 2] != ["("]):
            is_next = True
        elif is_next and word != "(" and word not in _FLAGS:
            touched += _at(tokens, words, at, (operation,))
            is_next = False
    return list(dict.fromkeys(touched))


def _plain(tokens: Sequence[str]) -> str:
    """A name without its quotes; empty for what is none."""
    token = tokens[0] if tokens else ""
    if token.startswith("`") and len(token) > 2:
        return token[1:-1].replace("``", "`")
    return token if re.fullmatch(r"[\w$]+", token) else ""
