"""How times, durations, numbers, payloads and statuses are written, everywhere the same way."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final
from urllib.parse import urlencode
from uuid import UUID

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe

from eventing import quantities
from eventing.changes import EVENT_STATUSES
from eventing.formats import event_id_of, format_sent, message
from eventing.logs.base import Invocation
from eventing.models import AuditEntry, Membership
from webui.charts import Slot
from webui.deeds import FieldChange, changes_of, deed_of
from webui.forms import ROWLESS_VIEWER

register = template.Library()

_STATUS_ICONS: Final = {
    "pending": "clock",
    "delivering": "paper-airplane",
    "delivered": "check-circle",
    "failed": "x-circle",
    "cancelled": "no-symbol",
    "active": "play-circle",
    "paused": "pause-circle",
    "disabled": "no-symbol",
    "off": "no-symbol",
    "starting": "clock",
    "streaming": "check-circle",
    "retrying": "arrow-path",
    "blocked": "exclamation-triangle",
    "running": "arrow-path",
    "done": "check-circle",
    "ok": "check-circle",
    "warning": "exclamation-triangle",
    "error": "x-circle",
}


@register.inclusion_tag("components/_status.html")
def status(name: str, note: str = "") -> dict[str, str]:
    """A status by colour, icon and word."""
    return {"name": name, "note": note, "icon": _STATUS_ICONS[name]}


@register.simple_tag
def when(moment: datetime | None, is_due: bool = False) -> SafeString | str:
    """An instant: UTC until the browser makes it local and relative.

    `is_due`: something is to be done then; once that time has passed, it says `due` instead.
    """
    if moment is None:
        return "—"
    moment = moment.astimezone(UTC)
    is_past = is_due and moment <= datetime.now(UTC)
    return format_html(
        '<time datetime="{}" title="{}"{}>{}</time>',
        moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z",
        instant(moment),
        " data-due" if is_due else "",
        "due" if is_past else f"{moment.day} {moment:%b %H:%M:%S} UTC",
    )


@register.filter
def instant(moment: datetime) -> str:
    """An instant to the millisecond, in UTC, as logs have it."""
    moment = moment.astimezone(UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1000:03d} UTC"


@register.filter
def duration(milliseconds: float | None) -> str:
    """7 ms, 1.25 s, 2 min 5 s, 3 h 20 min, 4 d 2 h."""
    return "—" if milliseconds is None else quantities.duration(milliseconds)


@register.filter
def axis_duration(milliseconds: float) -> str:
    """10 ms, 1 s, 1,000 s: powers of ten on a scale."""
    return f"{milliseconds:g} ms" if milliseconds < 1000 else f"{milliseconds / 1000:,.0f} s"


# What begins with a name (wal_level, db.example.com:5432) begins with that name as it is.
_PLAIN_WORD: Final = re.compile(r"[a-z]+(?=[\s,]|$)")


@register.filter
def sentence(text: str) -> str:
    """A reason as the sentence it is, with a capital letter in front."""
    return text[:1].upper() + text[1:] if _PLAIN_WORD.match(text) else text


@register.filter
def count(number: float | None) -> str:
    """12,345."""
    return "—" if number is None else f"{number:,.0f}"


@register.filter
def rate(number: float) -> str:
    """0, 0.02, 1.4, 12, 1,234: what there is of something in a unit of time."""
    if number >= 100:
        return f"{number:,.0f}"
    return f"{number:.2g}" if number else "0"


@register.filter
def percent(share: float | None) -> str:
    """100 %, 99.4 %, 0 %: never rounded up to all or down to nothing."""
    if share is None:
        return "—"
    if share in (0, 1):
        return f"{share * 100:.0f} %"
    return f"{min(99.9, max(0.1, share * 100)):.1f} %"


@register.simple_tag
def clock(moment: datetime) -> SafeString:
    """A time on an axis: UTC until the browser makes it local."""
    moment = moment.astimezone(UTC)
    return format_html(
        '<time datetime="{}" title="{} UTC" data-clock>{}</time>',
        f"{moment:%Y-%m-%dT%H:%M:%SZ}",
        f"{moment:%Y-%m-%d %H:%M}",
        f"{moment:%H:%M}",
    )


@register.filter
def span_query(slot: Slot) -> str:
    """The event log's filters for the step of a chart."""
    begin = slot.bucket.begins_at.astimezone(UTC)
    end = slot.ends_at.astimezone(UTC)
    return urlencode(
        {"after": f"{begin:%Y-%m-%dT%H:%M:%SZ}", "before": f"{end:%Y-%m-%dT%H:%M:%SZ}"}
    )


