"""Redelivering everything that matches the filters of the log: asking first, then watching."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from django.contrib import messages
from django.db.models import Q
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, resolve_url
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from eventing import redeliveries
from eventing.access import EDITOR
from eventing.changes import UNFINISHED
from eventing.logs.base import EventFilter
from eventing.models import Project, Redelivery
from eventing.problems import InvalidInput
from webui.filters import LogQuery, log_query, query_of
from webui.pages import SeeOther, form_answer, live_answer, project_page
from webui.requests import Request
from webui.sentences import selection_of

_LISTED: Final = 100


@project_page(EDITOR)
def start(request: Request, project: Project) -> HttpResponse:
    """What would be redelivered and how fast; to POST begins it.

    How many events that are is counted for those who ask with `?count=1`, as the page itself does.
    """
    query = log_query(request.GET, timezone.now())
    context = _asked(query) | {"is_nothing": query.filters.status in UNFINISHED}
    if "count" in request.GET and request.method != "POST" and not query.problems:
        found = redeliveries.matching(project, query.filters)
        context |= {"is_counted": True, "matching": found, "most": redeliveries.MOST_COUNTED}
        context["is_nothing"] |= found.would_do_nothing
    if request.method != "POST" or query.problems:
        refused = bool(query.problems)
        return form_answer(request, "redeliveries/start.html", context, refused=refused)
    rate = request.POST.get("rate_per_second", "").strip() or "0"
    try:
        number: object = int(rate) if rate.isascii() and rate.isdigit() else rate
        begun = redeliveries.start(project, query.filters, number, by=request.actor)
    except InvalidInput as error:
        (problem,) = error.problems
        told = f"Got {problem.given}. Allowed: {problem.allowed}."
        context |= {"rate": rate, "errors": {problem.field: told}}
        return form_answer(request, "redeliveries/start.html", context, refused=True)
    return SeeOther(resolve_url("redelivery", project.name, begun.pk))


def _asked(query: LogQuery) -> dict[str, Any]:
    return {"query": query, "selection": selection_of(query.filters), "rate": "", "errors": {}}


@require_safe
@project_page()
def index(request: Request, project: Project) -> HttpResponse:
    """The latest redeliveries, those that run and those that have ended, kept up to date."""
    found = project.redeliveries.all()[:_LISTED]
    rows = [(each, _words_of(selection_of(redeliveries.filters_of(each)))) for each in found]
    context = {"rows": rows, "kept_days": redeliveries.KEPT.days}
    return live_answer(request, "redeliveries/page.html", "redeliveries/_rows.html", context)


def _words_of(selection: Sequence[tuple[str, str | datetime]]) -> str:
    """What was asked for in a line, but for the times."""
    return ", ".join(f"{name} {value}" for name, value in selection if isinstance(value, str))


@require_safe
@project_page()
def show(request: Request, project: Project, number: int) -> HttpResponse:
    """How far a redelivery is."""
    found = get_object_or_404(project.redeliveries, pk=number)
    context = {
        "redelivery": found,
        "selection": selection_of(redeliveries.filters_of(found)),
        "is_running": found.state == Redelivery.State.RUNNING,
        # What had been counted may have changed since.
        "total": None if found.total is None else max(found.total, found.looked_at),
        "standing": _standing(found) if found.redelivered else [],
        "held": _held(project, redeliveries.filters_of(found)),
        "most_standing": redeliveries.MOST_STANDING,
    }
    return live_answer(request, "redeliveries/show.html", "redeliveries/_state.html", context)


def _held(project: Project, filters: EventFilter) -> list[str]:
    """The triggers, among those whose events were asked for, that send nothing at the moment."""
    of_these = {} if filters.trigger is None else {"name": filters.trigger}
    are_held = Q(state="paused") | Q(breaker__isnull=False)
    return list(project.triggers.filter(are_held, **of_these).values_list("name", flat=True))


def _standing(redelivery: Redelivery) -> list[tuple[str, int | None, str]]:
    """Statuses, how many events have each, and the part of an address that shows those."""
    filters, counts = redeliveries.standing(redelivery)
    return [
        (status, count, query_of(replace(filters, status=status)))
        for status, count in counts.items()
    ]


@require_POST
@project_page(EDITOR)
def cancel(request: Request, project: Project, number: int) -> HttpResponse:
    """Stop a redelivery."""
    found = get_object_or_404(project.redeliveries, pk=number)
    if not redeliveries.cancel(found, by=request.actor):
        messages.warning(request, "The redelivery had ended already.")
    return SeeOther(resolve_url("redelivery", project.name, number))
