"""Which triggers a change matches: compiled per configuration version, a look-up per change."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from eventing.changes import OPERATIONS, Operation


@dataclass(frozen=True, slots=True)
class Rule:
    """What one trigger wants of one database. Empty `tables` mean all; `*` matches anything.

    `ordered`: its events of one document are delivered one after another.
    """

    trigger_id: int
    trigger: str
    tables: tuple[str, ...]
    operations: frozenset[Operation]
    ordered: bool = False


class Matcher:
    """The rules of one database. Answers are remembered per table and operation.

    `has_schemas`: tables are named as in Postgres, where `public.users` means `users`.
    """

    def __init__(self, rules: Sequence[Rule], *, has_schemas: bool = True) -> None:
        self._rules = [(rule, _pattern(rule.tables, has_schemas)) for rule in rules]
        self._known: dict[tuple[str, Operation], tuple[Rule, ...]] = {}

    def rules_for(self, table: str, operation: Operation) -> tuple[Rule, ...]:
        """The rules that match `operation` on `table` (named as in `data.col`)."""
        key = (table, operation)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = tuple(
                rule
                for rule, pattern in self._rules
                if operation in rule.operations
                and (pattern is None or pattern.fullmatch(table) is not None)
            )
        return found

    def wants(self, table: str, operation: Operation) -> bool:
        """Whether any trigger matches."""
        return bool(self.rules_for(table, operation))

    @property
    def operations(self) -> frozenset[Operation]:
        """Every operation that some trigger wants."""
        return frozenset(
            operation
            for operation in OPERATIONS
            if any(operation in rule.operations for rule, _ in self._rules)
        )

    @property
    def wants_future_tables(self) -> bool:
        """Whether a table that does not exist yet could match by a wildcard."""
        return any(
            not rule.tables or any("*" in table for table in rule.tables) for rule, _ in self._rules
        )

    @property
    def named_tables(self) -> frozenset[str]:
        """Tables that some trigger names in full."""
        return frozenset(
            table for rule, _ in self._rules for table in rule.tables if "*" not in table
        )


def watches(tables: Sequence[str], table: str, *, has_schemas: bool) -> bool:
    """Whether what a trigger says of tables means this one; `public.users` is `users` there too."""
    named = table.removeprefix("public.") if has_schemas else table
    pattern = _pattern(tables, has_schemas)
    return pattern is None or pattern.fullmatch(named) is not None


def _pattern(tables: Sequence[str], has_schemas: bool) -> re.Pattern[str] | None:
    """One expression for all names."""
    if not tables:
        return None
    alternatives = (f"(?:{_alternative(table, has_schemas)})" for table in tables)
    return re.compile("|".join(alternatives), re.DOTALL)


def _alternative(table: str, has_schemas: bool) -> str:
    anything = ".*"
    if has_schemas and table.startswith("public."):
        # What has a dot in it is in another schema.
        table, anything = table.removeprefix("public."), r"[^.]*"
    return anything.join(map(re.escape, table.split("*")))
