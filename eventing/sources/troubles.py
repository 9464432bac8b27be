"""Mission Control as a source of its own: what goes wrong with a project's databases and triggers.

The one table is `troubles`: a row comes when a trouble begins, and is changed once, when that has
ended. It is read from the control database, in the order of the numbers that `eventing.troubles`
gives out; how far is kept there too, so that nothing is forgotten that has yet to be read.
"""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from django.db import Error, connection, transaction

from eventing.changes import Batch, CatalogueTable, Change, Finding, Operation
from eventing.cloudevents import time_text
from eventing.sources.base import START_ANEW, Sample, SourceBlocked, SourceUnavailable, Watch

TABLE: Final = "troubles"
_COLUMNS: Final = ("id", "kind", "object", "reason", "began_at", "ended_at")
# They are looked for every ten seconds.
_LOOK_SECONDS: Final = 1.0

# Indexes trouble_begun and trouble_ended.
_CHANGES: Final = """
    SELECT * FROM (
        (SELECT begun_as AS number, id, kind, object_name, reason, began_at,
                NULL::timestamptz AS ended_at
         FROM eventing_trouble WHERE project_id = %(project)s AND begun_as > %(after)s
         ORDER BY begun_as LIMIT %(most)s)
        UNION ALL
        (SELECT ended_as, id, kind, object_name, reason, began_at, ended_at
         FROM eventing_trouble WHERE project_id = %(project)s AND ended_as > %(after)s
         ORDER BY ended_as LIMIT %(most)s)
    ) AS change
    ORDER BY number LIMIT %(most)s
"""
# Index trouble_of_project, read backwards.
_LATEST: Final = """
    SELECT id, kind, object_name, reason, began_at, ended_at
    FROM eventing_trouble WHERE project_id = %s ORDER BY id DESC LIMIT 1
"""
_LAST_NUMBER: Final = "SELECT coalesce(max(latest), 0) FROM eventing_troublenumber"
# A reader that is there already keeps its place: one that died before it stored a position must
# pass nothing over.
_BEGIN: Final = """
    INSERT INTO eventing_troublereader (source_name, project_id, position)
    SELECT %s, %s, coalesce(max(latest), 0) FROM eventing_troublenumber
    ON CONFLICT (source_name) DO NOTHING
"""
# Each of these: the unique index on source_name.
_READER: Final = "SELECT position, forgotten FROM eventing_troublereader WHERE source_name = %s"
_ACKNOWLEDGE: Final = """
    UPDATE eventing_troublereader SET position = %s WHERE source_name = %s AND position < %s
"""
_REMOVE: Final = "DELETE FROM eventing_troublereader WHERE source_name = %s"


