"""What the API shows of each thing. Names are those of the YAML file where it has the thing too.

Secrets never leave: header values and a database's password are shown as a mask, and a mask that is
sent back stands for what is stored.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import orjson

from eventing import redeliveries
from eventing.access import Actor
from eventing.capture_status import CaptureStatus
from eventing.changes import (
    EVENT_TYPES,
    MISSION_CONTROL,
    SOURCE_NAMES,
    TYPES_WITH_SCHEMAS,
    Finding,
)
from eventing.cloudevents import time_text
from eventing.configuration import settings_mapping
from eventing.definitions import DatabaseDefinition, TriggerDefinition
from eventing.destinations.base import MASK
from eventing.doctor import passes
from eventing.eventing_dbs import Store
from eventing.health import Health
from eventing.history import first_cursor_of
from eventing.logs.base import EventDetail, EventRow, Invocation
from eventing.models import (
    ApiToken,
    AuditEntry,
    Database,
    Membership,
    Notice,
    Notification,
    Project,
    Redelivery,
    Trigger,
    Trouble,
)
from eventing.notifications import title_of
from eventing.projects import (
    active_secrets,
    database_definition_of,
    settings_of,
    trigger_definition_of,
)
from eventing.quantities import instant
from eventing.stats import Bucket, Period, Series
from eventing.trial import Trial


def project_shown(project: Project, actor: Actor) -> dict[str, Any]:
    """A project, its settings, and the caller's role in it."""
    role = actor.role_in(project)
    return {
        "name": project.name,
        "title": str(project),
        "created_at": _moment(project.created_at),
        "role": role.value if role else None,
        **settings_mapping(settings_of(project)),
    }


def database_written(definition: DatabaseDefinition) -> dict[str, Any]:
    """A database as `parse_database` reads it, but for its masked address."""
    written: dict[str, Any] = {
        "alias": definition.alias,
        "type": definition.type,
        "url": "" if definition.type == MISSION_CONTROL else masked_address(definition.url),
    }
    if definition.type in TYPES_WITH_SCHEMAS:
        written["schemas"] = list(definition.schemas) if definition.schemas else None
    return written


def database_shown(database: Database, capture: CaptureStatus) -> dict[str, Any]:
    """A database and how its capture fares."""
    return {
        **database_written(database_definition_of(database)),
        "capture": _capture_shown(capture),
    }


def _capture_shown(capture: CaptureStatus) -> dict[str, Any]:
    return {
        "state": capture.state,
        "error": capture.error or None,
        "mend": capture.mend or None,
        "next_try_at": _moment(capture.next_try_at),
        "lag_ms": capture.lag_ms,
        "lag_bytes": capture.lag_bytes,
        "kept_log_bytes": capture.kept_log_bytes,
        "position": capture.position or None,
        "last_change_at": _moment(capture.last_change_at),
    }


def masked_address(url: str) -> str:
    """A connection string without its password and its parameters, which may hold one too."""
    parts = urlsplit(url)
    credentials, _, place = parts.netloc.rpartition("@")
    user, colon, _ = credentials.partition(":")
    if colon:
        user += f":{MASK}"
    shown = f"{parts.scheme}://{user}{'@' if credentials else ''}{place}{parts.path}"
    return f"{shown}?{MASK}" if parts.query or parts.fragment else shown


def member_shown(membership: Membership, two_factor: bool) -> dict[str, Any]:
    """A member of a project, and whether they sign in with more than a password."""
    user = membership.user
    return {
        "user": user.username,
        "role": membership.role,
        "payloads": membership.sees_payloads,
        "active": user.is_active,
        "two_factor": two_factor,
    }


def notification_shown(notification: Notification, latest: Notice | None) -> dict[str, Any]:
    """Where troubles are told, without the address; and the latest message, if there is one."""
    return {
        "name": notification.name,
        "url": MASK,
        "service": notification.service,
        "kinds": list(notification.kinds),
        "repeat_hours": notification.repeat_hours,
        "lag_seconds": notification.lag_seconds,
        "last": _notice_shown(latest) if latest else None,
    }


def _notice_shown(notice: Notice) -> dict[str, Any]:
    return {
        "title": title_of(notice),
        "created_at": _moment(notice.created_at),
        "sent_at": _moment(notice.sent_at),
        "next_attempt_at": _moment(notice.next_attempt_at),
        "error": notice.error,
    }


def token_shown(token: ApiToken) -> dict[str, Any]:
    """All that is known of a token, which is not the token itself."""
    return {
        "id": token.pk,
        "name": token.name,
        "role": token.role,
        "expires_at": _moment(token.expires_at),
        "user": token.user.username,
        "project": token.project.name if token.project else None,
        "created_at": _moment(token.created_at),
        "last_used_at": _moment(token.last_used_at),
    }


