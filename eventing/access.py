"""Who may do what: one rule for the console and for REST.

Users act through their membership of a project, administrators of the installation everywhere;
an API token acts with its own role, never beyond its user's.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from django.contrib.auth.models import User
from django.db import connection
from django.db.models import Q, QuerySet
from django.db.models.functions import Now

from eventing.connection_strings import ConnectionString
from eventing.definitions import DatabaseDefinition, references_in
from eventing.models import ApiToken, Membership, Project
from eventing.problems import InvalidInput, Problem

VIEWER: Final = Membership.Role.VIEWER
EDITOR: Final = Membership.Role.EDITOR
ADMIN: Final = Membership.Role.ADMIN
# Per API token; far above what a program makes that waits between its requests.
REQUESTS_PER_MINUTE: Final = 6000
RANK: Final = {VIEWER: 1, EDITOR: 2, ADMIN: 3}


@dataclass(frozen=True, slots=True)
class Actor:
    """Who makes a request: a user, the token they came with, if any, and where they are."""

    user: User
    token: ApiToken | None = None
    address: str = ""

    def role_in(self, project: Project) -> Membership.Role | None:
        """The role the actor has in `project`; None means that it does not exist for them."""
        role = self._role_of_user(project)
        if self.token is None or role is None:
            return role
        if self.token.project_id not in (None, project.pk):
            return None
        return min(role, Membership.Role(self.token.role), key=RANK.__getitem__)

    def _role_of_user(self, project: Project) -> Membership.Role | None:
        if not self.user.is_active:
            return None
        if self.user.is_superuser:
            return ADMIN
        membership = self._membership(project)
        return Membership.Role(membership.role) if membership else None

    def _membership(self, project: Project) -> Membership | None:
        return Membership.objects.filter(user=self.user, project=project).first()

    def may(self, role: Membership.Role, project: Project) -> bool:
        """Whether the actor has at least `role` in `project`."""
        own = self.role_in(project)
        return own is not None and RANK[own] >= RANK[role]

    def may_see_payloads(self, project: Project) -> bool:
        """Whether the actor may see what rows contain: payloads and the bodies of exchanges.

        It is the user's own: a token of theirs with a lower role sees no less of it.
        """
        if self.role_in(project) is None:
            return False
        if self.user.is_superuser:
            return True
        membership = self._membership(project)
        return membership is not None and (membership.role != VIEWER or membership.sees_payloads)

    def administers_installation(self) -> bool:
        """Whether the actor may do everything; a token only if it is an unscoped `admin`."""
        allowed = self.user.is_active and self.user.is_superuser
        if self.token is None:
            return allowed
        return allowed and self.token.project_id is None and self.token.role == ADMIN

    def may_create_projects(self) -> bool:
        """Administrators of the installation may."""
        return self.administers_installation()

    def may_refer_to_environment(self) -> bool:
        """Whether `${NAME}` is resolved for the actor: the environment holds the installation's own
        secrets, which a webhook or a source of someone's own would receive."""
        return self.administers_installation()

    def refuse_references(self, written: Mapping[str, object]) -> None:
        """Raises InvalidInput if a field refers to an environment that is not open to the actor."""
        allowed = "the value itself; ${NAME} is for administrators of the installation"
        problems = [
            Problem(name, "a reference to the environment", allowed)
            for name, value in written.items()
            if isinstance(value, str) and references_in(value)
        ]
        if problems and not self.may_refer_to_environment():
            raise InvalidInput(problems)

    def refuse_local_parts(self, given: DatabaseDefinition, stored_url: str = "") -> None:
        """Raises InvalidInput if an address uses files, sockets or the identity of the machine that
        Mission Control runs on, unless it is stored like that or the actor administers it."""
        if self.administers_installation() or given.url == stored_url:
            return
        parts = set(ConnectionString.parse(given.type, given.url).local_parts)
        if stored_url:
            parts -= set(ConnectionString.parse(given.type, stored_url).local_parts)
        if parts:
            named = f"an address with {', '.join(sorted(parts))}"
            allowed = (
                "a host, and options that name no file; files, sockets and the identity of the"
                " machine are for administrators of the installation"
            )
            raise InvalidInput([Problem("url", named, allowed)])

    def projects(self) -> QuerySet[Project]:
        """The projects the actor may see."""
        projects = Project.objects.all()
        if not self.user.is_superuser:
            projects = projects.filter(memberships__user=self.user)
        if self.token is not None and self.token.project_id is not None:
            projects = projects.filter(pk=self.token.project_id)
        return projects


def command_line() -> Actor:
    """Whoever may run `manage.py` may do everything; nobody knows their name."""
    return Actor(User(username="", is_superuser=True), address="manage.py")


class TooManyRequests(Exception):
    """A token was used too often; it may be used again after the seconds given."""

    def __init__(self, wait_seconds: int) -> None:
        super().__init__(f"try again in {wait_seconds} s")
        self.wait_seconds = wait_seconds


# One statement, so that requests made at once are all counted.
_COUNT: Final = """
    UPDATE eventing_apitoken SET
        last_used_at = now(),
        requests = CASE WHEN counted_since > now() - interval '1 minute'
                        THEN requests + 1 ELSE 1 END,
        counted_since = CASE WHEN counted_since > now() - interval '1 minute'
                             THEN counted_since ELSE now() END
    WHERE id = %s
    RETURNING requests, extract(epoch FROM counted_since + interval '1 minute' - now())"""


def actor_of_token(token: str, address: str = "") -> Actor | None:
    """The actor a token stands for; None if it is unknown, has expired or its user is inactive.

    Raises TooManyRequests.
    """
    lives = Q(expires_at=None) | Q(expires_at__gt=Now())
    found = ApiToken.objects.select_related("user").filter(lives, digest=digest_of(token)).first()
    if found is None or not found.user.is_active:
        return None
    _count_request(found)
    return Actor(found.user, found, address)


def _count_request(token: ApiToken) -> None:
    """Note that a token is used. Raises TooManyRequests."""
    with connection.cursor() as cursor:
        # The primary key's index; no index covers what is set, so the row stays on its page.
        cursor.execute(_COUNT, [token.pk])
        # A token may be revoked meanwhile; this request was just in time.
        requests, wait_seconds = cursor.fetchone() or (0, 0)
    if requests > REQUESTS_PER_MINUTE:
        raise TooManyRequests(math.ceil(wait_seconds))


def digest_of(token: str) -> str:
    """What is stored of a token."""
    return sha256(token.encode()).hexdigest()
