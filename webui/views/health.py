"""The health panel: which process was last seen when, what is not ready, and what stands still."""

from collections.abc import Sequence

from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from eventing.health import CAPTURE_STATES, PROCESSES, ProcessHealth, health_of
from webui.frame import Frame, ask_broker
from webui.pages import actor_of, signed_in
from webui.requests import Request


@require_safe
@never_cache
@signed_in
def show(request: Request) -> HttpResponse:
    """The panel as a page, or for the menu in the top bar; of projects only those one may see."""
    health = health_of(actor_of(request).projects())
    states = [status.state for _, status in health.sources]
    processes, gone = _present_and_gone(health.processes)
    context = {
        "processes": processes,
        "gone": gone,
        "unseen": health.unseen,
        "reasons": health.reasons,
        "messages_waiting": health.waiting_messages,
        "sources": health.sources,
        "states": [(state, states.count(state)) for state in CAPTURE_STATES if state in states],
        "breakers": health.breakers,
    }
    template = "health/_panel.html" if request.htmx else "health/page.html"
    return render(request, template, context)


def _present_and_gone(
    seen: Sequence[ProcessHealth],
) -> tuple[list[ProcessHealth], list[ProcessHealth]]:
    """Those that are alive, with the last one of each kind of which none is; and the others."""
    present = [process for process in seen if process.alive]
    kinds = {process.process for process in present}
    gone = []
    for process in seen:
        if process.process not in kinds:
            present.append(process)
            kinds.add(process.process)
        elif not process.alive and process not in present:
            gone.append(process)
    return sorted(present, key=lambda each: (PROCESSES.index(each.process), each.name)), gone


@require_safe
@never_cache
@signed_in
def dot(request: Request) -> HttpResponse:
    """The dot of the top bar, for pages that are left open; 204 while it says what it said."""
    if not request.htmx:
        return redirect("health")
    ask_broker()
    if request.GET.get("seen") == Frame(request).health_token:
        return HttpResponse(status=204)
    return render(request, "components/_health_menu.html")
