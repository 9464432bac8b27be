"""The shapes of bodies and answers, for the OpenAPI description alone.

Nothing is checked or rendered by these: rules are in `eventing.definitions`, answers in
`representations`. A test compares both with what is described here.
"""

import re
from typing import Any, Final

from django.core.validators import MaxLengthValidator
from rest_framework import serializers

from eventing.api.filters import DEFAULT_LIMIT, MOST_LIMIT
from eventing.audit import KINDS
from eventing.changes import DATABASE_TYPES, EVENT_STATUSES, EVENT_TYPES, OPERATIONS, SOURCE_NAMES
from eventing.definitions import (
    ADDRESS,
    BUILTIN_NAME,
    CONCURRENCY,
    DAYS,
    FACTOR,
    FORMATS,
    INITIAL_MS,
    LAG_SECONDS,
    LONGEST_ENTRY,
    LONGEST_HEADER_VALUE,
    LONGEST_LABEL,
    LONGEST_URL,
    LONGEST_USER_NAME,
    MAX_MS,
    MOST_DAYS,
    MOST_HEADERS,
    NAME,
    PROJECT_NAME,
    RATE_PER_SECOND,
    REPEAT_HOURS,
    RETRIES,
    ROLES,
    TIMEOUT_MS,
    TRIGGER_STATES,
    TROUBLE_KINDS,
    Range,
)
from eventing.exports import EXPORT_KINDS
from eventing.history import MOST_CHOSEN
from eventing.logs.base import MOST_MIN_ATTEMPTS
from eventing.models import CaptureLease
from eventing.redeliveries import MOST_PER_SECOND
from eventing.stats import LAST_HOUR, PERIODS

_Text = serializers.CharField
_Number = serializers.IntegerField
_Flag = serializers.BooleanField
_Moment = serializers.DateTimeField


# As `urlsplit` takes it apart; of the host no more is said here than that there is one.
_HTTP_ADDRESS: Final = re.compile(r"[Hh][Tt][Tt][Pp][Ss]?://[^\x00-\x20\x7f/?#][^\x00-\x20\x7f]*")


def _matching(pattern: re.Pattern[str], **more: Any) -> serializers.RegexField:
    """A text all of which is as the pattern says."""
    return serializers.RegexField(f"^{pattern.pattern}$", **more)


def _within(among: Range, **more: Any) -> serializers.IntegerField:
    return _Number(min_value=among.least, max_value=among.most, **more)


def _user_name() -> serializers.CharField:
    return _Text(max_length=LONGEST_USER_NAME, help_text="The user's name.")


def _texts(help_text: str, **more: Any) -> serializers.ListField:
    child = serializers.RegexField(r"\S", max_length=LONGEST_ENTRY)
    return serializers.ListField(child=child, required=False, help_text=help_text, **more)


def _filter(help_text: str = "") -> serializers.CharField:
    """A parameter of a query; a blank one is as none. What each may have is more than all of them
    may have together, which is what fits into an address."""
    return _Text(required=False, allow_blank=True, help_text=help_text or None)


def _headers(help_text: str) -> serializers.DictField:
    return serializers.DictField(child=_Text(), help_text=help_text)


class FieldProblem(serializers.Serializer[object]):
    field = _Text(help_text="The field's path, such as backoff.factor.")
    detail = _Text(help_text="The field, what was given and what is allowed.")


class ProblemDetails(serializers.Serializer[object]):
    """RFC 9457."""

    type = _Text()
    title = _Text()
    status = _Number()
    instance = _Text()
    detail = _Text(required=False)

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        # Not declared above: `errors` is a name of the serializers' own.
        return {**super().get_fields(), "errors": FieldProblem(many=True, required=False)}


class Eventing(serializers.Serializer[object]):
    enabled = _Flag(default=False)
    db = _matching(
        NAME, default=BUILTIN_NAME, help_text=f"The Eventing DB: `{BUILTIN_NAME}`, or an alias."
    )


