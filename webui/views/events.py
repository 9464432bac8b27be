"""The event log: a list that filters and follows, and one event with all that is known of it."""

from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlsplit
from uuid import UUID

from django.contrib import messages
from django.http import Http404, HttpResponse, QueryDict, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render, resolve_url
from django.template.loader import render_to_string
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe
from django_htmx.http import HttpResponseClientRedirect

from eventing import exports, history
from eventing.access import EDITOR, Actor
from eventing.changes import EVENT_STATUSES, EVENT_TYPES, OPERATIONS, UNFINISHED
from eventing.eventing_dbs import current_number
from eventing.exports import EXPORT_KINDS
from eventing.history import LogPage
from eventing.ids import event_id_in
from eventing.logs.base import EventDetail, InvalidCursor, LogUnavailable, SearchTooDeep
from eventing.models import Project
from webui.filters import ATTEMPTS, PERIODS, LogQuery, log_query
from webui.pages import SeeOther, page_asked_for, page_come_from, project_page
from webui.requests import Request
from webui.templatetags.console import MOST_SHOWN, body_of, event_token

_PAGE_ROWS: Final = 50
# The longest document id, quoted, that is put into an address: servers take 4 kB of one.
_MOST_IN_ADDRESS: Final = 2000


@require_safe
@project_page()
def index(request: Request, project: Project) -> HttpResponse:
    """A page of the log; for htmx its next rows, or (`seen`) what is new or has changed."""
    query = log_query(request.GET, timezone.now())
    cursor = request.GET.get("cursor") or None
    triggers = _triggers(project)
    context: dict[str, Any] = {"query": query, "cursor": cursor, **_standing_of(triggers)}
    status = 422 if query.problems else 200
    if not query.problems:
        try:
            page = history.browse(project, query.filters, cursor, _PAGE_ROWS)
        except InvalidCursor:
            raise Http404("This page of the log does not exist.") from None
        except (LogUnavailable, SearchTooDeep) as error:
            context["log_error"] = str(error)
            # A 422 would take the place of what is shown, which live mode only adds to.
            is_too_deep = isinstance(error, SearchTooDeep) and "seen" not in request.GET
            status = 422 if is_too_deep else 503
        else:
            if (
                not page.rows
                and "seen" not in request.GET
                and (named := _event_named(project, query))
            ):
                return _go_to(request, resolve_url("event", project.name, named))
            context |= _shown(project, page, cursor)
            if request.htmx and "seen" in request.GET:
                return _news(request, context, request.GET["seen"])
    if request.htmx and request.htmx.target == "older":
        return render(request, "events/_rows.html", context)
    context |= _choices(project, query, triggers)
    context["most_chosen"] = history.MOST_CHOSEN
    context["redelivery"] = project.redeliveries.first()
    context["may_redeliver_all"] = query.filters.status not in UNFINISHED
    context["sees_payloads"] = request.actor.may_see_payloads(project)
    return render(request, "events/page.html", context, status=status)


def _event_named(project: Project, query: LogQuery) -> UUID | None:
    """The event whose own id was looked for, which endpoints know as `webhook-id`."""
    event_id = event_id_in(query.given.get("doc_id", ""))
    return event_id if event_id and history.rows(project, [event_id]) else None


def _go_to(request: Request, address: str) -> HttpResponse:
    return HttpResponseClientRedirect(address) if request.htmx else SeeOther(address)


def _shown(project: Project, page: LogPage, cursor: str | None) -> dict[str, Any]:
    return {
        "rows": page.rows,
        "older": page.next_cursor,
        "store": page.store,
        "log_begins": cursor is not None and cursor.endswith("."),
        "is_earlier_log": page.store.number != current_number(project),
    }


class _Trigger(NamedTuple):
    """What the list says and asks of a trigger."""

    key: int
    name: str
    tables: list[str]
    state: str
    breaker: int | None


def _triggers(project: Project) -> list[_Trigger]:
    found = project.triggers.values_list("pk", "name", "tables", "state", "breaker")
    return [_Trigger(*each) for each in found]


def _standing_of(triggers: Sequence[_Trigger]) -> dict[str, set[int]]:
    """The triggers there are, for events of others cannot be redelivered; and those of them whose
    deliveries are held, so that events wait."""
    held = {each.key for each in triggers if each.state == "paused" or each.breaker is not None}
    return {"trigger_ids": {each.key for each in triggers}, "held_ids": held}


