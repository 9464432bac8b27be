"""MongoDB as a source: one change stream on the database, read batch by batch.

Nothing is made at the server. The position is the resume token of the stream; on a quiet stream it
is the token the server hands out with each empty batch, so that it never ages out of the oplog.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import pymongo
from bson.errors import BSONError
from bson.timestamp import Timestamp
from pymongo import MongoClient
from pymongo.client_session import ClientSession
from pymongo.errors import (
    AutoReconnect,
    ConfigurationError,
    InvalidURI,
    OperationFailure,
    ProtocolError,
    PyMongoError,
    ServerSelectionTimeoutError,
)

from eventing.changes import Batch, CatalogueTable, Change, Finding, Operation
from eventing.connection_strings import ConnectionString
from eventing.dialing import (
    NOT_THE_PROTOCOL,
    ForbiddenPlace,
    addresses_of,
    guard_connections_of,
)
from eventing.sources import mongochecks
from eventing.sources.base import (
    ANOTHER_ADDRESS,
    START_ANEW,
    Sample,
    SourceBlocked,
    SourceUnavailable,
    Watch,
    unreached,
)
from eventing.sources.mongochecks import Documents
from eventing.sources.mongojson import CODEC_OPTIONS, id_text, json_text, milliseconds

# A name's addresses are tried one after another: two of them may be dead.
_CONNECT_MS: Final = 2_000
_SELECT_MS: Final = 5_000
# The server answers a read within its time; a connection that says nothing for longer is dead.
_SOCKET_MS: Final = 30_000
_SAMPLE_MS: Final = 2000
# For all the questions together that somebody waits for.
_LOOK_SECONDS: Final = 20
_OPERATIONS: Final[Mapping[str, Operation]] = {
    "insert": "insert",
    "update": "update",
    "replace": "update",
    "delete": "delete",
}
_SPLITS_EVENTS_SINCE: Final = (7, 0)

# Codes of the server (mongo/src/mongo/base/error_codes.yml).
_UNAUTHORIZED: Final = 13
_AUTHENTICATION_FAILED: Final = 18
_EVENT_TOO_LARGE: Final = 10334
_LOST: Final = frozenset({222, 260, 280, 286})
_LOST_WORDS: Final = "the oplog no longer holds the place where capture stopped"

# Sockets of this machine that some address names; only administrators may store such an address.
_local_sockets: set[str] = set()
guard_connections_of("pymongo", _local_sockets)


class MongoSource:
    """One MongoDB database, read through a change stream; implements `base.Source`.

    `name` goes into the server's log and `currentOp` as the name of the connection.
    """

    def __init__(self, url: str, name: str) -> None:
        self._address = ConnectionString.parse("mongodb", url)
        _local_sockets.update(host for host in self._address.hosts if host.endswith(".sock"))
        self._url = url
        self._name = name
        self._client: MongoClient[dict[str, Any]] | None = None
        self._session: ClientSession | None = None
        self._database: Documents | None = None
        self._version: tuple[int, ...] = ()
        self._watch: Watch | None = None
        self._wanted: dict[str, Any] = {}
        self._cursor: int = 0
        self._token: str | None = None
        self._last_moment = (0, 0)
        self._place_in_time = 0
        self._fragments: dict[str, Any] = {}
        # While an event that is too large lies ahead.
        self._one_by_one = False

    def open(self, watch: Watch, after: str | None) -> None:
        self.close()
        try:
            self._open(watch, after)
        except (SourceBlocked, SourceUnavailable):
            self.close()
            raise

    def _open(self, watch: Watch, after: str | None) -> None:
        with self._looking():
            database = self._database = self._connect()
            facts = mongochecks.facts_of(database)
        with self._speaking():
            for finding in mongochecks.of_server(facts, database.name):
                if finding.status == "error":
                    raise SourceBlocked(
                        f"{self._address.place}: {finding.what}: {finding.why}", finding.whole_mend
                    )
            self._version = facts.version
            self._session = database.client.start_session(causal_consistency=False)
            self._watch = watch
            self._wanted = _wanted(watch)
            self._token = after
            self._start()

    def refuse_if_read_before(self) -> None:
        """Nothing at the server could show it."""

    def watch(self, watch: Watch) -> None:
        """Read on from the same place, for other collections or operations."""
        self._watch = watch
        wanted = _wanted(watch)
        if self._database is None or wanted == self._wanted:
            return
        self._wanted = wanted
        with self._speaking():
            self._stop()
            self._start()

    def read(self, max_changes: int, timeout_seconds: float) -> Batch:
        if self._database is None or self._token is None:
            raise SourceUnavailable(f"{self._address.place}: not open")
        limit = 1 if self._one_by_one else max_changes
        with self._speaking():
            try:
                reply = self._get_more(limit, timeout_seconds)
            except OperationFailure as error:
                if error.code != _EVENT_TOO_LARGE:
                    raise
                return self._read_too_large()
            return self._batch(reply, limit)

    def _batch(self, reply: Mapping[str, Any], limit: int) -> Batch:
        cursor = reply["cursor"]
        events = cursor["nextBatch"]
        changes = []
        for event in events:
            whole = self._whole(event)
            if whole is None:
                continue
            # Should the rest of the batch be the beginning of an event: up to here it was read.
            self._token = whole["_id"]["_data"]
            change = self._change(whole)
            if change is not None:
                changes.append(change)
        if not self._fragments:
            token = cursor.get("postBatchResumeToken") or events[-1]["_id"]
            self._token = token["_data"]
        self._cursor = cursor["id"]
        if not self._cursor:
            # The database was dropped or renamed: the stream goes on behind that.
            self._start()
        return Batch(changes, str(self._token), drained=len(events) < limit)

    def acknowledge(self, position: str) -> None:
        """The oplog is the server's own affair: nothing has to be told."""

    def close(self) -> None:
        client, self._client = self._client, None
        self._database = self._session = None
        self._fragments = {}
        if client is not None:
            client.close()

    def remove(self) -> None:
        """Nothing is left at the server."""
        self.close()

    def check(self) -> Sequence[Finding]:
        try:
            with self._looking():
                return list(mongochecks.check(self._connect(), self._address.place))
        except (SourceBlocked, SourceUnavailable) as error:
            return [unreached(error)]
        finally:
            self.close()

    def sample(self, table: str) -> Sample | None:
        with self._asked() as database:
            found = database[table].find_one(max_time_ms=_SAMPLE_MS)
            if found is None:
                return None
            return Sample(table, id_text(found["_id"]), json_text(found))

    def catalogue(self) -> Sequence[CatalogueTable]:
        with self._asked() as database:
            return mongochecks.catalogue(database)

    # The connection

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        """Around whatever is asked of the server. Raises SourceBlocked, SourceUnavailable, also for
        an answer that does not follow MongoDB's protocol; their texts quote nothing of it."""
        try:
            yield
        except PyMongoError as error:
            raise self._failure(error) from None
        except BSONError:
            raise self._unlike_a_mongodb() from None

    @contextmanager
    def _looking(self) -> Iterator[None]:
        """The same for those who look at a server and wait for it: not for long."""
        with self._speaking():
            try:
                with pymongo.timeout(_LOOK_SECONDS):
                    yield
            except NOT_THE_PROTOCOL:
                raise self._unlike_a_mongodb() from None

    @contextmanager
    def _asked(self) -> Iterator[Documents]:
        """The database, connected to for a single question. Raises SourceUnavailable."""
        try:
            with self._looking():
                yield self._connect()
        except SourceBlocked as error:
            raise SourceUnavailable(str(error)) from None
        finally:
            self.close()

    def _unlike_a_mongodb(self) -> SourceUnavailable:
        said = "what answers does not speak MongoDB's protocol"
        return SourceUnavailable(f"{self._address.place}: {said}")

    def _connect(self) -> Documents:
        """Raises PyMongoError, SourceBlocked."""
        self._refuse_forbidden_places()
        client = self._client = self._new_client(self._url)
        hello = client.admin.command("hello")
        nodes = sorted(client.nodes)
        if hello.get("msg") == "isdbgrid" and len(nodes) > 1:
            # A cursor lives at one router: the others know nothing of it.
            client.close()
            host, port = nodes[0]
            client = self._client = self._new_client(
                self._url, host=host, port=port, directConnection=True
            )
        return client.get_database(self._address.database, codec_options=CODEC_OPTIONS)

    def _refuse_forbidden_places(self) -> None:
        """Told at once; the driver, whose connections are looked at, would try for seconds."""
        for host in self._address.hosts:
            try:
                addresses_of(host)
            except ForbiddenPlace as error:
                raise SourceBlocked(f"{self._address.place}: {error}", "another address") from None
            except OSError:
                continue  # told by the driver, in the words of a set of members

    def _new_client(self, url: str, **options: Any) -> "MongoClient[dict[str, Any]]":
        try:
            return MongoClient(
                **{"host": url, **options},
                appname=self._name,
                connectTimeoutMS=_CONNECT_MS,
                serverSelectionTimeoutMS=_SELECT_MS,
                socketTimeoutMS=_SOCKET_MS,
                maxPoolSize=4,
            )
        except (ConfigurationError, InvalidURI, ValueError, TypeError):
            # What the driver says may quote the address.
            raise SourceBlocked(
                f"{self._address.place}: the connection string has options that are not understood",
                "mongodb://USER:PASSWORD@HOST:PORT/DATABASE?OPTIONS",
            ) from None

    # The stream

    def _start(self, *, bare: bool = False) -> None:
        """Open the stream behind the token, or from now on. A bare one leaves documents out."""
        stage: dict[str, Any] = {}
        if not bare:
            stage |= {
                "fullDocument": "updateLookup",
                "fullDocumentBeforeChange": "whenAvailable",
            }
        if self._token is not None:
            # As resumeAfter, but it also goes on behind an `invalidate`.
            stage["startAfter"] = {"_data": self._token}
        pipeline: list[dict[str, Any]] = [{"$changeStream": stage}, self._match()]
        if bare:
            pipeline.append({"$project": {"fullDocument": 0, "updateDescription": 0}})
        elif self._version >= _SPLITS_EVENTS_SINCE:
            pipeline.append({"$changeStreamSplitLargeEvent": {}})
        assert self._database is not None  # noqa: S101 — both callers have connected
        reply = self._database.command(
            {"aggregate": 1, "pipeline": pipeline, "cursor": {"batchSize": 0}},
            session=self._session,
        )
        self._cursor = reply["cursor"]["id"]
        self._fragments = {}
        if self._token is None:
            self._token = reply["cursor"]["postBatchResumeToken"]["_data"]

    def _match(self) -> dict[str, Any]:
        """What the server is to send: what is wanted, and the event that the token is of.

        The server looks for that event behind the filter, and refuses to go on where a trigger
        that wanted it is gone.
        """
        kept: list[dict[str, Any]] = [self._wanted, {"operationType": "invalidate"}]
        if self._token is not None:
            kept.append({"clusterTime": _time_of(self._token)})
        return {"$match": {"$or": kept}}

    def _stop(self) -> None:
        if self._database is not None and self._cursor:
            self._database.command(
                {"killCursors": "$cmd.aggregate", "cursors": [self._cursor]}, session=self._session
            )

    def _get_more(self, limit: int, timeout_seconds: float) -> Mapping[str, Any]:
        """The next batch: at once if there is something, else after the time has passed."""
        assert self._database is not None  # noqa: S101
        return self._database.command(
            {
                "getMore": self._cursor,
                "collection": "$cmd.aggregate",
                "batchSize": limit,
                "maxTimeMS": max(1, int(timeout_seconds * 1000)),
            },
            codec_options=CODEC_OPTIONS,
            session=self._session,
        )

    def _read_too_large(self) -> Batch:
        """Get past an event that is larger than MongoDB's messages can be (16 MB).

        Those before it are read one by one; it alone is then read without its document.
        """
        if not self._one_by_one:
            self._one_by_one = True
            self._start()
            return Batch([], str(self._token), drained=False)
        self._start(bare=True)
        events = self._get_more(1, 1.0)["cursor"]["nextBatch"]
        changes = []
        for event in events:
            change = self._change(event)
            if change is not None:
                problem = (
                    "the change event is larger than 16 MB, which MongoDB before 7.0 cannot"
                    " send: the document and its pre-image are too large together"
                )
                changes.append(change._replace(document="{}", old=None, problem=problem))
            self._token = event["_id"]["_data"]
        self._one_by_one = not events
        self._start()
        return Batch(changes, str(self._token), drained=False)

    def _whole(self, event: dict[str, Any]) -> dict[str, Any] | None:
        """The event put together from its fragments, None while some are to come."""
        split = event.get("splitEvent")
        if split is None:
            return event
        self._fragments |= event
        if split["fragment"] < split["of"]:
            return None
        whole, self._fragments = self._fragments, {}
        return whole

    def _change(self, event: Mapping[str, Any]) -> Change | None:
        """The change an event tells of; None for what is no document's change."""
        operation = _OPERATIONS.get(event["operationType"])
        if operation is None:
            return None
        table = event["ns"]["coll"]
        unwanted = self._watch is not None and not self._watch.wants(table, operation)
        if unwanted or table.startswith("system."):
            return None
        key = event["documentKey"]
        before = event.get("fullDocumentBeforeChange")
        old = json_text(before) if before is not None else None
        if operation == "delete":
            document = old if old is not None else json_text(key)
        else:
            document = json_text(_latest(event))
        time = event["clusterTime"]
        moment = seconds, number = time.time, time.inc
        self._place_in_time = self._place_in_time + 1 if moment == self._last_moment else 0
        self._last_moment = moment
        wall_time = event.get("wallTime")
        return Change(
            position=event["_id"]["_data"],
            index=number + self._place_in_time,
            operation=operation,
            table=table,
            document_id=id_text(key["_id"]),
            document=document,
            committed_at_ms=seconds * 1000 if wall_time is None else milliseconds(wall_time),
            old=old,
            shown_position=f"{seconds}.{number}",
        )

    def _failure(self, error: PyMongoError) -> SourceBlocked | SourceUnavailable:
        """What an error means, without what it may quote of documents or credentials."""
        place = self._address.place
        if error.timeout and not isinstance(error, ServerSelectionTimeoutError):
            return SourceUnavailable(f"{place}: no whole answer came in time")
        if isinstance(error, OperationFailure):
            return self._refusal(error, place)
        if isinstance(error, ServerSelectionTimeoutError):
            forbidden = "".join(f"; {each}" for each in self._forbidden_members())
            return SourceUnavailable(
                f"{place}: no server answers that takes reads and writes{forbidden}"
            )
        if isinstance(error, ProtocolError):
            return self._unlike_a_mongodb()
        if isinstance(error, AutoReconnect):
            return SourceUnavailable(f"{place}: the connection broke off")
        return SourceUnavailable(f"{place}: {type(error).__name__}")

    def _forbidden_members(self) -> Iterator[ForbiddenPlace]:
        """Why members that the set tells of are not connected to."""
        members = self._client.topology_description.server_descriptions() if self._client else ()
        for host, _ in members:
            try:
                addresses_of(host)
            except ForbiddenPlace as error:
                yield error
            except OSError:
                continue

    def _refusal(self, error: OperationFailure, place: str) -> SourceBlocked | SourceUnavailable:
        if error.code in _LOST:
            return SourceBlocked(f"{place}: {_LOST_WORDS}; changes since then are lost", START_ANEW)
        if error.code == _AUTHENTICATION_FAILED:
            return SourceBlocked(
                f"{place}: the user name or the password is wrong", ANOTHER_ADDRESS
            )
        if error.code == _UNAUTHORIZED:
            address = self._address
            user_database = dict(address.options).get("authSource", address.database)
            mend = mongochecks.grant(address.user, user_database, address.database)
            return SourceBlocked(f"{place}: the user lacks a right", mend)
        details = error.details or {}
        return SourceUnavailable(f"{place}: {details.get('codeName', error.code)}")


def _latest(event: Mapping[str, Any]) -> Mapping[str, Any]:
    """The document as it was looked up; of one that is gone by now, what the event itself tells."""
    document = event.get("fullDocument")
    if document is not None:
        return document  # type: ignore[no-any-return]
    known = event.get("updateDescription", {}).get("updatedFields", {})
    return {**event["documentKey"], **known}


def _wanted(watch: Watch) -> dict[str, Any]:
    """What of the stream is wanted, so that the rest does not even leave the server."""
    names = [name for name, operation in _OPERATIONS.items() if operation in watch.operations]
    wanted: dict[str, Any] = {"operationType": {"$in": names}}
    if not watch.wants_future_tables:
        wanted["ns.coll"] = {"$in": sorted(watch.named_tables)}
    return wanted


def _time_of(token: str) -> Timestamp:
    """The time of a resume token's event: it follows the first byte, as seconds and a count."""
    return Timestamp(int(token[2:10], 16), int(token[10:18], 16))
