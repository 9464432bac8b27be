"""What Django stores. The event log is not among it: see `eventing.logs`."""

from eventing.models.control import (
    ApiToken,
    CaptureLease,
    Database,
    EventingDb,
    Heartbeat,
    Installation,
    Membership,
    Project,
    RetiredSource,
    Trigger,
)

__all__ = [
    "ApiToken",
    "CaptureLease",
    "Database",
    "EventingDb",
    "Heartbeat",
    "Installation",
    "Membership",
    "Project",
    "RetiredSource",
    "Trigger",
]
