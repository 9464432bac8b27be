"""Two people who edit the same thing: a form carries along which state it was filled in for, and
one that was filled in for an earlier state is not saved. It comes back as it was typed, with what
the others have changed since.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from django.http import QueryDict

from eventing import audit
from eventing.models import AuditEntry
from eventing.tags import tag_of
from webui.requests import Request

_LONGEST_ID: Final = 18


class ChangedMeanwhile(Exception):
    """What a form was filled in for is not so any more; `entries` say who did what since."""

    def __init__(self, entries: Sequence[AuditEntry]) -> None:
        super().__init__("changed meanwhile")
        self.entries = entries


@dataclass(frozen=True, slots=True)
class Seen:
    """What a form carries along: `token` names a state. `changes` is None unless the form comes
    back because of them."""

    token: str
    changes: Sequence[AuditEntry] | None = None

    @property
    def is_late(self) -> bool:
        return self.changes is not None


def seen(
    request: Request,
    kind: str,
    object_id: int,
    definition: Any,
    conflict: ChangedMeanwhile | None = None,
) -> Seen:
    """What the form of a stored thing is to carry along: the present state when it is opened, or
    comes back since that is another one; else what it has carried until now."""
    if request.method == "POST" and conflict is None:
        return Seen(request.POST.get("seen", ""))
    changes = conflict.entries if conflict else None
    return replace(seen_now(kind, object_id, definition), changes=changes)


def seen_now(kind: str, object_id: int, definition: Any) -> Seen:
    """What the form of a stored thing carries along from now on."""
    return Seen(f"{tag_of(definition)}.{audit.latest_id(kind, object_id)}")


def refuse_lost_update(post: QueryDict, kind: str, object_id: int, stored: Any) -> None:
    """Raises ChangedMeanwhile if a form was filled in for something else than `stored`.

    To be called while nobody else changes it. A form that carries nothing is taken as it is.
    """
    tag, _, text = post.get("seen", "").partition(".")
    if not tag or tag == tag_of(stored):
        return
    is_id = text.isascii() and text.isdigit() and len(text) <= _LONGEST_ID
    entries = audit.entries_since(kind, object_id, int(text) if is_id else 0)
    raise ChangedMeanwhile([each for each in entries if each.action == f"{kind}.update"])
