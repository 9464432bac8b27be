"""What surrounds every page: version, theme, the projects to switch to, and the health dot.

Nothing is looked up until a template asks, so partials cost none of it.
"""

from dataclasses import dataclass
from typing import Any, Final

from django.conf import settings
from django.utils.functional import cached_property

from eventing.access import ADMIN, EDITOR, RANK, VIEWER, Actor
from eventing.health import PROCESSES, ProcessHealth, process_health
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

    @cached_property
    def may_refer(self) -> bool:
        """Whether `${NAME}` may be written where a form takes a secret."""
        return Actor(self._request.user).may_refer_to_environment()

    @cached_property
    def projects(self) -> list[Project]:
        """The first projects to switch to, with what they are called."""
        found = Actor(self._request.user).projects().only("name", "title")
        return list(found[:_MOST_PROJECTS])

    @cached_property
    def processes(self) -> list[ProcessHealth]:
        return process_health()

    @cached_property
    def missing(self) -> list[str]:
        """The processes of which none is alive."""
        alive = {process.process for process in self.processes if process.alive}
        return [name for name in PROCESSES if name not in alive]


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