class Retention(serializers.Serializer[object]):
    events = _matching(
        DAYS, default="30d", help_text=f"A number of days from 1 to {MOST_DAYS}, such as 30d."
    )
    payloads = _matching(DAYS, default="30d", help_text="At most as long as events.")


class Settings(serializers.Serializer[object]):
    eventing = Eventing(required=False)
    retention = Retention(required=False)


def _title(**more: Any) -> serializers.CharField:
    return _Text(
        allow_blank=True,
        max_length=LONGEST_LABEL,
        help_text="What pages call it, on one line; the name itself, unless it was given another.",
        **more,
    )


class Project(Settings):
    name = _matching(PROJECT_NAME, help_text="Its id: part of addresses, and fixed.")
    title = _title(required=False)
    created_at = _Moment(read_only=True)
    role = serializers.ChoiceField(choices=ROLES, read_only=True, help_text="The caller's role.")


class ProjectTitle(serializers.Serializer[object]):
    title = _title()


_PAYLOADS: Final = "Whether a viewer sees payloads and response bodies; else always true."


class Member(serializers.Serializer[object]):
    user = _user_name()
    role = serializers.ChoiceField(choices=ROLES)
    payloads = _Flag(default=True, help_text=_PAYLOADS)
    active = _Flag(read_only=True, help_text="Whether the user may sign in.")
    two_factor = _Flag(
        read_only=True, help_text="Whether the user signs in with more than a password."
    )


class MemberToAdd(serializers.Serializer[object]):
    user = _user_name()
    role = serializers.ChoiceField(choices=ROLES)
    payloads = _Flag(default=True, help_text=_PAYLOADS)
    new_user = _Flag(
        default=False,
        help_text="Make the user, too; for administrators of the installation.",
    )


class AddedMember(Member):
    first_password = _Text(
        allow_null=True, help_text="Of a user who was made; shown this once. Else null."
    )


class MemberChange(serializers.Serializer[object]):
    role = serializers.ChoiceField(choices=ROLES, required=False)
    payloads = _Flag(required=False, help_text=_PAYLOADS)


class Token(serializers.Serializer[object]):
    id = _Number(read_only=True)
    name = _Text(
        default="", allow_blank=True, max_length=LONGEST_LABEL, help_text="What it is for."
    )
    role = serializers.ChoiceField(choices=ROLES)
    expires_at = _Moment(required=False, allow_null=True, help_text="null: never.")
    user = _Text(read_only=True, help_text="The user it acts for.")
    project = _Text(
        read_only=True, allow_null=True, help_text="The only project it opens; null: all."
    )
    created_at = _Moment(read_only=True)
    last_used_at = _Moment(read_only=True, allow_null=True)


class NewToken(Token):
    token = _Text(help_text="What goes into the Authorization header; shown this once.")


class LastNotice(serializers.Serializer[object]):
    title = _Text()
    created_at = _Moment()
    sent_at = _Moment(allow_null=True, help_text="null: not taken yet, or given up.")
    next_attempt_at = _Moment(allow_null=True, help_text="null: taken, or given up.")
    error = _Text(help_text="Why it was not taken the last time; empty when it was.")


class Notification(serializers.Serializer[object]):
    name = _matching(NAME)
    url = _matching(
        ADDRESS,
        help_text="Where to: a webhook, or an address of Apprise's. A secret: shown as a mask,"
        " which stands for what is stored when it is sent back.",
    )
    service = _Text(read_only=True, help_text="What is there.")
    kinds = serializers.ListField(
        child=serializers.ChoiceField(choices=TROUBLE_KINDS),
        required=False,
        min_length=1,
        help_text="Which troubles to tell of; all unless given.",
    )
    repeat_hours = _within(
        REPEAT_HOURS, default=24, help_text="Told again after so long while it lasts."
    )
    lag_seconds = _within(LAG_SECONDS, default=300, help_text="How much lag is trouble.")
    last = LastNotice(read_only=True, allow_null=True, help_text="The latest message; null: none.")


class Trouble(serializers.Serializer[object]):
    kind = serializers.ChoiceField(choices=TROUBLE_KINDS)
    object = _Text(help_text="The database's alias, or the trigger's name.")
    reason = _Text()
    began_at = _Moment()