def entry_shown(entry: AuditEntry) -> dict[str, Any]:
    """An entry of the audit log."""
    return {
        "id": entry.pk,
        "at": _moment(entry.at),
        "user": entry.user_name,
        "token": entry.token_id,
        "address": entry.address,
        "action": entry.action,
        "kind": entry.kind,
        "object_id": entry.object_id,
        "object": entry.object_name,
        "old": entry.old,
        "new": entry.new,
    }


def installation_entry_shown(entry: AuditEntry) -> dict[str, Any]:
    """The same of the installation's audit log, which has those of all projects and of none."""
    return {**entry_shown(entry), "project": entry.project_name or None}


def findings_shown(findings: Sequence[Finding]) -> dict[str, Any]:
    """What the doctor found."""
    return {"ok": passes(findings), "findings": [asdict(finding) for finding in findings]}


def trigger_written(definition: TriggerDefinition) -> dict[str, Any]:
    """A trigger as `parse_trigger` reads it, but for its masked headers."""
    return {
        "name": definition.name,
        "databases": list(definition.databases),
        "tables": list(definition.tables),
        "operations": list(definition.operations),
        "url": definition.url,
        "retries": definition.retries,
        "timeout_ms": definition.timeout_ms,
        "state": definition.state,
        "backoff": asdict(definition.backoff),
        "headers": dict.fromkeys(definition.headers, MASK),
        "format": definition.format,
        "concurrency": definition.concurrency,
        "rate_per_second": definition.rate_per_second,
        "ordered": definition.ordered,
    }


def trigger_shown(trigger: Trigger, live: bool) -> dict[str, Any]:
    """A trigger, whether capture applies its present definition, and its breaker."""
    breaker = getattr(trigger, "breaker", None)
    return {
        **trigger_written(trigger_definition_of(trigger)),
        "live": live,
        "problem": trigger.problem,
        "signing_secrets": active_secrets(trigger),
        "breaker": {
            "state": "open" if breaker else "closed",
            "reason": breaker.reason if breaker else None,
            "opened_at": _moment(breaker.opened_at) if breaker else None,
            "next_probe_at": _moment(breaker.next_probe_at) if breaker else None,
        },
    }


def deed_shown(entry: AuditEntry) -> dict[str, Any]:
    """An entry of the audit log for those who may not read that: not from where it was done."""
    return {
        "at": _moment(entry.at),
        "user": entry.user_name,
        "action": entry.action,
        "old": entry.old,
        "new": entry.new,
    }


def figures_shown(
    period: Period,
    found: Series,
    of_each: Mapping[Trigger, Series],
    backlogs: Mapping[int, int],
) -> dict[str, Any]:
    """What came of events in a period: together, step by step, and of each trigger; what of it is
    not finished, by its id, is unknown while a log does not answer."""
    return {
        "within": period.name,
        "since": _moment(found.since),
        "until": _moment(found.until),
        "step_seconds": int(found.step.total_seconds()),
        "total": _summary_shown(found),
        "steps": [
            {"begins_at": _moment(bucket.begins_at), **_bucket_shown(bucket)}
            for bucket in found.buckets
        ],
        "triggers": [
            {"name": trigger.name, "backlog": backlogs.get(trigger.pk), **_summary_shown(series)}
            for trigger, series in of_each.items()
        ],
        "unavailable": list(found.unavailable),
    }


def _summary_shown(found: Series) -> dict[str, Any]:
    return {"per_minute": found.per_minute, **_bucket_shown(found.total)}


def _bucket_shown(bucket: Bucket) -> dict[str, Any]:
    return {
        "stored": bucket.stored,
        "delivered": bucket.delivered,
        "retried": bucket.retried,
        "failed": bucket.failed,
        "success_rate": bucket.success_rate,
        "p50_ms": bucket.p50_ms,
        "p99_ms": bucket.p99_ms,
    }


def trouble_shown(trouble: Trouble) -> dict[str, Any]:
    """Something that is wrong now with a database or a trigger."""
    return {
        "kind": trouble.kind,
        "object": trouble.object_name,
        "reason": trouble.reason,
        "began_at": _moment(trouble.began_at),
    }


def store_shown(store: Store) -> dict[str, Any]:
    """An Eventing DB of a project; `replaced_at` is None for the one in use."""
    return {
        "name": store.name,
        "place": store.place,
        "replaced_at": _moment(store.replaced_at),
        "cursor": first_cursor_of(store),
    }