class TroublesSource:
    """The troubles of one project; `name` is what its place is kept under."""

    def __init__(self, project_id: int | None, name: str) -> None:
        self._project_id = project_id
        self._name = name
        self._position: int | None = None
        self._acknowledged = 0
        self._next_look = 0.0

    def open(self, watch: Watch, after: str | None) -> None:
        with transaction.atomic():
            last_number = _one(_LAST_NUMBER)[0]
            if after is None:
                _run(_BEGIN, [self._name, self._project_id])
            reader = _one(_READER, [self._name])
        if after is None:
            self._position = reader[0]
        else:
            self._position = _stored_position(after, reader, last_number)
        self._acknowledged = reader[0]

    def refuse_if_read_before(self) -> None:
        if _one(_READER, [self._name]):
            raise SourceBlocked(
                "the troubles of this project were read before, and the log knows nothing of it: it"
                " was restored from an older backup, and what was captured since then is not in it",
                START_ANEW,
            )

    def watch(self, watch: Watch) -> None:
        """Nothing depends on what is watched; `base.Source.watch`."""

    def read(self, max_changes: int, timeout_seconds: float) -> Batch:
        if self._position is None:
            raise SourceUnavailable("the troubles of this project: not open")
        wait_seconds = self._next_look - time.monotonic()
        if wait_seconds > 0:
            time.sleep(min(wait_seconds, timeout_seconds))
        if wait_seconds > timeout_seconds:
            return Batch([], str(self._position), drained=True)
        given = {"project": self._project_id, "after": self._position, "most": max_changes}
        changes = [_change(*row) for row in _run(_CHANGES, given)]
        if changes:
            self._position = int(changes[-1].position)
        is_drained = len(changes) < max_changes
        self._next_look = time.monotonic() + (_LOOK_SECONDS if is_drained else 0.0)
        return Batch(changes, str(self._position), is_drained)

    def acknowledge(self, position: str) -> None:
        number = int(position)
        if number > self._acknowledged:
            _run(_ACKNOWLEDGE, [number, self._name, number])
            self._acknowledged = number

    def close(self) -> None:
        self._position = None

    def remove(self) -> None:
        try:
            _run(_REMOVE, [self._name])
        except Error as error:
            raise SourceUnavailable(f"the control database: {error}") from None

    def check(self) -> Sequence[Finding]:
        return [
            Finding("troubles", "ok", "Mission Control itself is the source; nothing is missing")
        ]

    def catalogue(self) -> Sequence[CatalogueTable]:
        return [CatalogueTable(TABLE, _COLUMNS)]

    def sample(self, table: str) -> Sample | None:
        row = _one(_LATEST, [self._project_id]) if table == TABLE else ()
        return Sample(TABLE, str(row[0]), _document(*row)) if row else None


def example() -> Sample:
    """A trouble that nobody has, as a change shows one."""
    reason = "A test event from Mission Control: nothing is wrong"
    row = (0, "trigger_failing", "sample", reason, datetime.now(UTC), None)
    return Sample(TABLE, "0", _document(*row))


def _stored_position(after: str, reader: Sequence[Any], last_number: int) -> int:
    """Where to go on. Raises SourceBlocked if what follows may not be there any more."""
    if not after.isdigit():
        said = "the stored position is not one of Mission Control's troubles"
        raise SourceBlocked(said, START_ANEW)
    position = int(after)
    if not reader:
        said = "it is not known any more up to where the troubles of this project had been read"
        raise SourceBlocked(said, START_ANEW)
    if position > last_number:
        raise SourceBlocked(
            f"the troubles of this project were read up to change {position}, and the control"
            f" database knows of {last_number} only: it was put back to an earlier state",
            START_ANEW,
            for_good=True,
        )
    if position < reader[1]:
        raise SourceBlocked(
            f"troubles of this project up to change {reader[1]} are forgotten, and the log has"
            f" those up to {position} only: it was put back to an earlier state",
            START_ANEW,
        )
    return position


def _change(number: int, identifier: int, *row: Any) -> Change:
    began_at, ended_at = row[-2:]
    operation: Operation = "update" if ended_at else "insert"
    return Change(
        position=str(number),
        index=0,
        operation=operation,
        table=TABLE,
        document_id=str(identifier),
        document=_document(identifier, *row),
        committed_at_ms=_milliseconds(ended_at or began_at),
        shown_position=str(number),
    )


def _document(
    identifier: int,
    kind: str,
    name: str,
    reason: str,
    began_at: datetime,
    ended_at: datetime | None,
) -> str:
    times = (_time(began_at), _time(ended_at) if ended_at else None)
    row = (identifier, kind, name, reason, *times)
    return orjson.dumps(dict(zip(_COLUMNS, row, strict=True))).decode()


def _time(moment: datetime) -> str:
    return time_text(_milliseconds(moment))


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _run(sql: str, given: Any = None) -> list[tuple[Any, ...]]:
    with connection.cursor() as at:
        at.execute(sql, given)
        return at.fetchall() if at.description else []


def _one(sql: str, given: Any = None) -> tuple[Any, ...]:
    """The only row that there can be; empty if there is none."""
    rows = _run(sql, given)
    return rows[0] if rows else ()
