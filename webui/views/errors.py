"""What is shown where no view can answer: a form that is out of date or none of ours, a request
that makes no sense, an error of our own. The last two must do without the database.
"""

from django.http import HttpResponse
from django.shortcuts import render
from django.template.loader import render_to_string

from webui.frame import Frame
from webui.pages import page_sent_from
from webui.requests import Request


def csrf_failure(request: Request, reason: str = "") -> HttpResponse:
    """Refused: one has signed in or out elsewhere since, cookies are blocked, or it is forged."""
    if request.htmx:
        told = "This page is out of date. Load it again."
        return HttpResponse(told, status=403, content_type="text/plain")
    context = {"back": page_sent_from(request) or "/"}
    return render(request, "403_csrf.html", context, status=403)


def bad_request(request: Request) -> HttpResponse:
    """The 400 of a request that no view has seen."""
    words = "Mission Control does not understand this request, or is not reached at this address."
    return _bare_page(request, "That is not understood", words, 400)


def server_error(request: Request) -> HttpResponse:
    """The 500 of an error that nobody has thought of."""
    words = "It has been logged. Try again in a moment."
    return _bare_page(request, "Something went wrong here", words, 500)


def _bare_page(request: Request, title: str, words: str, status: int) -> HttpResponse:
    """A page without what surrounds others, which is looked up; the theme is in a cookie."""
    frame = Frame(request)
    context = {
        "theme": frame.theme,
        "version": frame.version,
        "environment": frame.environment,
        "title": title,
        "words": words,
    }
    return HttpResponse(render_to_string("error.html", context), status=status)