def health_shown(health: Health) -> dict[str, Any]:
    """How the installation is, and what stands still in the caller's projects."""
    return {
        "reasons": health.reasons,
        "processes": [
            {
                "process": each.process,
                "name": each.name,
                "seen_at": _moment(each.seen_at),
                "alive": each.alive,
                "hindrance": each.hindrance,
            }
            for each in health.processes
        ],
        "unseen": health.unseen,
        "waiting_messages": health.waiting_messages,
        "databases": [
            {
                "project": database.project.name,
                "alias": database.alias,
                "capture": _capture_shown(capture),
            }
            for database, capture in health.sources
        ],
        "breakers": [
            {
                "project": breaker.trigger.project.name,
                "trigger": breaker.trigger.name,
                "reason": breaker.reason,
                "opened_at": _moment(breaker.opened_at),
                "next_probe_at": _moment(breaker.next_probe_at),
            }
            for breaker in health.breakers
        ],
    }


def event_shown(row: EventRow) -> dict[str, Any]:
    """An event as a list shows it."""
    return {
        "id": row.id,
        "trigger": row.trigger,
        "type": EVENT_TYPES[row.operation],
        "database": row.database,
        "db": SOURCE_NAMES[row.database_type],
        "table": row.table,
        "doc_id": row.document_id,
        "status": row.status,
        "attempts": row.attempts,
        "time": _moment(row.committed_at),
        "stored_at": _moment(row.stored_at),
        "next_attempt_at": _moment(row.next_attempt_at),
        "problem": row.problem,
        "last_status_code": row.last_status_code,
        "last_error": row.last_error,
        "last_duration_ms": row.last_duration_ms,
    }


def event_shown_whole(detail: EventDetail) -> dict[str, Any]:
    """An event with its payload, digit for digit as it is stored, and every invocation."""
    return {
        **event_shown(detail.row),
        "position": detail.position,
        "payload": None if detail.payload is None else orjson.Fragment(detail.payload),
        "withheld": detail.withheld,
        "invocations": [_invocation_shown(each) for each in detail.invocations],
    }


def _invocation_shown(invocation: Invocation) -> dict[str, Any]:
    return {
        "attempt": invocation.attempt,
        "started_at": _moment(invocation.started_at),
        "duration_ms": invocation.duration_ms,
        "url": invocation.url,
        "request_headers": _headers(invocation.request_headers),
        "status_code": invocation.status_code,
        "response_headers": _headers(invocation.response_headers),
        "response_body": invocation.response_body,
        "error_kind": invocation.error_kind,
        "error": invocation.error_message,
        "worker": invocation.worker,
    }


def sample_shown(found: tuple[str, Database] | None) -> dict[str, Any]:
    """What would be sent for a row, and whose row that is; null if there is none."""
    payload, database = found or (None, None)
    return {
        "payload": None if payload is None else orjson.Fragment(payload),
        "database": database.alias if database else None,
    }


def trial_shown(trial: Trial) -> dict[str, Any]:
    """A test event: what was sent and what came back."""
    exchange = trial.exchange
    return {
        "delivered": trial.delivered,
        "payload": orjson.Fragment(trial.payload),
        "started_at": time_text(exchange.started_at_ms),
        "duration_ms": exchange.duration_ms,
        "url": exchange.url,
        "request_headers": _headers(exchange.request_headers),
        "status_code": exchange.status_code,
        "response_headers": _headers(exchange.response_headers),
        "response_body": exchange.response_body.decode("utf-8", "replace"),
        "error_kind": exchange.error_kind,
        "error": exchange.error_message,
    }


def _headers(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """As an object; a name that occurs twice has its values joined (RFC 9110 section 5.3)."""
    joined: dict[str, str] = {}
    for name, value in pairs:
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined


def _moment(moment: datetime | None) -> str | None:
    """A time as `2019-10-19T12:40:50.053Z`: UTC, milliseconds."""
    return None if moment is None else instant(moment)


def redelivery_shown(redelivery: Redelivery) -> dict[str, object]:
    """A redelivery of everything that matches a filter. The filter in a request's own words."""
    filters = redeliveries.filters_of(redelivery)
    given = {
        "trigger": filters.trigger,
        "status": filters.status,
        "database": filters.database,
        "table": filters.table,
        "type": EVENT_TYPES[filters.operation] if filters.operation else None,
        "doc_id": filters.document_id,
        "after": _moment(filters.after),
        "before": _moment(filters.before),
        "error": filters.error,
        "min_attempts": filters.min_attempts and str(filters.min_attempts),
    }
    return {
        "id": redelivery.pk,
        "state": redelivery.state,
        "filters": {name: value for name, value in given.items() if value is not None},
        "rate_per_second": redelivery.rate_per_second,
        "total": redelivery.total,
        "looked_at": redelivery.looked_at,
        "redelivered": redelivery.redelivered,
        "reached_at": _moment(redelivery.reached_at),
        "error": redelivery.error,
        "requested_by": redelivery.requested_by,
        "created_at": _moment(redelivery.created_at),
        "finished_at": _moment(redelivery.finished_at),
    }
