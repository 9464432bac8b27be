"""The indexes on those tables of a log in Postgres that grow without bound.

A new log gets them with its tables. One that an older version made, and that holds events, gets
those it lacks while everybody goes on storing and delivering: concurrently, a day at a time.
"""

from collections.abc import Iterable
from typing import Any, Final, NamedTuple, cast

import structlog

from eventing.logs.base import LogBusy
from eventing.logs.pgconnections import Connections, Transaction
from eventing.logs.pgstatements import IMPATIENT, SCHEMA


class _Index(NamedTuple):
    """An index of this version. One that is to be on something else gets another name."""

    name: str
    table: str
    on: str


_INDEXES: Final = (
    # Events of one kind, see event_kind.
    _Index("event_log_kind", "event_log", '(trigger_id, "table", operation, database_id, id)'),
    # A key may be longer than an index entry can be.
    _Index("event_log_doc_id", "event_log", "(left(doc_id, 200), id)"),
    _Index("invocation_log_event", "invocation_log", "(event_id, attempt)"),
    _Index("delivery_due", "delivery", "(trigger_id, sweep_at, event_id)"),
    _Index(
        "delivery_order",
        "delivery",
        "(trigger_id, order_key, order_seq) WHERE order_key IS NOT NULL",
    ),
)
_OF_OLDER_VERSIONS: Final = frozenset({"event_log_trigger", "delivery_sweep"})

logger = structlog.get_logger(__name__)


def make(at: Transaction) -> None:
    """Make all indexes, of tables that hold nothing yet."""
    for index in _INDEXES:
        at.run(f"CREATE INDEX IF NOT EXISTS {index.name} ON {SCHEMA}.{index.table} {index.on}")


def are_as_they_should(at: Transaction) -> bool:
    """Whether all indexes are there, and none of an older version is."""
    return not _lacking(at) and not _unwanted(at)


def build(connections: Connections) -> None:
    """Build what is lacking, unless another process is at it, and drop what is unwanted.

    Keeps nobody waiting, and waits itself for whoever uses a day for long. Raises LogUnavailable.
    """
    aside = connections.aside()
    try:
        with connections.transaction() as at:
            at.run("SELECT pg_try_advisory_xact_lock(hashtext('mission_control.indexes'))")
            if at.fetchone() != (True,):
                return
            for index in _lacking(at):
                _build(aside, index)
            for name in _unwanted(at):
                with aside.transaction() as other:
                    other.run(IMPATIENT)
                    other.run(f"DROP INDEX IF EXISTS {SCHEMA}.{name}")
    finally:
        aside.close()


def _lacking(at: Transaction) -> list[_Index]:
    valid = _names(at, "i.indisvalid")
    return [index for index in _INDEXES if index.name not in valid]


def _unwanted(at: Transaction) -> Iterable[str]:
    return _OF_OLDER_VERSIONS & _names(at, "true")


def _names(at: Transaction, condition: str) -> set[str]:
    at.run(
        "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
        f" WHERE c.relnamespace = '{SCHEMA}'::regnamespace AND {condition}"
    )
    return {name for (name,) in at.fetchall()}


def _build(aside: Connections, index: _Index) -> None:
    with aside.transaction() as at:
        at.run("SELECT relkind = 'p' FROM pg_class WHERE oid = %s::regclass", _full(index.table))
        (is_partitioned,) = cast(tuple[Any], at.fetchone())
    if not is_partitioned:
        _build_concurrently(aside, index.name, index.table, index.on)
        return
    with aside.transaction() as at:
        at.run(IMPATIENT)
        # What is attached from now on gets the index by itself.
        at.run(f"CREATE INDEX IF NOT EXISTS {index.name} ON ONLY {_full(index.table)} {index.on}")
        at.run(_PARTITIONS_LACKING, _full(index.table), _full(index.name))
        partitions = [name for (name,) in at.fetchall()]
    # Oldest first: those may be dropped meanwhile.
    for partition in partitions:
        name = partition.replace(index.table, index.name)
        _build_concurrently(aside, name, partition, index.on)
        with aside.transaction() as at:
            at.run(IMPATIENT)
            at.run(f"ALTER INDEX {_full(index.name)} ATTACH PARTITION {_full(name)}")
    with aside.transaction() as at:
        if _state(at, index.name) != (True, False):
            # The last day that lacked it was dropped meanwhile, and so never attached.
            at.run(IMPATIENT)
            at.run(f"DROP INDEX {_full(index.name)}")


def _build_concurrently(aside: Connections, name: str, table: str, on: str) -> None:
    with aside.transaction() as at:
        state = _state(at, name)
    if state is not None:
        is_valid, is_being_built = state
        if is_being_built:
            raise LogBusy(f"the index {name} of the Eventing DB is being built already")
        if is_valid:
            return
        # Whoever built it broke off.
        aside.run_alone(f"DROP INDEX CONCURRENTLY {_full(name)}")
    logger.info("builds an index of the log", index=name)
    aside.run_alone(f"CREATE INDEX CONCURRENTLY {name} ON {_full(table)} {on}")


def _state(at: Transaction, name: str) -> tuple[bool, bool] | None:
    """Whether an index is valid, and whether it is being built; None if there is none."""
    at.run(_STATE, _full(name))
    return cast(tuple[bool, bool] | None, at.fetchone())


def _full(name: str) -> str:
    return f"{SCHEMA}.{name}"


# By the catalogue: partitions that have no index which is attached to this one.
_PARTITIONS_LACKING: Final = """
SELECT c.relname FROM pg_inherits p JOIN pg_class c ON c.oid = p.inhrelid
WHERE p.inhparent = %s::regclass AND NOT EXISTS (
    SELECT FROM pg_index i JOIN pg_inherits a ON a.inhrelid = i.indexrelid
    WHERE i.indrelid = c.oid AND a.inhparent = %s::regclass)
ORDER BY c.relname
"""
_STATE: Final = """
SELECT i.indisvalid,
       EXISTS (SELECT FROM pg_stat_progress_create_index b WHERE b.index_relid = i.indexrelid)
FROM pg_index i WHERE i.indexrelid = to_regclass(%s)
"""