def _news(request: Request, context: dict[str, Any], seen: str) -> HttpResponse:
    """What the browser does not have yet: rows that are new, and rows that look different now.

    When nothing of this page is known, rows between it and what is shown would be missing: the
    whole page then takes their place, or (`reading`) is only said to be there.
    """
    rows = context["rows"]
    tokens = set(seen.split(","))
    known = {token[:12] for token in tokens}
    fresh = [row for row in rows if row.id.hex[-12:] not in known]
    changed = [row for row in rows if row.id.hex[-12:] in known and event_token(row) not in tokens]
    if not fresh and not changed:
        return HttpResponse(status=204)
    gap = not seen or len(fresh) == len(rows) == _PAGE_ROWS
    news = {"fresh": fresh, "changed": changed, "gap": gap, "reading": "reading" in request.GET}
    return render(request, "events/_news.html", {**context, **news})


def _choices(project: Project, query: LogQuery, triggers: Sequence[_Trigger]) -> dict[str, Any]:
    """What the filter bar offers; a trigger or database that is gone can still be asked for."""
    names = [each.name for each in triggers]
    aliases = list(project.databases.values_list("alias", flat=True))
    tables = {table for each in triggers for table in each.tables if "*" not in table}
    return {
        "trigger_names": _with(names, query.given.get("trigger")),
        "aliases": _with(aliases, query.given.get("database")),
        "tables": sorted(tables),
        "statuses": EVENT_STATUSES,
        "operations": OPERATIONS,
        "attempts": _with([*ATTEMPTS], query.given.get("min_attempts")),
        "most_exported": exports.MOST_EVENTS,
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
    if request.htmx:
        return render(request, "events/_event.html", detail_context(project, detail))
    context = {**detail_context(project, detail), "log_address": _log_address(request, project)}
    return render(request, "events/event.html", context)


def _log_address(request: Request, project: Project) -> str:
    """The event log, with the filters it had if one comes from there."""
    log = resolve_url("events", project.name)
    came_from = page_come_from(request) or ""
    return came_from if urlsplit(came_from).path == log else log


@require_safe
@project_page()
def payload(request: Request, project: Project, event_id: UUID) -> HttpResponse:
    """The payload alone, as it is stored; of an attempt (`?attempt=1`) the body it was sent as."""
    detail = _event(project, event_id, request.actor)
    if detail.withheld:
        raise Http404("You may not see what rows contain.")
    if detail.payload is None:
        raise Http404("The payload of this event has expired.")
    attempt = request.GET.get("attempt")
    if attempt is None:
        return HttpResponse(detail.payload, content_type="application/json")
    sent = next((each for each in detail.invocations if str(each.attempt) == attempt), None)
    if sent is None:
        raise Http404("There is no such attempt of this event.")
    return HttpResponse(body_of(sent, detail.payload), content_type="application/json")


def _event(project: Project, event_id: UUID, actor: Actor) -> EventDetail:
    detail = history.event(project, event_id, by=actor)
    if detail is None:
        raise Http404("There is no such event in this project; it may have expired.")
    return detail


def _state_token(detail: EventDetail) -> str:
    return f"{event_token(detail.row)}-{len(detail.invocations)}"


def detail_context(project: Project, detail: EventDetail) -> dict[str, Any]:
    """What `events/_event.html` shows."""
    row = detail.row
    # Its present name: it may have been renamed since, or deleted.
    trigger = (
        project.triggers.filter(pk=row.trigger_id)
        .values("name", "state", "breaker__reason")
        .first()
    )
    held = ""
    if trigger is not None and row.status == "pending":
        held = "it is paused" if trigger["state"] == "paused" else trigger["breaker__reason"]
    return {
        "row": row,
        "type": EVENT_TYPES[row.operation],
        "is_findable": len(quote(row.document_id)) <= _MOST_IN_ADDRESS,
        "payload": detail.payload,
        "position": detail.position,
        "withheld": detail.withheld,
        "is_long": detail.payload is not None and len(detail.payload) > MOST_SHOWN,
        "most_shown": MOST_SHOWN,
        "invocations": detail.invocations,
        "timeline": _timeline(detail),
        "token": _state_token(detail),
        "trigger": trigger and trigger["name"],
        "held": held,
        "is_finished": row.status not in UNFINISHED,
        "left_alone": _why_left_alone(detail, has_trigger=trigger is not None),
    }


def _why_left_alone(detail: EventDetail, *, has_trigger: bool) -> str:
    """Why a redelivery would do nothing to this event once it is finished; empty if it would."""
    if detail.row.problem is not None:
        return "it can never be sent"
    if not has_trigger:
        return "its trigger has been deleted"
    if detail.payload is None and not detail.withheld:
        return "its payload has expired"
    return ""


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
            "after_ms": (invocation.started_at.timestamp() - begin) * 1000,
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
def chosen(request: Request, project: Project) -> HttpResponse:
    """Redeliver or cancel the events that were chosen in the list."""
    ids = _chosen_ids(request)
    cancels = request.POST.get("do") == "cancel"
    if len(ids) > history.MOST_CHOSEN:
        return _too_many(request, project, len(ids))
    if cancels:
        count = history.cancel_events(project, ids, by=request.actor) if ids else 0
    else:
        count = history.redeliver(project, ids, by=request.actor) if ids else 0
    answer = {"asked": len(ids), "count": count, "left": len(ids) - count, "cancels": cancels}
    if request.htmx:
        shown = {**answer, "rows": history.rows(project, ids), **_standing_of(_triggers(project))}
        return render(request, "events/_chosen.html", shown)
    words = render_to_string("events/_chosen_words.html", answer).strip()
    (messages.success if count else messages.warning)(request, words)
    return SeeOther(_list_come_from(request, project))


def _list_come_from(request: Request, project: Project) -> str:
    return page_asked_for(request) or resolve_url("events", project.name)


def _too_many(request: Request, project: Project, number: int) -> HttpResponse:
    """Nothing is done; in the list all stays chosen, and a link leads to what has no such limit."""
    told = {"number": number, "most": history.MOST_CHOSEN}
    if not request.htmx:
        messages.error(request, render_to_string("events/_chosen_too_many.html", told).strip())
        return SeeOther(_list_come_from(request, project))
    filters = QueryDict(urlsplit(request.htmx.current_url_abs_path or "").query, mutable=True)
    filters.pop("cursor", None)
    address = f"{resolve_url('events-redeliver', project.name)}?{filters.urlencode()}"
    context = {**told, "all_that_match": address}
    return render(request, "events/_chosen_too_many.html", context, status=422)


def _chosen_ids(request: Request) -> list[UUID]:
    """The chosen events, which scripts send in one field, for servers refuse a thousand of them;
    what is no id was not chosen on a page of ours, and chooses nothing."""
    ids = []
    for text in [*request.POST.getlist("id"), *request.POST.get("ids", "").split(",")]:
        with suppress(ValueError):
            ids.append(UUID(text))
    return ids


@require_safe
@project_page()
def export(request: Request, project: Project) -> HttpResponseBase:
    """The events that match, as a file."""
    query = log_query(request.GET, timezone.now())
    kind = next((each for each in EXPORT_KINDS if each == request.GET.get("format")), None)
    if kind is None:
        return HttpResponse("format: allowed are " + ", ".join(EXPORT_KINDS), status=422)
    if query.problems:
        refused = [f"{field}: {error}" for field, error in query.errors.items()]
        return HttpResponse("\n".join(refused), status=422, content_type="text/plain")
    lines = exports.lines(
        project,
        query.filters,
        kind,
        by=request.actor,
        with_payloads=request.GET.get("payloads") == "1",
    )
    # What fails before the first line is an answer of its own.
    try:
        first = next(lines)
    except SearchTooDeep as error:
        return HttpResponse(str(error), status=422, content_type="text/plain")
    answer = StreamingHttpResponse(chain([first], lines), content_type=exports.MEDIA_TYPES[kind])
    name = exports.file_name(project, kind)
    answer["Content-Disposition"] = f'attachment; filename="{name}"'
    return answer


@require_POST
@project_page(EDITOR)
def redeliver(request: Request, project: Project, event_id: UUID) -> HttpResponse:
    """Put a finished event back to pending."""
    detail = _event(project, event_id, request.actor)
    count = history.redeliver(project, [event_id], by=request.actor)
    if request.htmx:
        context = detail_context(project, _event(project, event_id, request.actor))
        return render(request, "events/_event.html", context)
    if count:
        messages.success(request, "The event is put back and will be delivered again.")
    else:
        has_trigger = project.triggers.filter(pk=detail.row.trigger_id).exists()
        why = _why_left_alone(detail, has_trigger=has_trigger) or "the event is not finished"
        messages.warning(request, f"Nothing to redeliver: {why}.")
    return SeeOther(resolve_url("event", project.name, event_id))
