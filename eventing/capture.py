"""Read, match, store, enqueue, acknowledge: the capture loop of one database.

Nothing is acknowledged that is not stored, and events are stored in one transaction with the
position they came from, so each change becomes its events exactly once.
"""

import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

import structlog
from django.conf import settings
from django.db import Error, connection, transaction
from django.db.models import F, QuerySet
from django.db.models.functions import Now

from eventing.changes import TYPES_WITH_SCHEMAS, Batch, Event, Origin
from eventing.cloudevents import EventBuilder
from eventing.enqueueing import BackgroundEnqueuer
from eventing.eventing_dbs import BUILTIN, current_log, current_number, log_numbered
from eventing.lease import Lease
from eventing.logs.base import LogUnavailable, PositionMoved
from eventing.matching import Matcher, Rule
from eventing.models import CaptureLease, Database, Installation, RetiredSource, Trigger
from eventing.models.fields import UndecryptableValue
from eventing.projects import configuration_version, leave_for_removal
from eventing.sources import source_of
from eventing.sources.base import START_ANEW, Source, SourceBlocked, SourceUnavailable

# The most that is stored at once: this many events, or this many characters of payloads. Since a
# change becomes an event for each trigger that it matches, fewer changes are read where many match.
_BATCH_EVENTS: Final = 3000
_BATCH_CHARACTERS: Final = 8 * 1024 * 1024
# How many events the first batch may make if all triggers match.
_FIRST_EVENTS: Final = 200
_READ_SECONDS: Final = 0.25
# How often a position without events is stored, so that the source may drop its log.
_IDLE_POSITION_SECONDS: Final = 5.0
_FIRST_RETRY_SECONDS: Final = 1.0
_LONGEST_RETRY_SECONDS: Final = 60.0
_BLOCKED_RETRY_SECONDS: Final = 15.0
# Errors whose text is made for people and has neither row values nor secrets.
_TELLING: Final = (SourceUnavailable, LogUnavailable, PositionMoved, Error)
# The position of a database that nothing was read of yet.
_BEGUN: Final = "begun"
# Begins the position that is left in a log when another one takes over.
_MOVED: Final = "moved:"
# Begins the position of a source that was seen to have lost what lies behind it.
_LOST: Final = "lost:"

logger = structlog.get_logger(__name__)


class Reconfigured(Exception):
    """The database's row has changed so that it must be opened anew, or is not to be captured."""


def capture_database(database_id: int, stopping: Callable[[], bool]) -> None:
    """Capture one database under its lease until `stopping()`, or as long as it is to be."""
    lease = Lease.acquire(database_id)
    if lease is None:
        return
    log = logger.bind(database=database_id)
    log.info("capture starts")
    failures = 0
    waited_enough = True
    try:
        while not stopping() and not lease.lost.is_set():
            loop: CaptureLoop | None = None
            try:
                loop = CaptureLoop.load(database_id, lease, stopping)
                if loop is None:
                    break
                loop.run()
                failures = 0
            except Reconfigured:
                failures = 0
            except UndecryptableValue as error:
                log.error("capture is blocked", error=str(error))
                _wait(lease, stopping, "blocked", error, _BLOCKED_RETRY_SECONDS)
            except SourceBlocked as error:
                log.warning("capture is blocked", error=str(error), mend=error.mend)
                _wait(lease, stopping, "blocked", error, _BLOCKED_RETRY_SECONDS)
            except Exception as error:
                # What is tried before its time, and fails, is no reason to wait for longer.
                failures = 1 if loop is not None and loop.streamed else failures + waited_enough
                delay = _retry_seconds(failures)
                told = error if isinstance(error, _TELLING) else _untold(error)
                log.warning("capture will be tried again", error=str(told), seconds=delay)
                waited_enough = _wait(lease, stopping, "retrying", told, delay)
            finally:
                if loop is not None:
                    loop.close()
                connection.close()
    finally:
        lease.release()
        log.info("capture stopped")


def _untold(error: Exception) -> Exception:
    """What may be said of an unforeseen error, whose own message may quote a row."""
    logger.exception("capture failed")
    name = type(error).__name__
    return RuntimeError(f"capture failed ({name}); where, is in the log of its process")


def _retry_seconds(failures: int) -> float:
    ceiling = min(_LONGEST_RETRY_SECONDS, _FIRST_RETRY_SECONDS * 2.0 ** min(failures - 1, 10))
    return ceiling * random.uniform(0.8, 1.2)  # noqa: S311 — jitter needs no secrecy