class NotificationTrial(serializers.Serializer[object]):
    taken = _Flag()
    error = _Text(allow_null=True, help_text="Why it was not taken.")


class AuditEntry(serializers.Serializer[object]):
    id = _Number()
    at = _Moment()
    user = _Text(help_text="Who; empty for a command.")
    token = _Number(allow_null=True, help_text="The id of the token they used; null: none.")
    address = _Text(help_text="From where; manage.py for a command.")
    action = _Text(help_text="What was done, such as trigger.update.")
    kind = serializers.ChoiceField(choices=KINDS)
    object_id = _Number(allow_null=True)
    object = _Text(help_text="The name of what it was done to.")
    old = serializers.DictField(allow_null=True, help_text="Before, the fields that differ.")
    new = serializers.DictField(allow_null=True, help_text="Afterwards, the fields that differ.")


class InstallationAuditEntry(AuditEntry):
    project = _Text(allow_null=True, help_text="The project it was done in; null: in none.")


class Deed(serializers.Serializer[object]):
    at = _Moment()
    user = _Text(help_text="Who; empty for a command.")
    action = _Text(help_text="What was done, such as trigger.update.")
    old = serializers.DictField(allow_null=True, help_text="Before, the fields that differ.")
    new = serializers.DictField(allow_null=True, help_text="Afterwards, the fields that differ.")


class AuditPage(serializers.Serializer[object]):
    results = AuditEntry(many=True)
    next = _Text(allow_null=True, help_text="The cursor of the next page.")


class InstallationAuditPage(serializers.Serializer[object]):
    results = InstallationAuditEntry(many=True)
    next = _Text(allow_null=True, help_text="The cursor of the next page.")


class AuditSelection(serializers.Serializer[object]):
    kind = serializers.ChoiceField(choices=KINDS, required=False)
    object = _filter()
    user = _filter()
    cursor = _filter("`next` of the page before.")
    limit = _Number(required=False, default=DEFAULT_LIMIT, min_value=1, max_value=MOST_LIMIT)


class InstallationAuditSelection(AuditSelection):
    project = _filter()


class Capture(serializers.Serializer[object]):
    state = serializers.ChoiceField(choices=CaptureLease.State.choices)
    error = _Text(allow_null=True)
    mend = _Text(allow_null=True, help_text="The statement or command that mends it.")
    next_try_at = _Moment(allow_null=True)
    lag_ms = _Number(allow_null=True)
    lag_bytes = _Number(allow_null=True, help_text="Of the source's log, not read yet.")
    kept_log_bytes = _Number(
        allow_null=True, help_text="Of its log, kept by the server for capture; Postgres only."
    )
    position = _Text(allow_null=True)
    last_change_at = _Moment(allow_null=True)


class Database(serializers.Serializer[object]):
    alias = _matching(NAME, help_text=f"Any name but `{BUILTIN_NAME}`.")
    type = serializers.ChoiceField(choices=DATABASE_TYPES)
    url = _Text(
        allow_blank=True,
        help_text="The connection string; ${NAME} is read from the environment. Shown masked;"
        " the masked text sent back keeps what is stored. Empty for mission-control.",
    )
    schemas = _texts("Postgres only; null: all.", allow_null=True)
    capture = Capture(read_only=True)


class Table(serializers.Serializer[object]):
    name = _Text(help_text="As `data.col` of an event has it.")
    columns = serializers.ListField(child=_Text())
    limits = _Text(help_text="What of it cannot be captured, and why; mostly empty.")
    mend = _Text(help_text="The statement that mends it.")


class TableCount(serializers.Serializer[object]):
    tables = _Number()


class Finding(serializers.Serializer[object]):
    name = _Text()
    status = serializers.ChoiceField(choices=["ok", "warning", "error"])
    what = _Text()
    why = _Text()
    mend = _Text(help_text="The exact statement or configuration line.")
    restart = _Flag(help_text="Whether the server must be restarted for it to count.")


