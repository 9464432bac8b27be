"""Event triggers: the list, the form, one trigger's page, and what can be done with it."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final
from urllib.parse import urlencode

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, render, resolve_url
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from eventing import history
from eventing.access import EDITOR
from eventing.audit import history_of
from eventing.capture_status import live_triggers
from eventing.changes import OPERATIONS, TYPES_WITH_SCHEMAS
from eventing.definitions import FORMATS, TRIGGER_STATES, Backoff, TriggerDefinition
from eventing.eventing_dbs import current_log
from eventing.history import remove_trigger
from eventing.logs.base import EventFilter, LogUnavailable, SearchTooDeep
from eventing.matching import watches
from eventing.models import Project, Trigger
from eventing.problems import InvalidInput
from eventing.projects import (
    active_secrets,
    configuration_change,
    retire_signing_secrets,
    rotate_signing_secret,
    save_trigger,
    set_trigger_state,
    signing_secrets_of,
    trigger_definition_of,
)
from eventing.sources.base import SourceUnavailable
from eventing.stats import Bucket, Period, Series, series_by_trigger
from eventing.trial import NOWHERE, Trial, sample_payload, send_test_event, try_out
from webui.charts import Chart, outcomes_chart
from webui.forms import (
    Form,
    copied_trigger_form,
    given_trigger_form,
    header_names,
    new_trigger_form,
    stored_trigger_form,
    trigger_definition,
)
from webui.lost_updates import (
    ChangedMeanwhile,
    edited,
    makes_anew,
    refuse_lost_update,
    seen,
)
from webui.pages import SeeOther, form_answer, live_answer, page_asked_for, project_page
from webui.requests import Request
from webui.sentences import first_change_of, limits_of, retries_of, sentence_of, timetable_of
from webui.templatetags.console import MOST_SHOWN
from webui.views.begin import steps
from webui.views.overview import charts_of, period_asked_for

_FILTERS: Final = ("q", "database", "table", "operation", "state")
# Among the states to filter by: what a person on call looks for first.
FAILING: Final = "failing"
_LATEST: Final = 10
_LATELY: Final = timedelta(hours=23)
_STEP: Final = timedelta(hours=1)


@require_safe
@project_page()
def index(request: Request, project: Project) -> HttpResponse:
    """The triggers that match the search, kept up to date."""
    every = list(
        project.triggers.select_related("project", "breaker").prefetch_related("databases")
    )
    wanted = {name: request.GET.get(name, "") for name in _FILTERS}
    types = dict(project.databases.values_list("alias", "type"))
    found = [trigger for trigger in every if _matches(trigger, types, **wanted)]
    now = timezone.now()
    lately = series_by_trigger(project, now - _LATELY, now, _STEP) if found else {}
    failing = {each.pk for each in found if _is_failing(each, lately[each.pk].total)}
    if wanted["state"] == FAILING:
        found = [each for each in found if each.pk in failing]
    live = live_triggers(found)
    backlogs = _backlogs(project, found)
    context = {
        "rows": [
            {
                "trigger": each,
                "live": each.pk in live,
                "backlog": backlogs.get(each.pk),
                "lately": _lately(lately[each.pk]),
                "is_failing": each.pk in failing,
            }
            for each in found
        ],
        "total": len(every),
        "wanted": wanted,
        "is_filtered": any(wanted.values()),
        "address": f"{request.path}?{urlencode(_set(wanted))}",
        "aliases": list(types),
        "tables": sorted({name for each in every for name in each.tables if "*" not in name}),
        "operations": OPERATIONS,
        "states": (*TRIGGER_STATES, FAILING),
    }
    return live_answer(request, "triggers/page.html", "triggers/_rows.html", context)


def _lately(series: Series) -> tuple[Chart, Bucket]:
    return outcomes_chart(series), series.total


def _is_failing(trigger: Trigger, lately: Bucket) -> bool:
    """Whether events have failed for good lately, or none was taken, or deliveries are held."""
    is_refused = lately.retried > 0 and not lately.delivered
    is_held = trigger.problem is not None or hasattr(trigger, "breaker")
    return lately.failed > 0 or is_refused or is_held


def _set(wanted: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in wanted.items() if value}


def _matches(
    trigger: Trigger,
    types: dict[str, str],
    q: str,
    database: str,
    table: str,
    operation: str,
    state: str,
) -> bool:
    aliases = [each.alias for each in trigger.databases.all()]
    text = " ".join([trigger.name, trigger.url, *trigger.tables]).casefold()
    return (
        q.casefold().strip() in text
        and (not database or not aliases or database in aliases)
        and (not table.strip() or _watches(trigger, table.strip(), aliases or types, types))
        and (not operation or operation in trigger.operations)
        and (state in ("", FAILING, trigger.state))
    )


def _watches(trigger: Trigger, table: str, aliases: Iterable[str], types: dict[str, str]) -> bool:
    """Whether it watches a table of that name in any of its databases."""
    found = {types[alias] in TYPES_WITH_SCHEMAS for alias in aliases if alias in types} or {True}
    return any(watches(trigger.tables, table, has_schemas=each) for each in found)


def _backlogs(project: Project, triggers: list[Trigger]) -> dict[int, int]:
    """Unfinished events a trigger; empty while the log does not answer."""
    try:
        return history.pending_of(project, [trigger.pk for trigger in triggers])
    except LogUnavailable:
        return {}


@project_page(EDITOR)
def add(request: Request, project: Project, begins: bool = False) -> HttpResponse:
    """Add a trigger, from nothing or (`?from=`) like one that exists.

    `begins`: as a step to the first event.
    """
    if request.method == "POST":
        return _submitted(request, project, None, begins=begins)
    form = new_trigger_form()
    if "from" in request.GET:
        model = get_object_or_404(project.triggers, name=request.GET["from"])
        form = copied_trigger_form(trigger_definition_of(model))
    return _form_page(request, project, form, None, begins=begins)


@project_page(EDITOR)
def edit(request: Request, project: Project, name: str) -> HttpResponse:
    """Edit a trigger; its headers' values stay unless they are replaced."""
    trigger = edited(project.triggers.all(), request, name=name)
    if trigger is None:
        return _deleted_meanwhile(request, project)
    if request.method == "POST":
        return _submitted(request, project, trigger)
    return _form_page(
        request, project, stored_trigger_form(trigger_definition_of(trigger)), trigger
    )


