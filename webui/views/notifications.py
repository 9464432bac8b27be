"""Settings, Notifications: where the project's troubles are told, and whether that gets there."""

from typing import Final

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, render, resolve_url
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from eventing.access import ADMIN
from eventing.definitions import TROUBLE_KINDS, parse_notification
from eventing.models import Notification, Project, Trouble
from eventing.notifications import (
    delete_notification,
    latest_notices,
    notification_definition_of,
    notifications_of,
    save_notification,
    send_test,
    title_of,
)
from eventing.problems import InvalidInput
from eventing.troubles import FAILING_MINUTES, troubles_of
from webui.forms import Form, given_notification, new_notification_form, notification_form
from webui.lost_updates import (
    ChangedMeanwhile,
    edited,
    makes_anew,
    refuse_lost_update,
    seen,
)
from webui.pages import SeeOther, form_answer, project_page
from webui.requests import Request

KIND_WORDS: Final = {
    "source_blocked": ("Blocked database", "Capture stands still until a person acts."),
    "source_lag": (
        "Lag",
        "A source's changes are read later than the limit, or it keeps over 1 GB of log.",
    ),
    "breaker_open": (
        "Open breaker",
        "Deliveries are held: the endpoint fails all the time.",
    ),
    "trigger_failing": (
        "Failing trigger",
        f"Events of it have failed for good within {FAILING_MINUTES} minutes.",
    ),
}


@require_safe
@project_page(ADMIN)
def index(request: Request, project: Project) -> HttpResponse:
    """Where troubles are told, what came of the latest message, and what is wrong now."""
    latest = latest_notices(project)
    rows = []
    for notification in notifications_of(project):
        notice = latest.get(notification.pk)
        rows.append(
            {
                "notification": notification,
                "kinds": [KIND_WORDS[kind][0] for kind in notification.kinds],
                "notice": notice,
                "title": title_of(notice) if notice else "",
            }
        )
    context = {"rows": rows, "troubles": _troubles(project)}
    return render(request, "settings/notifications.html", context)


def _troubles(project: Project) -> list[tuple[Trouble, str, str]]:
    """What is wrong now: the kind in words, and the page of what it is wrong with."""
    databases = resolve_url("databases", project.name)
    pages = {
        ("source", pk): f"{databases}#database-{alias}"
        for pk, alias in project.databases.values_list("pk", "alias")
    } | {
        ("trigger", pk): resolve_url("trigger", project.name, name)
        for pk, name in project.triggers.values_list("pk", "name")
    }
    return [
        (
            trouble,
            KIND_WORDS[trouble.kind][0],
            pages.get(
                ("source" if trouble.kind.startswith("source") else "trigger", trouble.object_id),
                "",
            ),
        )
        for trouble in troubles_of(project)
    ]


@never_cache
@project_page(ADMIN)
def add(request: Request, project: Project) -> HttpResponse:
    """Tell troubles at one more address."""
    if request.method != "POST":
        return _page(request, new_notification_form(), None)
    return _submitted(request, project, None)


@never_cache
@project_page(ADMIN)
def edit(request: Request, project: Project, name: str) -> HttpResponse:
    """Change a notification; its address stays unless another one is typed."""
    notification = edited(notifications_of(project), request, name=name)
    if notification is None:
        return _deleted_meanwhile(request, project)
    if request.method != "POST":
        form = notification_form(notification_definition_of(notification))
        return _page(request, form, notification)
    return _submitted(request, project, notification)


def _deleted_meanwhile(request: Request, project: Project) -> HttpResponse:
    """The form of one that is gone comes back to add another; sent once more, it does."""
    if makes_anew(request):
        return _submitted(request, project, None)
    return _page(request, Form(given_notification(request.POST)), None)


def _submitted(
    request: Request, project: Project, notification: Notification | None
) -> HttpResponse:
    given = given_notification(request.POST)
    stored = None
    try:
        with project.held():
            if notification is not None:
                # What the form does not say stays as it is now, not as it was when we began.
                notification = get_object_or_404(notifications_of(project), pk=notification.pk)
                stored = notification_definition_of(notification)
                refuse_lost_update(request.POST, "notification", notification.pk, stored)
            definition = parse_notification(given, stored)
            saved = save_notification(project, definition, notification, by=request.actor)
    except InvalidInput as error:
        form = Form(given, error.problems, {"url": "Address", "kinds": "Troubles"})
        return _page(request, form, notification, refused=True)
    except ChangedMeanwhile as conflict:
        return _page(request, Form(given), notification, conflict=conflict)
    messages.success(request, f"{saved.name} is saved. Send a test to see whether it gets there.")
    return SeeOther(resolve_url("settings-notifications", project.name))


def _page(
    request: Request,
    form: Form,
    notification: Notification | None,
    *,
    refused: bool = False,
    conflict: ChangedMeanwhile | None = None,
) -> HttpResponse:
    stored = notification_definition_of(notification) if notification else None
    carried = seen(request, "notification", notification, stored, conflict)
    context = {
        "form": form,
        "notification": notification,
        "seen": carried,
        "kinds": [(kind, *KIND_WORDS[kind]) for kind in TROUBLE_KINDS],
    }
    is_late = carried is not None and carried.is_late
    template = "settings/notification.html"
    return form_answer(request, template, context, refused=refused, is_late=is_late)


@require_POST
@project_page(ADMIN)
def test(request: Request, project: Project, name: str) -> HttpResponse:
    """Send a message that says it is a test."""
    notification = get_object_or_404(notifications_of(project), name=name)
    error = send_test(notification)
    if error is None:
        messages.success(request, f"{name}: the test was taken by the {notification.service}.")
    else:
        messages.error(request, f"{name}: the test was not taken: {error}.")
    return SeeOther(resolve_url("settings-notifications", project.name))


@project_page(ADMIN)
def delete(request: Request, project: Project, name: str) -> HttpResponse:
    """Delete a notification, after a page that says what that means."""
    notification = get_object_or_404(notifications_of(project), name=name)
    if request.method == "POST":
        delete_notification(notification, by=request.actor)
        messages.success(request, f"{name} is deleted.")
        return SeeOther(resolve_url("settings-notifications", project.name))
    return render(request, "settings/notification_delete.html", {"notification": notification})
