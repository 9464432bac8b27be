"""The health panel: which process was last seen when, and what is not ready."""

from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from eventing.health import PROCESSES, process_health, readiness
from webui.requests import Request


@require_safe
@never_cache
@login_required
def show(request: Request) -> HttpResponse:
    """The panel as a page, or for the menu in the top bar."""
    processes = process_health()
    seen = {process.process for process in processes}
    context = {
        "processes": processes,
        "unseen": [name for name in PROCESSES if name not in seen],
        "reasons": readiness(),
    }
    template = "health/_panel.html" if request.htmx else "health/page.html"
    return render(request, template, context)
