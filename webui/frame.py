"""What surrounds every page: version, environment, theme, projects to switch to, the health dot.

Nothing is looked up until a template asks, so partials cost none of it.
"""

from dataclasses import dataclass
from typing import Any, Final

from django.conf import settings
from django.core.cache import cache
from django.db.models import QuerySet
from django.utils.functional import cached_property

from eventing.access import ADMIN, EDITOR, RANK, VIEWER, Actor
from eventing.health import PROCESSES, broker_answers, process_health
from eventing.models import Membership, Project
from webui.requests import Request

THEMES: Final = ("light", "dark", "system")
_MOST_PROJECTS: Final = 100


@dataclass(frozen=True, slots=True)
class SettingsPage:
    """An entry of the navigation within Settings, for those who have at least `role`."""

    address: str
    label: str
    role: Membership.Role


SETTINGS_PAGES: Final = (
    SettingsPage("settings", "Eventing", VIEWER),
    SettingsPage("settings-members", "Members", ADMIN),
    SettingsPage("settings-tokens", "API tokens", VIEWER),
    SettingsPage("settings-notifications", "Notifications", ADMIN),
    SettingsPage("settings-configuration", "Configuration", ADMIN),
    SettingsPage("settings-audit", "Audit log", ADMIN),
)


@dataclass(frozen=True, slots=True)
class Choice:
    """Projects to switch to, as many as a menu holds, with what they are called."""

    projects: list[Project]
    is_cut: bool


def choice_of(projects: QuerySet[Project]) -> Choice:
    """The first of these projects, by id."""
    found = list(projects.only("name", "title")[: _MOST_PROJECTS + 1])
    return Choice(found[:_MOST_PROJECTS], len(found) > _MOST_PROJECTS)


class Frame:
    """The surroundings of one page, read on demand."""

    version = settings.VERSION

    def __init__(self, request: Request) -> None:
        self._request = request

    @property
    def theme(self) -> str:
        """The theme that was chosen in this browser."""
        chosen = self._request.COOKIES.get("theme", "system")
        return chosen if chosen in THEMES else "system"

    @property
    def environment(self) -> str:
        """What this installation is called beside others; empty if it has no name."""
        return str(settings.ENVIRONMENT_NAME)

    @property
    def address(self) -> str:
        """The present address, to come back to."""
        return self._request.get_full_path()

    @property
    def section(self) -> str:
        """The name of the entry in the side bar that the page belongs to."""
        return _SECTIONS.get(self.page.split("-")[0], "")

    @property
    def page(self) -> str:
        """The name of the page's address."""
        match = self._request.resolver_match
        return (match.url_name if match else "") or ""

    @property
    def settings_pages(self) -> list[SettingsPage]:
        """The pages of Settings that are open to whoever looks."""
        own = RANK[self._request.role]
        return [page for page in SETTINGS_PAGES if RANK[page.role] <= own]

    @property
    def may_edit(self) -> bool:
        return getattr(self._request, "role", None) in (EDITOR, ADMIN)

    @property
    def may_administer(self) -> bool:
        return getattr(self._request, "role", None) == ADMIN

    @cached_property
    def may_create_projects(self) -> bool:
        user = getattr(self._request, "user", None)
        return bool(user and user.is_authenticated and Actor(user).may_create_projects())

    @property
    def administers_installation(self) -> bool:
        """Whether the one who has signed in does."""
        return Actor(self._request.user).administers_installation()

    @cached_property
    def may_refer(self) -> bool:
        """Whether `${NAME}` may be written where a form takes a secret."""
        return Actor(self._request.user).may_refer_to_environment()

    @cached_property
    def choice(self) -> Choice:
        """The projects to switch to."""
        return choice_of(Actor(self._request.user).projects())

    @cached_property
    def troubles(self) -> list[str]:
        """What the health dot says is wrong: kinds of process of which none is alive, what keeps
        others from some of their work, the broker.

        No page waits for the broker: `ask_broker` has.
        """
        alive = [process for process in process_health() if process.alive]
        kinds = {process.process for process in alive}
        found = [f"{name} is not running" for name in PROCESSES if name not in kinds]
        hindered = {(each.process, each.hindrance) for each in alive if each.hindrance}
        found += [f"{process}: {hindrance}" for process, hindrance in sorted(hindered)]
        if not cache.get(_BROKER_ANSWERS, True):
            found.append("the broker does not answer")
        return found

    @property
    def health_token(self) -> str:
        """Tells whether the dot would look or read differently."""
        return ",".join(self.troubles) or "none"


def ask_broker() -> None:
    """Note for all pages whether the broker answers, unless it was lately asked."""
    if cache.add(_BROKER_ASKED, True, _BROKER_SECONDS):
        cache.set(_BROKER_ANSWERS, broker_answers(), _BROKER_KNOWN_SECONDS)


_BROKER_ASKED: Final = "health.broker-asked"
_BROKER_ANSWERS: Final = "health.broker-answers"
# How often at most the broker is asked for all open pages together, and how long its answer holds.
_BROKER_SECONDS: Final = 8
_BROKER_KNOWN_SECONDS: Final = 60

_SECTIONS: Final = {
    "overview": "overview",
    "begin": "overview",
    "database": "databases",
    "databases": "databases",
    "trigger": "triggers",
    "triggers": "triggers",
    "event": "events",
    "events": "events",
    "settings": "settings",
    "project": "settings",
}


def frame(request: Request) -> dict[str, Any]:
    """Context processor: `frame`, and the `project` the page is about."""
    return {"frame": Frame(request), "project": getattr(request, "project", None)}