class Findings(serializers.Serializer[object]):
    ok = _Flag(help_text="Whether capture can run.")
    findings = Finding(many=True)


class Backoff(serializers.Serializer[object]):
    initial_ms = _within(INITIAL_MS, default=2000)
    factor = serializers.FloatField(default=4, min_value=FACTOR.least, max_value=FACTOR.most)
    max_ms = _within(MAX_MS, default=3_600_000)


class Breaker(serializers.Serializer[object]):
    state = serializers.ChoiceField(
        choices=("closed", "open"),
        help_text="open: deliveries are held, since the endpoint failed all the time.",
    )
    reason = _Text(allow_null=True)
    opened_at = _Moment(allow_null=True)
    next_probe_at = _Moment(allow_null=True)


class Trigger(serializers.Serializer[object]):
    name = _matching(NAME)
    databases = _texts("Aliases; empty: all.")
    tables = _texts("Names, * matching any part; empty: all.")
    operations = serializers.ListField(
        child=serializers.ChoiceField(choices=OPERATIONS), min_length=1
    )
    url = _matching(
        _HTTP_ADDRESS, max_length=LONGEST_URL, help_text="Without user name and password."
    )
    retries = _within(RETRIES, default=3)
    timeout_ms = _within(TIMEOUT_MS, default=5000)
    state = serializers.ChoiceField(choices=TRIGGER_STATES, default="active")
    backoff = Backoff(required=False)
    headers = serializers.DictField(
        child=_Text(allow_blank=True, max_length=LONGEST_HEADER_VALUE),
        required=False,
        validators=[MaxLengthValidator(MOST_HEADERS)],
        help_text="By name, each on one line. Values are shown masked; a mask sent back keeps what"
        " is stored.",
    )
    format = serializers.ChoiceField(choices=FORMATS, default="spacecloud")
    concurrency = _within(CONCURRENCY, default=64)
    rate_per_second = _within(RATE_PER_SECOND, default=0, help_text="0: no limit.")
    ordered = _Flag(default=False)
    live = _Flag(
        read_only=True, help_text="Whether the capture loop applies the present definition."
    )
    problem = _Text(
        read_only=True,
        allow_null=True,
        help_text="Why nothing can be sent: no encryption key opens its headers or its secrets.",
    )
    signing_secrets = _Number(
        read_only=True, help_text="How many sign: two while one is being replaced."
    )
    breaker = Breaker(read_only=True)


class Draft(Trigger):
    """A trigger that is not saved."""

    name = _matching(NAME, required=False)
    url = _matching(_HTTP_ADDRESS, required=False, max_length=LONGEST_URL)
    of = _matching(
        NAME, required=False, help_text="The trigger that it would change: its masks stand."
    )


class DraftToSend(Draft):
    url = _matching(_HTTP_ADDRESS, max_length=LONGEST_URL)


class SamplePayload(serializers.Serializer[object]):
    payload = serializers.DictField(allow_null=True, help_text="Null if there is no row yet.")
    database = _Text(allow_null=True, help_text="The alias of the database whose row it is.")


class Exchange(serializers.Serializer[object]):
    started_at = _Moment()
    duration_ms = _Number()
    url = _Text()
    request_headers = _headers("Secret values are masked.")
    status_code = _Number(allow_null=True)
    response_headers = _headers("Values of a name that occurs twice are joined with a comma.")
    response_body = _Text(help_text="The first 10 000 bytes.")
    error_kind = _Text(allow_null=True)
    error = _Text(allow_null=True)


class Trial(Exchange):
    delivered = _Flag()
    payload = serializers.DictField()


class SigningSecrets(serializers.Serializer[object]):
    secrets = serializers.ListField(child=_Text(), help_text="Standard Webhooks secrets, whsec_….")


class Invocation(Exchange):
    attempt = _Number()
    worker = _Text()