@register.simple_tag
def slot_title(slot: Slot, unit: str) -> SafeString:
    """What the step of a chart says when it is pointed at: UTC until the browser makes it local,
    as it does the axis below."""
    bucket = slot.bucket
    begin, end = bucket.begins_at.astimezone(UTC), slot.ends_at.astimezone(UTC)
    if unit == "ms":
        words = f"p50 {duration(bucket.p50_ms)}, p99 {duration(bucket.p99_ms)}"
    else:
        words = (
            f"{bucket.delivered:,} delivered, {bucket.retried:,} retried, {bucket.failed:,} failed"
        )
    return format_html(
        '<title data-from="{}" data-until="{}" data-words="{}">{} to {} UTC: {}</title>',
        f"{begin:%Y-%m-%dT%H:%M:%SZ}",
        f"{end:%Y-%m-%dT%H:%M:%SZ}",
        words,
        f"{begin.day} {begin:%b %H:%M}",
        f"{end:%H:%M}",
        words,
    )


@register.filter
def size(number: int | None) -> str:
    """512 B, 1.4 MB: decimal units."""
    return "—" if number is None else quantities.size(number)


# Characters of a payload on a page; beyond that a browser takes seconds to lay it out.
MOST_SHOWN: Final = 200_000
# Beside right-to-left text a browser looks for the pair of each bracket of a paragraph, in a time
# that grows with the square of their number: a hundred thousand take it half a minute.
_MOST_BRACKETS: Final = 2_000
_RIGHT_TO_LEFT: Final = re.compile(
    "[\u0590-\u08ff\u200f\u202a-\u202e\u2066-\u2068\ufb1d-\ufdff\ufe70-\ufefc"
    "\U00010800-\U00010fff\U0001e800-\U0001efff]"
)
_BRACKET: Final = re.compile(
    "[()\\[\\]{}\u0f3a-\u0f3d\u169b\u169c\u2045\u2046\u207d\u207e\u208d\u208e\u2308-\u230b"
    "\u2329\u232a\u2768-\u2775\u27c5\u27c6\u27e6-\u27ef\u2983-\u2998\u29d8-\u29db\u29fc\u29fd"
    "\u2e22-\u2e29\u2e55-\u2e5c\u3008-\u3011\u3014-\u301b\ufe59-\ufe5e"
    "\uff08\uff09\uff3b\uff3d\uff5b\uff5d\uff5f\uff60\uff62\uff63]"
)


@register.filter
def quick_part(text: str) -> str:
    """What of a text a browser lays out in a moment: nearly always all of it."""
    return _up_to_most_brackets(text) if _RIGHT_TO_LEFT.search(text) else text


def _up_to_most_brackets(text: str) -> str:
    for bracket in islice(_BRACKET.finditer(text), _MOST_BRACKETS, None):
        return text[: bracket.start()]
    return text


_TOKENS: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')


@register.filter
def folding_json(text: str) -> SafeString:
    """JSON text line by line and coloured, every token as it stands: no number is rewritten.

    Objects and arrays fold, without a script.
    """
    is_mixed = _RIGHT_TO_LEFT.search(text) is not None
    return mark_safe("".join(_lines(text, is_mixed)))  # noqa: S308 — every token is escaped below


# Browsers do not nest elements much deeper than five times this.
_DEEPEST: Final = 100