def _deleted_meanwhile(request: Request, project: Project) -> HttpResponse:
    """The form of a trigger that is gone comes back to add another; sent once more, it does."""
    if makes_anew(request):
        return _submitted(request, project, None)
    form = given_trigger_form(request.POST, (), None)
    return _form_page(request, project, form, None, words={})


def _submitted(
    request: Request, project: Project, trigger: Trigger | None, *, begins: bool = False
) -> HttpResponse:
    stored = None
    try:
        with configuration_change():
            if trigger is not None:
                # What the form does not say stays as it is now, not as it was when we began.
                trigger = get_object_or_404(project.triggers, pk=trigger.pk)
                stored = trigger_definition_of(trigger)
            definition = trigger_definition(request.POST, stored, request.actor)
            if trigger is not None:
                refuse_lost_update(request.POST, "trigger", trigger.pk, stored)
            saved = save_trigger(project, definition, trigger, by=request.actor)
    except InvalidInput as error:
        form = given_trigger_form(request.POST, error.problems, stored)
        return _form_page(request, project, form, trigger, refused=True, begins=begins)
    except ChangedMeanwhile as conflict:
        form = given_trigger_form(request.POST, (), stored)
        words = _words_of(definition)
        return _form_page(request, project, form, trigger, conflict=conflict, words=words)
    messages.success(request, f"The trigger {saved.name} is saved.")
    if begins:
        return SeeOther(resolve_url("begin-event", project.name))
    return SeeOther(resolve_url("trigger", project.name, saved.name))


def _form_page(
    request: Request,
    project: Project,
    form: Form,
    trigger: Trigger | None,
    *,
    refused: bool = False,
    conflict: ChangedMeanwhile | None = None,
    words: dict[str, Any] | None = None,
    begins: bool = False,
) -> HttpResponse:
    stored = trigger_definition_of(trigger) if trigger else None
    carried = seen(request, "trigger", trigger, stored, conflict)
    context: dict[str, Any] = {
        "steps": steps(request, "begin-trigger") if begins else None,
        "form": form,
        "trigger": trigger,
        "seen": carried,
        "aliases": list(project.databases.values_list("alias", flat=True)),
        "operations": OPERATIONS,
        "states": TRIGGER_STATES,
        "formats": FORMATS,
        **(_description(form) if words is None else words),
    }
    is_late = carried is not None and carried.is_late
    return form_answer(request, "triggers/form.html", context, refused=refused, is_late=is_late)


@require_POST
@project_page(EDITOR)
def sample(request: Request, project: Project) -> HttpResponse:
    """What the form beside it would send for a row that is there now; read on request alone."""
    context: dict[str, Any] = {"asked": True}
    try:
        found = sample_payload(project, _drafted(request, None, url=NOWHERE))
    except InvalidInput as error:
        context["problems"] = given_trigger_form(request.POST, error.problems, None).summary
    except SourceUnavailable as error:
        context["refusal"] = str(error)
    else:
        is_long = found is not None and len(found[0]) > MOST_SHOWN
        context |= {"found": found, "is_long": is_long, "most_shown": MOST_SHOWN}
    return render(request, "triggers/_sample.html", context)


