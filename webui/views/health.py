"""The health panel: which process was last seen when, what is not ready, and what stands still."""

from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from eventing.enqueueing import waiting_messages
from eventing.health import PROCESSES, process_health, readiness
from eventing.models import Breaker, Database
from eventing.projects import capture_statuses
from webui.pages import actor_of
from webui.requests import Request

# In the order in which somebody should look at them.
_STATES = ("blocked", "retrying", "starting", "streaming", "off")


@require_safe
@never_cache
@login_required
def show(request: Request) -> HttpResponse:
    """The panel as a page, or for the menu in the top bar; of projects only those one may see."""
    processes = process_health()
    seen = {process.process for process in processes}
    projects = actor_of(request).projects()
    databases = list(Database.objects.filter(project__in=projects).select_related("project"))
    statuses = capture_statuses(databases)
    sources = [(database, statuses[database.pk]) for database in databases]
    sources.sort(key=lambda each: _STATES.index(each[1].state))
    states = [status.state for _, status in sources]
    breakers = Breaker.objects.filter(trigger__project__in=projects)
    context = {
        "processes": processes,
        "unseen": [name for name in PROCESSES if name not in seen],
        "reasons": readiness(),
        "messages_waiting": waiting_messages(),
        "sources": sources,
        "states": [(state, states.count(state)) for state in _STATES if state in states],
        "breakers": breakers.select_related("trigger__project").order_by("opened_at"),
    }
    template = "health/_panel.html" if request.htmx else "health/page.html"
    return render(request, template, context)