def _lines(text: str, is_mixed: bool) -> Iterator[str]:
    tokens = _TOKENS.findall(text)
    key = ""
    depth = 0
    # What is nested deeper than is folded goes on one line.
    flat: list[str] = []
    for number, part in enumerate(tokens):
        depth += (part in _CLOSED_BY) - (part in _CLOSED_BY.values())
        if depth > _DEEPEST or flat:
            flat.append(part)
            if depth > _DEEPEST:
                continue
            comma = "," if tokens[number + 1 : number + 2] == [","] else ""
            yield f"<div>{key}{_coloured(''.join(flat), 'text', is_mixed)}{comma}</div>"
            key = ""
            flat.clear()
            continue
        before = tokens[number - 1] if number else ""
        after = tokens[number + 1] if number + 1 < len(tokens) else ""
        if part == ":" or part == ",":
            continue
        comma = "," if after == "," else ""
        if part in _CLOSED_BY:
            if after != _CLOSED_BY[part]:
                yield f"<details open><summary>{key}{part}</summary><div>"
                key = ""
        elif part in "}]":
            if _CLOSED_BY.get(before) == part:
                yield f"<div>{key}{before}{part}{comma}</div>"
                key = ""
            else:
                yield f"</div><div>{part}{comma}</div></details>"
        elif after == ":":
            key = f"{_coloured(part, 'key', is_mixed)}: "
        else:
            kind = "text" if part.startswith('"') else "number"
            yield f"<div>{key}{_coloured(part, kind, is_mixed)}{comma}</div>"
            key = ""


_CLOSED_BY: Final = {"{": "}", "[": "]"}


def _coloured(token: str, kind: str, is_mixed: bool) -> str:
    shown = _up_to_most_brackets(token) if is_mixed else token
    if len(shown) == len(token):
        return format_html('<span class="json-{}">{}</span>', kind, token)
    return format_html(
        '<span class="json-{}">{}</span><span class="muted">… {} more characters</span>',
        kind,
        shown,
        count(len(token) - len(shown)),
    )


@register.filter
def body_of(invocation: Invocation, payload: str) -> str:
    """The body of an invocation's request, in the format it was sent in.

    Of a batch it is what this event was in it.
    """
    sent = format_sent(invocation.request_headers)
    return message(sent, [payload], [event_id_of(payload)]).body.decode()


# The longest body within a command: Linux takes no argument of more than 128 kB.
_MOST_IN_COMMAND_BYTES: Final = 100_000


@dataclass(frozen=True, slots=True)
class Command:
    """A command; `file` is what it reads its body from, if that is too long to stand in it."""

    text: str
    file: str = ""


@register.simple_tag
def curl(invocation: Invocation, payload: str | None, event_id: UUID) -> Command:
    """The command that makes an invocation's request again; masked headers stay masked."""
    lines = [f"curl -X POST {shlex.quote(invocation.url)}"]
    lines += [
        "-H " + shlex.quote(f"{name}: {value}")
        for name, value in invocation.request_headers
        if name.lower() not in ("host", "content-length", "accept-encoding")
    ]
    file = ""
    if payload is not None:
        # In every format it is about as long as the payload is.
        body = body_of(invocation, payload) if len(payload) <= _MOST_IN_COMMAND_BYTES else payload
        if len(body.encode()) > _MOST_IN_COMMAND_BYTES:
            file = f"{event_id}.{invocation.attempt}.json"
        lines.append(f"--data-binary @{file}" if file else "--data-raw " + shlex.quote(body))
    return Command(" \\\n  ".join(lines), file)


@register.filter
def answered_well(invocation: Any) -> bool:
    """Whether an invocation (or exchange) was answered by a whole 2xx response."""
    code = invocation.status_code
    return invocation.error_kind is None and code is not None and 200 <= code < 300


@register.filter
def member_role(member: Membership) -> str:
    """A member's role as the form of Members has it."""
    is_kept_from_payloads = member.role == "viewer" and not member.sees_payloads
    return ROWLESS_VIEWER if is_kept_from_payloads else member.role


@register.filter
def deed(entry: AuditEntry) -> str:
    """What an entry of the audit log says was done."""
    return deed_of(entry)


@register.filter
def changes(entry: AuditEntry) -> list[FieldChange]:
    """What an entry of the audit log says was changed, field by field."""
    return changes_of(entry)


@register.filter
def token_of(row: Any) -> str:
    """What the browser tells the log page it has: which event, and in which state."""
    return event_token(row)


def event_token(row: Any) -> str:
    """The event's last hex digits, the number of its status, and its attempts."""
    return f"{row.id.hex[-12:]}{EVENT_STATUSES.index(row.status)}{row.attempts}"
