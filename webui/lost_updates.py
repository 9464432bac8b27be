"""Two people who edit the same thing. A form carries along which state of which thing it was filled
in for; if that is no longer the present state, nothing is saved. The form comes back as it was
typed, with what others have changed since, even if they have renamed or deleted the thing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, TypeVar

from django.db.models import Model, QuerySet
from django.http import Http404, QueryDict

from eventing import audit
from eventing.models import AuditEntry
from eventing.tags import tag_of
from webui.requests import Request

M = TypeVar("M", bound=Model)

_LONGEST_ID: Final = 18
# What the form of a thing that has been deleted carries along: sent once more, it makes another.
_GONE: Final = "gone"


class ChangedMeanwhile(Exception):
    """What a form was filled in for has been changed since; `entries` say who did what."""

    def __init__(self, entries: Sequence[AuditEntry]) -> None:
        super().__init__("changed meanwhile")
        self.entries = entries


@dataclass(frozen=True, slots=True)
class Seen:
    """What a form carries along: `token` names a thing and its state. `changes` is None unless the
    form comes back because of them; `is_gone`: the thing has been deleted."""

    token: str
    changes: Sequence[AuditEntry] | None = None
    is_gone: bool = False

    @property
    def is_late(self) -> bool:
        return self.changes is not None


def seen(
    request: Request,
    kind: str,
    thing: Model | None,
    definition: Any,
    conflict: ChangedMeanwhile | None = None,
) -> Seen | None:
    """What the form of a stored thing is to carry along: the present state when it is opened, or
    comes back since that is another one; else what it has carried until now. Without a thing:
    what the form of a deleted one carries, and None for that of a new one."""
    if thing is None:
        return _seen_gone(request, kind)
    if request.method == "POST" and conflict is None:
        return Seen(request.POST.get("seen", ""))
    changes = conflict.entries if conflict else None
    return replace(seen_now(kind, thing.pk, definition), changes=changes)


def seen_now(kind: str, object_id: int, definition: Any) -> Seen:
    """What the form of a stored thing carries along from now on."""
    return Seen(f"{tag_of(definition)}.{audit.latest_id(kind, object_id)}.{object_id}")


class _Carried(NamedTuple):
    """What a token says; 0 is no id."""

    tag: str
    entry_id: int
    object_id: int


def _carried(post: QueryDict) -> _Carried:
    tag, entry_id, object_id, *_ = [*post.get("seen", "").split("."), "", ""]
    return _Carried(tag, _id(entry_id), _id(object_id))


def _id(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _LONGEST_ID else 0


def edited(things: QuerySet[M], request: Request, **named: str) -> M | None:
    """The thing that an address names; to POST, the one that the form was opened for, whatever it
    is called by now. None: it has been deleted since. Raises Http404."""
    object_id = _carried(request.POST).object_id
    found = things.filter(pk=object_id).first() if object_id else None
    if found is None:
        found = things.filter(**named).first()
    if found is None and not object_id and not makes_anew(request):
        raise Http404
    return found


def makes_anew(request: Request) -> bool:
    """Whether a form is sent by somebody who knows that what it was opened for is gone."""
    return request.POST.get("seen") == _GONE


def _seen_gone(request: Request, kind: str) -> Seen | None:
    if makes_anew(request):
        return Seen(_GONE)
    _, entry_id, object_id = _carried(request.POST)
    if not object_id:
        return None
    entries = [
        each
        for each in audit.entries_since(kind, object_id, entry_id)
        if each.action == f"{kind}.delete" and each.project_id == request.project.pk
    ]
    return Seen(_GONE, entries, is_gone=True)


def refuse_lost_update(post: QueryDict, kind: str, object_id: int, stored: Any) -> None:
    """Raises ChangedMeanwhile if a form was filled in for something else than `stored`.

    To be called while nobody else changes it. A form that carries nothing is taken as it is.
    """
    tag, entry_id, _ = _carried(post)
    if not tag or tag == tag_of(stored):
        return
    entries = audit.entries_since(kind, object_id, entry_id)
    raise ChangedMeanwhile([each for each in entries if each.action == f"{kind}.update"])
