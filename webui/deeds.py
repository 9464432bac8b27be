"""What somebody did, in words: an entry of the audit log as pages show it."""

from dataclasses import dataclass
from typing import Any, Final

from eventing.audit import MASK
from eventing.models import AuditEntry

DEEDS: Final = {
    "project.create": "Project created",
    "project.update": "Project renamed",
    "project.delete": "Project deleted",
    "settings.update": "Settings changed",
    "database.create": "Database added",
    "database.update": "Database changed",
    "database.delete": "Database deleted",
    "database.start_anew": "Capture started anew",
    "trigger.create": "Trigger added",
    "trigger.update": "Trigger changed",
    "trigger.delete": "Trigger deleted",
    "trigger.close_breaker": "Deliveries let go",
    "trigger.reveal_secret": "Signing secret revealed",
    "trigger.rotate_secret": "Signing secret added",
    "trigger.retire_secret": "Old signing secret retired",
    "member.create": "Member added",
    "member.update": "Member changed",
    "member.delete": "Member removed",
    "token.create": "API token created",
    "token.delete": "API token revoked",
    "notification.create": "Notification added",
    "notification.update": "Notification changed",
    "notification.delete": "Notification deleted",
    "user.create": "User made",
    "event.cancel": "Events cancelled",
    "event.redeliver": "Events redelivered",
    "redelivery.start": "Redelivery begun",
    "redelivery.cancel": "Redelivery stopped",
    "redelivery.end": "Redelivery ended",
    "installation.rotate_keys": "Secrets encrypted anew",
    "user.sign_in": "Signed in",
    "user.sign_in_failed": "Sign-in refused",
    "user.password": "Password changed",
    "user.add_factor": "Second factor added",
    "user.remove_factor": "Second factor removed",
    "user.renew_factor": "Second factor renewed",
    "user.reset_factors": "Second factors taken away",
}
_MOST_CHARACTERS: Final = 200


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One field of an entry of the audit log; None on a side that has none."""

    field: str
    old: str | None
    new: str | None


def deed_of(entry: AuditEntry) -> str:
    """What was done, in two or three words."""
    return DEEDS.get(entry.action, entry.action)


def changes_of(entry: AuditEntry) -> list[FieldChange]:
    """What an entry tells, field by field."""
    old, new = entry.old or {}, entry.new or {}
    return [
        FieldChange(
            name,
            _value(old[name]) if name in old else None,
            _value(new[name], was=old.get(name)) if name in new else None,
        )
        for name in sorted({**old, **new})
    ]


def _value(value: Any, was: Any = None) -> str:
    if value == MASK == was:
        return "another value"
    if value is None or value in ("", []):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"