class Event(serializers.Serializer[object]):
    id = serializers.UUIDField()
    trigger = _Text()
    type = serializers.ChoiceField(choices=list(EVENT_TYPES.values()))
    database = _Text(help_text="The database's alias.")
    db = serializers.ChoiceField(choices=list(SOURCE_NAMES.values()))
    table = _Text()
    doc_id = _Text()
    status = serializers.ChoiceField(choices=EVENT_STATUSES)
    attempts = _Number()
    time = _Moment(help_text="When the change was committed at its source.")
    stored_at = _Moment()
    next_attempt_at = _Moment(allow_null=True)
    problem = _Text(allow_null=True, help_text="Why it never can be sent.")
    last_status_code = _Number(allow_null=True)
    last_error = _Text(allow_null=True)
    last_duration_ms = _Number(allow_null=True)


class EventDetail(Event):
    position = _Text(
        allow_null=True,
        help_text="Where the change stands in its source's log; null if an earlier version stored"
        " the event.",
    )
    payload = serializers.DictField(
        allow_null=True, help_text="null once it has expired, or if it is withheld."
    )
    withheld = _Flag(
        help_text="Whether payload and response bodies are left out, since the caller may not see"
        " what rows contain."
    )
    invocations = Invocation(many=True)


class EventPage(serializers.Serializer[object]):
    results = Event(many=True)
    next = _Text(allow_null=True, help_text="The cursor of the next page.")


class EventFilters(serializers.Serializer[object]):
    trigger = _filter()
    status = serializers.ChoiceField(choices=EVENT_STATUSES, required=False)
    database = _filter()
    table = _filter()
    type = serializers.ChoiceField(choices=list(EVENT_TYPES.values()), required=False)
    doc_id = _filter()
    after = _Moment(required=False, help_text="Committed then or later.")
    before = _Moment(required=False, help_text="Committed earlier.")
    error = _filter("A text of the last attempt's error, or its status.")
    min_attempts = _Number(
        required=False,
        min_value=1,
        max_value=MOST_MIN_ATTEMPTS,
        help_text="Tried so often or more; a page may hold less than `limit`, and another follow.",
    )


class EventCount(serializers.Serializer[object]):
    count = _Number(allow_null=True, help_text="null: it took too long, or a log did not answer.")
    or_more = _Flag(help_text="Whether counting ended there.")


class EventExport(EventFilters):
    format = serializers.ChoiceField(choices=EXPORT_KINDS)
    payloads = serializers.ChoiceField(
        choices=["true", "false"],
        default="false",
        help_text="With payloads, if the caller may see them.",
    )


class EventSelection(EventFilters):
    cursor = _filter("`next` of the page before.")
    limit = _Number(required=False, default=DEFAULT_LIMIT, min_value=1, max_value=MOST_LIMIT)


class EventChoice(serializers.Serializer[object]):
    ids = serializers.ListField(child=serializers.UUIDField(), min_length=1, max_length=MOST_CHOSEN)


class EventsToRedeliver(EventFilters):
    ids = serializers.ListField(
        child=serializers.UUIDField(),
        required=False,
        min_length=1,
        max_length=MOST_CHOSEN,
        help_text="These events alone; then no filter is allowed.",
    )


class Cancelled(serializers.Serializer[object]):
    cancelled = _Number(help_text="How many of them were pending, and are cancelled now.")


class Redelivered(serializers.Serializer[object]):
    redelivered = _Number()


class Redelivery(serializers.Serializer[object]):
    id = _Number()
    state = serializers.ChoiceField(["running", "done", "cancelled", "failed"])
    filters = serializers.DictField(child=_Text())
    rate_per_second = _Number()
    total = _Number(
        allow_null=True,
        help_text="How many events match; null before they are counted, and for over a million.",
    )
    looked_at = _Number(help_text="How many of them were looked at so far.")
    redelivered = _Number(help_text="How many of them were put back to pending.")
    reached_at = _Moment(allow_null=True, help_text="Commit time of the last one.")
    error = _Text(help_text="What keeps it from going on at the moment; mostly empty.")
    requested_by = _Text()
    created_at = _Moment()
    finished_at = _Moment(allow_null=True)


class Redeliveries(serializers.Serializer[object]):
    results = Redelivery(many=True)


