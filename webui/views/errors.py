"""What is shown when a form is not taken since its page is out of date, or is none of ours."""

from django.http import HttpResponse
from django.shortcuts import render

from webui.pages import page_sent_from
from webui.requests import Request


def csrf_failure(request: Request, reason: str = "") -> HttpResponse:
    """Refused: one has signed in or out elsewhere since, cookies are blocked, or it is forged."""
    if request.htmx:
        told = "This page is out of date. Load it again."
        return HttpResponse(told, status=403, content_type="text/plain")
    context = {"back": page_sent_from(request) or "/"}
    return render(request, "403_csrf.html", context, status=403)