def _wait(
    lease: Lease, stopping: Callable[[], bool], state: str, error: Exception, seconds: float
) -> bool:
    """Show why capture stands still, and wait; a change of configuration ends the wait. Returns
    whether none did."""
    lease.publish(
        state=state,
        error=str(error),
        mend=error.mend if isinstance(error, SourceBlocked) else "",
        next_try_at=datetime.now(UTC) + timedelta(seconds=seconds),
    )
    version = lease.configuration_version
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not stopping() and not lease.lost.is_set():
        if lease.configuration_version != version:
            return False
        lease.lost.wait(_READ_SECONDS)
    return True


class CaptureLoop:
    """One stay on the stream of one database; made anew for each connection."""

    def __init__(
        self, database: Database, source: Source, lease: Lease, stopping: Callable[[], bool]
    ) -> None:
        self._database = database
        self._source = source
        self._lease = lease
        self._stopping = stopping
        self._log_number = current_number(database.project)
        self._log = current_log(database.project)
        self._origin = Origin(
            database.project_id,
            database.project.name,
            database.pk,
            database.alias,
            database.type,  # type: ignore[arg-type]
        )
        self._enqueuer = BackgroundEnqueuer()
        self._storer = ThreadPoolExecutor(1, "stores")
        # The batch that is being stored while the next one is read.
        self._storing: tuple[Batch, Future[None]] | None = None
        self._stored: str | None = None
        self._stored_at = 0.0
        self._version = 0
        self._matcher = Matcher([])
        self._builder = EventBuilder(self._origin, "", self._matcher)
        self._held: frozenset[int] = frozenset()
        self._most_changes = 1
        self.streamed = False

    @classmethod
    def load(
        cls, database_id: int, lease: Lease, stopping: Callable[[], bool]
    ) -> "CaptureLoop | None":
        """The loop for a database, None if it is gone or its project's eventing is off."""
        database = (
            Database.objects.select_related("project__eventing_db")
            .filter(pk=database_id, project__eventing_enabled=True)
            .first()
        )
        if database is None:
            return None
        return cls(database, source_of(database), lease, stopping)

    def run(self) -> None:
        """Open the source and stream until told to stop. Raises what ends the stay."""
        self._lease.publish(state="starting")
        self._load_rules()
        # `migrate` does not reach a log in a project's own database.
        self._log.make_tables()
        if self._wants_restart():
            self._start_anew()
        else:
            self._bring_position()
        self._stored = self._log.position(self._database.pk)
        if self._stored is None:
            self._begin()
        try:
            self._open()
        finally:
            self._give_up_if_unwanted()
        if self._stored == _BEGUN:
            # Where it begins is stored before anybody is told that it streams; else a connection
            # that breaks in between would make it begin again at a later place.
            self._step(self._source.read(self._most_changes, _READ_SECONDS))
            self._finish_storing()
        self._lease.publish(
            state="streaming", error="", mend="", next_try_at=None, applied_version=self._version
        )
        logger.info("capture streams", database=self._database.pk, position=self._stored)
        while not self._stopping() and not self._lease.lost.is_set():
            if self._lease.configuration_version != self._version:
                self._finish_storing()
                self._reconfigure()
            self._step(self._source.read(self._most_changes, _READ_SECONDS))
        self._finish_storing()

    def close(self) -> None:
        """Release connections and threads, once what is being stored is stored."""
        # Behind what is being stored: whoever comes next reads its position.
        self._storer.submit(self._log.close)
        self._storer.shutdown()
        self._enqueuer.close()
        self._source.close()

    def _start_anew(self) -> None:
        """A person accepted the loss: forget slot and position, and start from now."""
        self._source.remove()
        self._log.forget_position(self._database.pk)
        self._point_to_log()
        CaptureLease.objects.filter(database=self._database).update(restart_from_now=False)
        logger.warning("capture starts anew from now", database=self._database.pk)

    def _begin(self) -> None:
        """Note that capture begins, before it makes anything at the source.

        So what is found there without that note is of a capture that the log has forgotten.
        """
        self._source.refuse_if_read_before()
        self._log.append(self._origin, [], None, _BEGUN)
        self._stored = _BEGUN

    def _open(self) -> None:
        """Open the source behind the stored position. What it has lost may be hidden by what it
        writes from now on, so that is noted; until a person accepts it, nothing is read."""
        position = self._stored
        if position is None or position == _BEGUN:
            self._source.open(self._matcher, None)
            return
        if position.startswith(_LOST):
            raise SourceBlocked(
                f"{self._database.alias}: the server was put back to an earlier state, or its log"
                " begun anew: it has lost the place up to which it had been read; changes committed"
                " since then may be lost",
                START_ANEW,
            )
        try:
            self._source.open(self._matcher, position)
        except SourceBlocked as error:
            if error.for_good:
                self._log.append(self._origin, [], position, _LOST + position)
            raise

    def _give_up_if_unwanted(self) -> None:
        """Have what was just made at the source taken away if meanwhile the database was deleted or
        switched off: whoever took away what was there then may have found nothing yet."""
        database, name = self._database, self._database.source_name
        is_wanted = Database.objects.filter(
            pk=database.pk, source_name=name, project__eventing_enabled=True
        ).exists()
        retired = RetiredSource.objects.filter(source_name=name)
        # Whoever is at that row has to look again.
        if retired.update(attempts=F("attempts") + 1, next_try_at=Now()):
            raise SourceUnavailable(
                f"{database.alias}: what an earlier capture left is still there"
            )
        if not is_wanted:
            leave_for_removal(database)
            raise Reconfigured

    def _bring_position(self) -> None:
        """Fetch the position from the log used before, should the project have another one now.

        Each step may be the last before a crash, and is then done again. What is left behind in
        the earlier log lets nobody store there any more, whoever still believes to hold the lease.
        """
        before = self._database.position_in_id or BUILTIN
        earlier = self._log if before == self._log_number else log_numbered(before)
        position = earlier.position(self._database.pk)
        moved = (position or "").removeprefix(_MOVED)
        if earlier is self._log:
            if position != moved and moved:
                # It was to go elsewhere, and the choice was taken back on the way.
                self._log.append(self._origin, [], position, moved)
            return
        if position is not None:
            if moved == position:
                earlier.append(self._origin, [], position, _MOVED + position)
            self._log.append(self._origin, [], self._log.position(self._database.pk), moved)
        self._point_to_log()
        logger.info("capture stores in another Eventing DB", database=self._database.pk)

    def _point_to_log(self) -> None:
        """Note that the position is now in the log that this loop stores in."""
        number = None if self._log_number == BUILTIN else self._log_number
        Database.objects.filter(pk=self._database.pk).update(position_in=number)

    def _step(self, batch: Batch) -> None:
        """Store a batch with its position, then enqueue, then acknowledge; while more is to be
        read, a batch is read as the one before is stored."""
        events = self._builder.events(batch.changes)
        if events:
            self._fit(len(batch.changes), events)
        self._finish_storing()
        idle = time.monotonic() - self._stored_at
        moved = batch.position != self._stored
        if events or (moved and (self._stored == _BEGUN or idle >= _IDLE_POSITION_SECONDS)):
            store = partial(self._store, events, self._stored, batch.position)
            self._stored = batch.position
            if batch.drained:
                # There is nothing to read meanwhile, so another thread would gain nothing.
                store()
                self._acknowledge(batch)
            else:
                self._storing = batch, self._storer.submit(store)
        else:
            self._publish(batch)

    def _store(self, events: Sequence[Event], previous: str | None, position: str) -> None:
        self._log.append(self._origin, events, previous, position)
        self._enqueue(events)

    def _finish_storing(self) -> None:
        """Wait for the batch that is being stored, and acknowledge it. Raises what keeps it from
        being stored."""
        if self._storing is None:
            return
        batch, stored = self._storing
        self._storing = None
        stored.result()
        self._acknowledge(batch)

    def _acknowledge(self, batch: Batch) -> None:
        """Let the source forget what is stored."""
        self._stored_at = time.monotonic()
        self.streamed = True
        self._source.acknowledge(batch.position)
        self._publish(batch)

    def _fit(self, changes: int, events: Sequence[Event]) -> None:
        """Next time read about as many changes as make one batch of events."""
        characters = sum(len(event.payload) for event in events)
        fitting = min(
            _BATCH_EVENTS * changes // len(events),
            _BATCH_CHARACTERS * changes // max(1, characters),
        )
        self._most_changes = max(1, min(fitting, 2 * self._most_changes, _BATCH_EVENTS))

    def _enqueue(self, events: Sequence[Event]) -> None:
        """Tell the workers; what is held or cannot be sent stays where it is."""
        waiting: dict[int, list[str]] = defaultdict(list)
        for event in events:
            if event.problem is None and event.trigger_id not in self._held:
                waiting[event.trigger_id].append(event.id_text)
        for trigger_id, event_ids in waiting.items():
            self._enqueuer.put(trigger_id, event_ids, self._log_number)

    def _publish(self, batch: Batch) -> None:
        if not batch.changes:
            lag_ms = 0 if batch.drained else self._lease.status.lag_ms
            self._lease.publish(
                position=batch.position,
                lag_ms=lag_ms,
                lag_bytes=batch.source_lag_bytes,
                kept_log_bytes=batch.kept_log_bytes,
            )
            return
        last_ms = batch.changes[-1].committed_at_ms
        age_ms = max(0, int(time.time() * 1000) - last_ms)
        self._lease.publish(
            position=batch.position,
            lag_ms=0 if batch.drained else age_ms,
            lag_bytes=batch.source_lag_bytes,
            kept_log_bytes=batch.kept_log_bytes,
            last_change_at=datetime.fromtimestamp(last_ms / 1000, UTC),
        )

    def _reconfigure(self) -> None:
        """Bring triggers into force; leave the stream if the database itself has changed."""
        fresh = (
            Database.objects.select_related("project__eventing_db")
            .filter(pk=self._database.pk)
            .first()
        )
        if fresh is None or not fresh.project.eventing_enabled:
            raise Reconfigured
        if _identity(fresh) != _identity(self._database) or self._wants_restart():
            raise Reconfigured
        self._load_rules()
        self._source.watch(self._matcher)
        self._lease.publish(applied_version=self._version)

    def _wants_restart(self) -> bool:
        return CaptureLease.objects.filter(database=self._database, restart_from_now=True).exists()

    def _load_rules(self) -> None:
        """Read the triggers that watch this database, and the version they belong to."""
        with transaction.atomic():
            # The version first: what changes while we read raises it again.
            self._version = configuration_version()
            triggers = list(
                Trigger.objects.filter(project_id=self._database.project_id)
                .exclude(state="disabled")
                .prefetch_related("databases")
            )
            installation = Installation.objects.get()
        watching = [
            trigger
            for trigger in triggers
            if not trigger.databases.all()
            or self._database.pk in {database.pk for database in trigger.databases.all()}
        ]
        self._held = frozenset(item.pk for item in watching if item.state == "paused")
        self._matcher = Matcher(
            [
                Rule(
                    item.pk,
                    item.name,
                    tuple(item.tables),
                    frozenset(item.operations),  # type: ignore[arg-type]
                    item.ordered,
                )
                for item in watching
            ],
            has_schemas=self._database.type in TYPES_WITH_SCHEMAS,
        )
        self._most_changes = max(1, _FIRST_EVENTS // max(1, len(watching)))
        node_id = settings.NODE_ID or str(installation.node_id)
        self._builder = EventBuilder(self._origin, node_id, self._matcher)


def _identity(database: Database) -> tuple[object, ...]:
    """What of a database's row a connection depends on."""
    return (
        database.url,
        database.type,
        database.schemas,
        database.source_name,
        database.alias,
        database.project.name,
        current_number(database.project),
        database.project.eventing_db.url if database.project.eventing_db else "",
    )


def remove_retired_sources() -> None:
    """Take away what deleted or switched-off databases left at their servers, one try each."""
    for retired in _retired_sources_due():
        delay = timedelta(seconds=_retry_seconds(retired.attempts + 1) + 10)
        mine = RetiredSource.objects.filter(pk=retired.pk, attempts=retired.attempts).update(
            attempts=retired.attempts + 1, next_try_at=Now() + delay
        )
        if not mine:
            continue
        try:
            _remove(retired)
        except (SourceUnavailable, SourceBlocked, UndecryptableValue) as error:
            logger.warning("a source's slot could not be removed yet", error=str(error))
            RetiredSource.objects.filter(pk=retired.pk).update(error=str(error))
            continue
        # Not if a capture that was just beginning has left something since.
        RetiredSource.objects.filter(pk=retired.pk, attempts=retired.attempts + 1).delete()


def _remove(retired: RetiredSource) -> None:
    source = source_of(retired)
    try:
        source.remove()
    finally:
        source.close()
        logger.info("removed what a source had left", database=retired.database_id)


def has_retired_sources_due() -> bool:
    """Whether there is something to take away now."""
    return _retired_sources_due().exists()


def _retired_sources_due() -> QuerySet[RetiredSource]:
    return RetiredSource.objects.filter(next_try_at__lte=Now())


def number_of_databases() -> int:
    """How many databases are to be captured, by whichever process."""
    return Database.objects.filter(project__eventing_enabled=True).count()


def abandoned_databases() -> set[int]:
    """Ids of databases whose process died: their lease ran out instead of being given back."""
    abandoned = CaptureLease.objects.filter(holder__isnull=False, expires_at__lt=Now())
    return set(abandoned.values_list("database_id", flat=True))


def databases_to_capture() -> list[int]:
    """Ids of databases that should be captured and that nobody captures at present.

    One whose earlier slot has yet to be taken away waits for that.
    """
    held = CaptureLease.objects.filter(holder__isnull=False, expires_at__gte=Now())
    return list(
        Database.objects.filter(project__eventing_enabled=True)
        .exclude(capture__in=held)
        .exclude(source_name__in=RetiredSource.objects.values("source_name"))
        .values_list("pk", flat=True)
    )