@require_POST
@project_page(EDITOR)
def try_draft(request: Request, project: Project) -> HttpResponse:
    """Send one made-up event to the webhook of a form that is not saved."""
    name = request.POST.get("of", "")
    trigger = edited(project.triggers.all(), request, name=name) if name else None
    try:
        trial = try_out(project, _drafted(request, trigger), trigger)
    except InvalidInput as error:
        stored = trigger_definition_of(trigger) if trigger else None
        form = given_trigger_form(request.POST, error.problems, stored)
        if request.htmx:
            return render(request, "triggers/_trial_refused.html", {"problems": form.summary})
        return _form_page(request, project, form, trigger, refused=True)
    return _trial_answer(request, trial, trigger, is_draft=True)


def _drafted(request: Request, trigger: Trigger | None, url: str = "") -> TriggerDefinition:
    """What the form describes, though it may have no name yet, or no `url`. Raises InvalidInput."""
    stored = trigger_definition_of(trigger) if trigger else None
    given = request.POST.copy()
    for field, value in (("name", "unnamed"), ("url", url)):
        if not given.get(field, "").strip():
            given[field] = value
    return trigger_definition(given, stored, request.actor)


def _trial_answer(
    request: Request, trial: Trial, trigger: Trigger | None, *, is_draft: bool = False
) -> HttpResponse:
    """What a test event came to: within the page for htmx, else as a page of its own."""
    context = {
        "trial": trial,
        "response_body": trial.exchange.response_body.decode("utf-8", "replace"),
        "trigger": trigger,
        "is_draft": is_draft,
    }
    return render(
        request, "triggers/_trial.html" if request.htmx else "triggers/trial.html", context
    )


@require_POST
@project_page(EDITOR)
def preview(request: Request, project: Project) -> HttpResponse:
    """What the form beside it would make, in words; asked for while it is being filled in."""
    form = given_trigger_form(request.POST, (), None)
    touched = set(request.POST.get("touched", "").split())
    context: dict[str, Any] = {}
    try:
        context = _words_of(_drafted(request, None))
        trigger_definition(request.POST, None, request.actor)
    except InvalidInput as error:
        form = given_trigger_form(request.POST, error.problems, None)
    errors = {name: form.errors.get(name, "") for name in _CHECKED if name in touched}
    return render(request, "triggers/_preview.html", {**context, "checked": errors})


_CHECKED: Final = (
    *("name", "url", "operations", "tables"),
    *("retries", "timeout_ms", "concurrency", "rate_per_second"),
)


def _description(form: Form) -> dict[str, Any]:
    """The words beside a form that describes a whole trigger; none beside an empty one."""
    values = form.values
    if form.problems or not values["url"] or not values["operations"]:
        return {}
    definition = TriggerDefinition(
        name=values["name"],
        operations=tuple(values["operations"]),
        url=values["url"],
        databases=tuple(values["databases"]),
        tables=tuple(word.strip() for word in values["tables"].split(",") if word.strip()),
        retries=values["retries"],
        timeout_ms=values["timeout_ms"],
        backoff=Backoff(
            values["backoff_initial_ms"],
            float(values["backoff_factor"]),
            values["backoff_max_ms"],
        ),
        rate_per_second=values["rate_per_second"],
        ordered=values["ordered"],
    )
    return _words_of(definition)


def _words_of(definition: TriggerDefinition) -> dict[str, Any]:
    retries = retries_of(definition.retries, definition.timeout_ms, definition.backoff)
    return {
        "sentence": sentence_of(definition),
        "retry_sentence": f"{retries} {limits_of(definition)}".rstrip(),
        "timetable": timetable_of(definition.retries, definition.timeout_ms, definition.backoff),
    }


@require_safe
@project_page()
def show(request: Request, project: Project, name: str) -> HttpResponse:
    """One trigger: what it does, how it fares, its last events."""
    trigger = _trigger(project, name)
    # A query that runs only if the whole page is asked for.
    period = period_asked_for(request)
    context = {
        **_shown(trigger, period),
        **charts_of(project, period, trigger),
        "history": history_of(trigger),
        "active_secrets": active_secrets(trigger),
    }
    return live_answer(request, "triggers/show.html", "triggers/_state.html", context)


def _trigger(project: Project, name: str) -> Trigger:
    triggers = project.triggers.select_related("project", "breaker").prefetch_related("databases")
    return get_object_or_404(triggers, name=name)


