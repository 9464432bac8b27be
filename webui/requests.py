"""What a request carries by the time a view gets it, for the type checker's sake."""

from django.contrib.auth.models import User
from django.http import HttpRequest
from django_htmx.middleware import HtmxDetails

from eventing.access import Actor
from eventing.models import Membership, Project


class Request(HttpRequest):
    """A request after the middleware; `project` and what follows are set by `project_page`.

    Before signing in `user` is in truth an AnonymousUser; views ask `is_authenticated` first.
    """

    htmx: HtmxDetails
    user: User
    project: Project
    actor: Actor
    role: Membership.Role
