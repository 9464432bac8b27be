"""What a MongoDB must have to be captured, and what to run where it lacks that.

The doctor's findings and the refusals of `MongoSource.open` come from the same facts.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from pymongo.database import Database
from pymongo.errors import OperationFailure, PyMongoError

from eventing.changes import CatalogueTable, Finding, prerequisite

_OLDEST_VERSION: Final = (6, 0)
_SHORT_OPLOG_HOURS: Final = 24
# The least that replSetResizeOplog takes.
_LEAST_OPLOG_MB: Final = 990
_SAMPLED_DOCUMENTS: Final = 20
_NO_PRE_IMAGES: Final = "a delete tells the _id only: no pre-images are kept"

Documents = Database[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Facts:
    """What a server is and what it keeps. `oplog_hours` is None where the user may not see it."""

    version: tuple[int, ...]
    version_text: str
    has_oplog: bool
    is_sharded: bool
    may_watch: bool
    user: str
    user_database: str
    oplog_hours: float | None


def facts_of(database: Documents) -> Facts:
    """Ask the server. Raises PyMongoError."""
    hello = database.command("hello")
    version_text = str(database.client.server_info()["version"])
    is_sharded = hello.get("msg") == "isdbgrid"
    has_oplog = is_sharded or "setName" in hello
    users = database.command("connectionStatus")["authInfo"]["authenticatedUsers"]
    return Facts(
        version=tuple(int(part) for part in version_text.split("-")[0].split(".")),
        version_text=version_text,
        has_oplog=has_oplog,
        is_sharded=is_sharded,
        may_watch=not has_oplog or _may_watch(database),
        user=str(users[0]["user"]) if users else "anonymous",
        user_database=str(users[0]["db"]) if users else "admin",
        oplog_hours=_oplog_hours(database) if has_oplog and not is_sharded else None,
    )


def _may_watch(database: Documents) -> bool:
    try:
        database.watch(max_await_time_ms=1).close()
    except OperationFailure as error:
        if error.code == 13:
            return False
        raise
    return True


def _oplog_hours(database: Documents) -> float | None:
    """How far back the oplog reaches; a role without a right on `local` may not know."""
    oplog = database.client["local"]["oplog.rs"]
    try:
        first = oplog.find_one({}, {"ts": 1}, sort=[("$natural", 1)])
        last = oplog.find_one({}, {"ts": 1}, sort=[("$natural", -1)])
    except PyMongoError:
        return None
    if first is None or last is None:
        return None
    return float(last["ts"].time - first["ts"].time) / 3600


def of_server(facts: Facts, database: str) -> Iterator[Finding]:
    """What server and user must have; without any of these nothing works."""
    yield prerequisite(
        "version",
        facts.version >= _OLDEST_VERSION,
        f"MongoDB {facts.version_text}",
        "MongoDB 6.0 is the oldest that can be captured",
        "upgrade the server to MongoDB 6.0 or newer",
    )
    yield prerequisite(
        "replica set",
        facts.has_oplog,
        "the server is part of a replica set or sharded cluster"
        if facts.has_oplog
        else "the server stands alone",
        "only a replica set, be it of one node, keeps the log that changes are streamed from",
        "in mongod.conf, replication.replSetName: rs0 (or the option --replSet rs0); and once it"
        " runs so, rs.initiate() in mongosh",
        restart=True,
    )
    yield prerequisite(
        "watch right",
        facts.may_watch,
        f"the user {facts.user} {'may' if facts.may_watch else 'may not'} watch {database}",
        "changes are read through a change stream",
        grant(facts.user, facts.user_database, database),
    )


def grant(user: str, user_database: str, database: str) -> str:
    """What gives a user, who is known in `user_database`, the right to read a database."""
    return (
        f'db.getSiblingDB("{user_database}").grantRolesToUser("{user}",'
        f' [{{role: "read", db: "{database}"}}])'
    )


def check(database: Documents, place: str) -> Iterator[Finding]:
    """Every finding there is. Raises PyMongoError."""
    facts = facts_of(database)
    yield Finding("connection", "ok", f"connected to {place} as {facts.user}")
    findings = list(of_server(facts, database.name))
    yield from findings
    if any(finding.status == "error" for finding in findings):
        return
    if facts.oplog_hours is not None:
        yield _oplog_finding(database)
    for table in catalogue(database):
        if table.limits:
            yield Finding(
                "pre-images",
                "warning",
                f"{table.name}: {table.limits}",
                "a document is gone by the time its deletion is read",
                table.mend,
            )


def _oplog_finding(database: Documents) -> Finding:
    """Whether the oplog may hold a day: by its size and by how much of it is used."""
    stats = database.client["local"].command("collStats", "oplog.rs", scale=1024 * 1024)
    hours = _oplog_hours(database) or 0.0
    is_full = stats["size"] >= 0.9 * stats["maxSize"]
    what = f"the oplog reaches {hours:.1f} hours back ({stats['maxSize']} MB at most)"
    longer = max(_LEAST_OPLOG_MB, stats["maxSize"] * 4)
    if is_full and hours < _SHORT_OPLOG_HOURS:
        return Finding(
            "oplog",
            "warning",
            what,
            "capture that stands still for longer loses its place",
            f"db.adminCommand({{replSetResizeOplog: 1, size: {longer}}})",
        )
    return Finding("oplog", "ok", what)


def catalogue(database: Documents) -> list[CatalogueTable]:
    """The collections that may be captured, sorted by name. Raises PyMongoError."""
    listed = database.list_collections(filter={"type": {"$in": ["collection", "timeseries"]}})
    found = []
    for each in listed:
        name = each["name"]
        if name.startswith("system."):
            continue
        if each["type"] == "timeseries":
            found.append(CatalogueTable(name, (), "time series have no change stream"))
            continue
        keeps = each.get("options", {}).get("changeStreamPreAndPostImages", {}).get("enabled")
        mend = (
            f'db.runCommand({{collMod: "{name}", changeStreamPreAndPostImages: {{enabled: true}}}})'
        )
        limits = "" if keeps else _NO_PRE_IMAGES
        found.append(CatalogueTable(name, _fields(database, name), limits, "" if keeps else mend))
    return sorted(found, key=lambda table: table.name)


def _fields(database: Documents, name: str) -> tuple[str, ...]:
    """The top-level fields of some of the documents, `_id` first."""
    names = {"$map": {"input": {"$objectToArray": "$$ROOT"}, "in": "$$this.k"}}
    pipeline: list[dict[str, Any]] = [
        {"$limit": _SAMPLED_DOCUMENTS},
        {"$project": {"_id": 0, "names": names}},
    ]
    fields: dict[str, None] = {}
    for document in database[name].aggregate(pipeline):
        fields.update(dict.fromkeys(document["names"]))
    return tuple(fields)