def _shown(trigger: Trigger, period: Period) -> dict[str, Any]:
    is_live = bool(live_triggers([trigger]))
    # They are at hand since then.
    types = {database.alias: database.type for database in trigger.project.databases.all()}
    context: dict[str, Any] = {
        "trigger": trigger,
        "live": is_live,
        "header_names": header_names(trigger),
        **_words_of(trigger_definition_of(trigger)),
        "first_change": first_change_of(trigger_definition_of(trigger), types),
        "backlog": None,
    }
    try:
        backlogs = history.pending_of(trigger.project, [trigger.pk])
        context["backlog"] = backlogs[trigger.pk]
        latest = EventFilter(trigger=trigger.name)
        context["rows"] = (
            current_log(trigger.project).browse(trigger.project_id, latest, None, _LATEST).rows
        )
        context["is_waiting"] = context["live"] and not context["rows"]
        since, _ = period.bounds(timezone.now())
        context["reasons"] = [
            (reason, _log_address(trigger, period, reason.error))
            for reason in history.reasons(trigger.project, replace(latest, after=since))
        ]
        context["most_reasoned"] = history.MOST_REASONED
    except LogUnavailable as error:
        context["log_error"] = str(error)
    except SearchTooDeep:
        # What they are is then told by the log.
        context["reasons"] = []
    return context


def _log_address(trigger: Trigger, period: Period, error: str) -> str:
    """The event log of a trigger's events that failed in a period, and how."""
    query = urlencode({"trigger": trigger.name, "within": period.name, "error": error})
    return f"{resolve_url('events', trigger.project.name)}?{query}"


@require_POST
@project_page(EDITOR)
def set_state(request: Request, project: Project, name: str) -> HttpResponse:
    """Pause or resume a trigger."""
    trigger = get_object_or_404(project.triggers, name=name)
    state = request.POST.get("state", "")
    if state not in TRIGGER_STATES:
        return HttpResponse("state: allowed are " + ", ".join(TRIGGER_STATES), status=422)
    set_trigger_state(trigger, state, by=request.actor)
    return SeeOther(page_asked_for(request) or resolve_url("trigger", project.name, trigger.name))


@require_POST
@project_page(EDITOR)
def send_test(request: Request, project: Project, name: str) -> HttpResponse:
    """Send one made-up event now and show the whole exchange."""
    trigger = _trigger(project, name)
    return _trial_answer(request, send_test_event(trigger), trigger)


@never_cache
@require_POST
@project_page(EDITOR)
def reveal_secret(request: Request, project: Project, name: str) -> HttpResponse:
    """Show the signing secrets of a trigger, which its endpoint needs."""
    trigger = _trigger(project, name)
    context = {"trigger": trigger, "secrets": signing_secrets_of(trigger, by=request.actor)}
    template = "triggers/_secret.html" if request.htmx else "triggers/secret.html"
    return render(request, template, context)


@never_cache
@require_POST
@project_page(EDITOR)
def rotate_secret(request: Request, project: Project, name: str) -> HttpResponse:
    """Add a new signing secret, and show it this once without being asked."""
    trigger = _trigger(project, name)
    context: dict[str, Any] = {"trigger": trigger}
    try:
        context["secrets"] = [rotate_signing_secret(trigger, by=request.actor)]
        context["is_new"] = True
    except InvalidInput:
        messages.warning(request, "There are two secrets already: retire the old one first.")
        return SeeOther(resolve_url("trigger", project.name, name))
    return render(request, "triggers/secret.html", context)


@project_page(EDITOR)
def retire_secret(request: Request, project: Project, name: str) -> HttpResponse:
    """Sign with the newest secret alone, after a page that says what that means."""
    trigger = _trigger(project, name)
    if request.method != "POST" and active_secrets(trigger) > 1:
        pending = _backlogs(project, [trigger]).get(trigger.pk)
        context = {"trigger": trigger, "pending": pending}
        return render(request, "triggers/secret_retire.html", context)
    if request.method == "POST" and retire_signing_secrets(trigger, by=request.actor):
        messages.success(
            request, "The old secret is retired: requests are signed with the new one."
        )
    else:
        messages.warning(request, "There is no older secret to retire.")
    return SeeOther(resolve_url("trigger", project.name, name))


@project_page(EDITOR)
def delete(request: Request, project: Project, name: str) -> HttpResponse:
    """Delete a trigger, after a page that says how many events go with it."""
    trigger = get_object_or_404(project.triggers, name=name)
    if request.method == "POST":
        cancelled = remove_trigger(trigger, by=request.actor)
        lost = f" {cancelled:,} unfinished events were cancelled." if cancelled else ""
        messages.success(request, f"The trigger {name} is deleted.{lost}")
        return SeeOther(resolve_url("triggers", project.name))
    pending = _backlogs(project, [trigger]).get(trigger.pk)
    return render(request, "triggers/delete.html", {"trigger": trigger, "pending": pending})
