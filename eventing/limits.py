"""The ledgers of `eventing.allotments`, kept in the control database for all workers to see.

They are worth nothing after a crash, so their table is not written to the server's log; a worker
that cannot reach it goes on with what it was allotted last.
"""

from collections.abc import Sequence

import orjson
import structlog
from django.db import Error, close_old_connections, connection, transaction

from eventing.allotments import Allotment, Ask, Ledger
from eventing.problems import first_line

logger = structlog.get_logger(__name__)


class SharedLimits:
    """Allots slots and turns to the worker named `who`. To be used by one thread."""

    def __init__(self, who: str) -> None:
        self._who = who
        self._reached = True

    def allot(self, asks: Sequence[Ask]) -> list[Allotment] | None:
        """An allotment for each ask, in order; None if the control database does not answer."""
        close_old_connections()
        try:
            allotments = self._allot({ask.trigger_id: ask for ask in asks})
        except Error as error:
            if self._reached:
                logger.warning(
                    "the control database does not answer; this worker keeps to the slots it has",
                    error=first_line(error),
                )
            self._reached = False
            return None
        self._reached = True
        return [allotments[ask.trigger_id] for ask in asks]

    def _allot(self, asks: dict[int, Ask]) -> dict[int, Allotment]:
        ids = sorted(asks)
        with transaction.atomic(), connection.cursor() as cursor:
            # What is lost with the last moments before a crash need not be waited for.
            cursor.execute("SET LOCAL synchronous_commit = off")
            # By primary key, in the same order everywhere, so that no two wait for each other.
            cursor.execute(
                "INSERT INTO eventing_allotment (trigger_id, ledger)"
                " SELECT id, '{}' FROM unnest(%s::bigint[]) AS id ORDER BY id"
                " ON CONFLICT (trigger_id) DO NOTHING",
                [ids],
            )
            cursor.execute(
                "SELECT trigger_id, ledger, extract(epoch FROM clock_timestamp())::float8"
                " FROM eventing_allotment WHERE trigger_id = ANY (%s) ORDER BY trigger_id"
                " FOR UPDATE",
                [ids],
            )
            rows = cursor.fetchall()
            now = max((moment for _, _, moment in rows), default=0.0)
            ledgers = {number: Ledger.from_json(orjson.loads(text)) for number, text, _ in rows}
            allotments = {
                number: ledger.allot(self._who, asks[number], now)
                for number, ledger in ledgers.items()
            }
            cursor.execute(
                "UPDATE eventing_allotment a SET ledger = new.ledger"
                " FROM unnest(%s::bigint[], %s::text[]) AS new (trigger_id, ledger)"
                " WHERE a.trigger_id = new.trigger_id",
                [
                    list(ledgers),
                    [orjson.dumps(ledger.to_json()).decode() for ledger in ledgers.values()],
                ],
            )
        return allotments