class RedeliveryRequest(EventFilters):
    rate_per_second = _within(Range(0, MOST_PER_SECOND), default=0, help_text="0: no limit.")


class Counts(serializers.Serializer[object]):
    pending = _Number()
    delivering = _Number()
    delivered = _Number()
    failed = _Number()
    cancelled = _Number()


class Outcomes(serializers.Serializer[object]):
    """Events by their commit (`stored`), attempts by when they began."""

    stored = _Number()
    delivered = _Number()
    retried = _Number(help_text="Attempts that failed and are tried again.")
    failed = _Number(help_text="Events whose retries are used up.")
    success_rate = serializers.FloatField(
        allow_null=True, help_text="From 0 to 1, of finished events; null: none finished."
    )
    p50_ms = serializers.FloatField(
        allow_null=True, help_text="The median from commit to delivery; null: none delivered."
    )
    p99_ms = serializers.FloatField(allow_null=True)


class Step(Outcomes):
    begins_at = _Moment()


class Summary(Outcomes):
    per_minute = serializers.FloatField(help_text="Events stored a minute, on average.")


class TriggerSummary(Summary):
    name = _Text()
    backlog = _Number(
        allow_null=True, help_text="Unfinished events of any time; null: a log does not answer."
    )


class Figures(serializers.Serializer[object]):
    within = serializers.ChoiceField(choices=[each.name for each in PERIODS])
    since = _Moment()
    until = _Moment(help_text="The end of the present step.")
    step_seconds = _Number()
    total = Summary()
    steps = Step(many=True, help_text="Oldest first, without gaps.")
    triggers = TriggerSummary(many=True)
    unavailable = serializers.ListField(
        child=_Text(), help_text="Eventing DBs that did not answer, and are not counted."
    )


class FiguresSelection(serializers.Serializer[object]):
    within = serializers.ChoiceField(
        choices=[each.name for each in PERIODS], required=False, default=LAST_HOUR.name
    )
    trigger = _filter("The figures of this one alone.")


class EventingDb(serializers.Serializer[object]):
    name = _Text(help_text="`builtin`, or a database's alias.")
    place = _Text()
    replaced_at = _Moment(allow_null=True, help_text="null: it is the one in use.")
    cursor = _Text(help_text="Of its newest events.")


class Applied(serializers.Serializer[object]):
    plan = serializers.ListField(
        child=_Text(), help_text="Each step, beginning with +, ~ or -; empty: nothing to change."
    )
    applied = _Flag(help_text="False for a dry run.")


class ApplyOptions(serializers.Serializer[object]):
    dry_run = serializers.ChoiceField(
        choices=["true", "false"], default="false", help_text="Plan only, change nothing."
    )
    prune = serializers.ChoiceField(
        choices=["true", "false"],
        default="false",
        help_text="Delete databases and triggers of the project that are not in the file.",
    )


class Process(serializers.Serializer[object]):
    process = _Text(help_text="capture, worker or beat.")
    name = _Text(help_text="Tells several of them apart.")
    seen_at = _Moment()
    alive = _Flag(help_text="Whether it was seen within 20 s.")
    hindrance = _Text(help_text="What keeps it from some of its work; empty if nothing does.")


class SourceHealth(serializers.Serializer[object]):
    project = _Text()
    alias = _Text()
    capture = Capture()


class OpenBreaker(serializers.Serializer[object]):
    project = _Text()
    trigger = _Text()
    reason = _Text()
    opened_at = _Moment()
    next_probe_at = _Moment()


class Health(serializers.Serializer[object]):
    reasons = serializers.ListField(
        child=_Text(), help_text="Why the installation is not ready, as /readyz has it."
    )
    processes = Process(many=True, help_text="Seen within a day, the latest first.")
    unseen = serializers.ListField(
        child=_Text(), help_text="The kinds of process of which none was seen for a day."
    )
    waiting_messages = _Number(allow_null=True, help_text="null: the broker does not answer.")
    databases = SourceHealth(many=True, help_text="Those that need somebody first.")
    breakers = OpenBreaker(many=True, help_text="The longest open first.")
