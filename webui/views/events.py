"""The event log: a list that filters and follows, and one event with all that is known of it."""

from typing import Any, Final
from uuid import UUID

from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import render, resolve_url
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from eventing import history
from eventing.access import EDITOR, Actor
from eventing.changes import EVENT_STATUSES, EVENT_TYPES, OPERATIONS
from eventing.eventing_dbs import current_number
from eventing.history import LogPage
from eventing.logs.base import EventDetail, InvalidCursor, LogUnavailable
from eventing.models import Project
from webui.filters import PERIODS, LogQuery, log_query
from webui.pages import SeeOther, project_page
from webui.requests import Request
from webui.templatetags.console import event_token

_PAGE_ROWS: Final = 50


@require_safe
@project_page()
def index(request: Request, project: Project) -> HttpResponse:
    """A page of the log; for htmx its next rows, or (`seen`) what is new or has changed."""
    query = log_query(request.GET, timezone.now())
    cursor = request.GET.get("cursor") or None
    context: dict[str, Any] = {"query": query, "cursor": cursor}
    if not query.problems:
        try:
            page = history.browse(project, query.filters, cursor, _PAGE_ROWS)
        except InvalidCursor:
            raise Http404("This page of the log does not exist.") from None
        except LogUnavailable as error:
            context["log_error"] = str(error)
        else:
            if request.htmx and "seen" in request.GET:
                return _news(request, page, request.GET["seen"])
            context |= {
                "rows": page.rows,
                "older": page.next_cursor,
                "store": page.store,
                "log_begins": bool(cursor) and str(cursor).endswith("."),
                "is_earlier_log": page.store.number != current_number(project),
            }
    if request.htmx and request.htmx.target == "older":
        return render(request, "events/_rows.html", context)
    context |= _choices(project, query)
    status = 422 if query.problems else 503 if "log_error" in context else 200
    return render(request, "events/page.html", context, status=status)


def _news(request: Request, page: LogPage, seen: str) -> HttpResponse:
    """What the browser does not have yet: rows that are new, and rows that look different now."""
    tokens = set(seen.split(","))
    known = {token[:12] for token in tokens}
    fresh = [row for row in page.rows if row.id.hex[-12:] not in known]
    changed = [
        row for row in page.rows if row.id.hex[-12:] in known and event_token(row) not in tokens
    ]
    if not fresh and not changed:
        return HttpResponse(status=204)
    # When nothing of this page is known, rows between it and what is shown would be missing.
    gap = bool(seen) and len(fresh) == len(page.rows) == _PAGE_ROWS
    context = {"fresh": fresh, "changed": changed, "gap": gap}
    return render(request, "events/_news.html", context)


def _choices(project: Project, query: LogQuery) -> dict[str, Any]:
    """What the filter bar offers; a trigger or database that is gone can still be asked for."""
    triggers = list(project.triggers.values_list("name", "tables"))
    names = [name for name, _ in triggers]
    aliases = list(project.databases.values_list("alias", flat=True))
    tables = {table for _, watched in triggers for table in watched if "*" not in table}
    return {
        "trigger_names": _with(names, query.given.get("trigger")),
        "aliases": _with(aliases, query.given.get("database")),
        "tables": sorted(tables),
        "statuses": EVENT_STATUSES,
        "operations": OPERATIONS,
        "periods": [(name, words) for name, (words, _) in PERIODS.items()],
    }


def _with(names: list[str], asked: str | None) -> list[str]:
    return names if asked is None or asked in names else [asked, *names]


@require_safe
@project_page()
def show(request: Request, project: Project, event_id: UUID) -> HttpResponse:
    """One event: as a page of its own, or opened within the list."""
    detail = _event(project, event_id, request.actor)
    if request.GET.get("seen") == _state_token(detail):
        return HttpResponse(status=204)
    template = "events/_event.html" if request.htmx else "events/event.html"
    return render(request, template, _detail_context(project, detail))


def _event(project: Project, event_id: UUID, actor: Actor) -> EventDetail:
    detail = history.event(project, event_id, by=actor)
    if detail is None:
        raise Http404("There is no such event in this project; it may have expired.")
    return detail


def _state_token(detail: EventDetail) -> str:
    return f"{event_token(detail.row)}-{len(detail.invocations)}"


def _detail_context(project: Project, detail: EventDetail) -> dict[str, Any]:
    row = detail.row
    finished = row.status in ("delivered", "failed", "cancelled")
    sendable = detail.payload is not None and row.problem is None
    return {
        "row": row,
        "type": EVENT_TYPES[row.operation],
        "payload": detail.payload,
        "withheld": detail.withheld,
        "invocations": detail.invocations,
        "timeline": _timeline(detail),
        "token": _state_token(detail),
        "may_redeliver": finished
        and sendable
        and project.triggers.filter(pk=row.trigger_id).exists(),
    }


def _timeline(detail: EventDetail) -> dict[str, Any]:
    """Steps from the commit on: when, and what share of the whole each invocation took."""
    row = detail.row
    ends = [
        invocation.started_at.timestamp() + invocation.duration_ms / 1000
        for invocation in detail.invocations
    ]
    begin = row.committed_at.timestamp()
    whole = max([row.stored_at.timestamp(), *ends]) - begin or 0.001
    bars = [
        {
            "invocation": invocation,
            "length": (length := _length(invocation.duration_ms / 1000, whole)),
            "offset": min(100 - length, _share(invocation.started_at.timestamp() - begin, whole)),
        }
        for invocation in detail.invocations
    ]
    return {
        "stored_after_ms": (row.stored_at.timestamp() - begin) * 1000,
        "stored_length": _length(row.stored_at.timestamp() - begin, whole),
        "whole_ms": whole * 1000,
        "bars": bars,
    }


def _length(part: float, whole: float) -> float:
    """A share that can be seen, however short."""
    return max(0.6, _share(part, whole))


def _share(part: float, whole: float) -> float:
    """Percent of the whole."""
    return round(min(100.0, max(0.0, part / whole * 100)), 2)


@require_POST
@project_page(EDITOR)
def redeliver(request: Request, project: Project, event_id: UUID) -> HttpResponse:
    """Put a finished event back to pending."""
    _event(project, event_id, request.actor)
    count = history.redeliver(project, [event_id])
    if request.htmx:
        context = _detail_context(project, _event(project, event_id, request.actor))
        return render(request, "events/_event.html", context)
    if count:
        messages.success(request, "The event is put back and will be delivered again.")
    else:
        messages.warning(request, "Nothing to redeliver: the event is not finished.")
    return SeeOther(resolve_url("event", project.name, event_id))
