"""What Django stores. The event log is not among it: see `eventing.logs`."""

from eventing.models.control import (
    Allotment,
    ApiToken,
    AuditEntry,
    Breaker,
    CaptureLease,
    Database,
    EventingDb,
    Heartbeat,
    Installation,
    KeptAnswer,
    Membership,
    Project,
    Redelivery,
    RetiredSource,
    Trigger,
)

__all__ = [
    "Allotment",
    "ApiToken",
    "AuditEntry",
    "Breaker",
    "CaptureLease",
    "Database",
    "EventingDb",
    "Heartbeat",
    "Installation",
    "KeptAnswer",
    "Membership",
    "Project",
    "Redelivery",
    "RetiredSource",
    "Trigger",
]
