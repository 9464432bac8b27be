"""The control plane: projects, databases, triggers, who may do what, and how capture fares.

Rows are changed through `eventing.projects` alone, which checks them first and then raises the
configuration version that the running processes watch.
"""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models, transaction
from django.db.models.functions import Lower, Now

from eventing.changes import DATABASE_TYPES, OPERATIONS
from eventing.definitions import FORMATS, TRIGGER_STATES, TROUBLE_KINDS
from eventing.models.fields import EncryptedTextField, problem_of


def _choices(values: Any) -> list[tuple[str, str]]:
    return [(value, value) for value in values]


class Installation(models.Model):
    """The one row that identifies this installation and counts its configuration's versions."""

    node_id = models.UUIDField(default=uuid.uuid4)
    configuration_version = models.BigIntegerField(default=1)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=models.Q(id=1), name="installation_is_one_row"),
        ]


class Project(models.Model):
    """The tenant: owns databases, triggers, settings, logs and members.

    `name` is its id: part of addresses, and fixed. `title` is what pages call it; blank: its name.
    """

    name = models.CharField(max_length=63, unique=True)
    title = models.CharField(max_length=63, blank=True, default="", db_default="")
    eventing_enabled = models.BooleanField(default=False)
    # None is the built-in one.
    eventing_db = models.ForeignKey(
        "EventingDb", on_delete=models.RESTRICT, related_name="+", null=True, blank=True
    )
    retention_events_days = models.PositiveIntegerField(default=30)
    retention_payloads_days = models.PositiveIntegerField(default=30)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.title or self.name

    @contextmanager
    def held(self) -> Iterator[None]:
        """A transaction in which nobody else changes who belongs to the project, or whom it tells
        of trouble."""
        with transaction.atomic():
            Project.objects.select_for_update().get(pk=self.pk)
            yield


class EventingDb(models.Model):
    """A database that holds, or once held, a project's log in place of the built-in one.

    It keeps an address of its own, so that old logs stay readable and what waits in them is
    delivered, whatever becomes of `database`.
    """

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="eventing_dbs")
    database = models.ForeignKey(
        "Database", on_delete=models.SET_NULL, related_name="eventing_dbs", null=True
    )
    alias = models.CharField(max_length=63)
    type = models.CharField(max_length=16, choices=_choices(DATABASE_TYPES))
    url = EncryptedTextField()
    chosen_at = models.DateTimeField(db_default=Now())
    # When another one took its place; None while it is the project's.
    replaced_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["project", "database"], name="one_eventing_db_a_database"
            ),
        ]


class Membership(models.Model):
    """What a user may do in a project; administrators of the installation need none."""

    class Role(models.TextChoices):
        VIEWER = "viewer"
        EDITOR = "editor"
        ADMIN = "admin"

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="memberships"
    )
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=6, choices=Role.choices)
    # Whether a viewer sees what rows contain; whoever may edit sends it anywhere anyhow.
    sees_payloads = models.BooleanField(default=True, db_default=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["user", "project"], name="one_membership_a_project"),
        ]


class Database(models.Model):
    """One source. `source_name` names what it makes at the server (slot, publications)."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="databases")
    alias = models.CharField(max_length=63)
    type = models.CharField(max_length=16, choices=_choices(DATABASE_TYPES))
    url = EncryptedTextField()
    # What the configuration file said, `${NAME}` and all; empty when the address came as it is.
    url_reference = models.TextField(blank=True, default="")
    schemas = ArrayField(models.TextField(), null=True, blank=True)
    source_name = models.CharField(max_length=63, unique=True)
    configuration_version = models.BigIntegerField(default=0)
    # Which log holds the position of its capture; None is the built-in one.
    position_in = models.ForeignKey(
        EventingDb, on_delete=models.SET_NULL, related_name="+", null=True
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["alias"]
        constraints = [
            models.UniqueConstraint("project", Lower("alias"), name="one_alias_a_project"),
        ]

    def __str__(self) -> str:
        return self.alias


class Redelivery(models.Model):
    """The redelivery of every finished event that matches `filters`, page by page.

    `cursor` is where it goes on, empty at the newest event; `busy_until` keeps others from going on
    with it meanwhile. `rate_per_second` is 0 for as fast as can be. `total` is how many events
    there are to look at, None as long as that is not known, or if it could not be counted.
    """

    class State(models.TextChoices):
        RUNNING = "running"
        DONE = "done"
        CANCELLED = "cancelled"
        FAILED = "failed"

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="redeliveries")
    filters = models.JSONField()
    rate_per_second = models.PositiveIntegerField(default=0)
    requested_by = models.TextField()
    state = models.CharField(max_length=9, choices=State, default=State.RUNNING)
    cursor = models.TextField(blank=True, default="")
    total = models.BigIntegerField(null=True)
    looked_at = models.BigIntegerField(default=0)
    redelivered = models.BigIntegerField(default=0)
    reached_at = models.DateTimeField(null=True)
    error = models.TextField(blank=True, default="")
    busy_until = models.DateTimeField(null=True)
    created_at = models.DateTimeField(auto_now_add=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-pk"]


class RetiredSource(models.Model):
    """What a database left at its server and capture has yet to take away."""

    database_id = models.BigIntegerField()
    type = models.CharField(max_length=16, choices=_choices(DATABASE_TYPES))
    url = EncryptedTextField()
    source_name = models.CharField(max_length=63)
    next_try_at = models.DateTimeField(db_default=Now())
    attempts = models.PositiveIntegerField(default=0)
    error = models.TextField(blank=True, default="")


class Trigger(models.Model):
    """Which changes become events, and where those go. Empty `databases` or `tables` mean all."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="triggers")
    name = models.CharField(max_length=63)
    databases = models.ManyToManyField(Database, related_name="triggers", blank=True)
    tables = ArrayField(models.TextField(), default=list, blank=True)
    operations = ArrayField(models.CharField(max_length=6, choices=_choices(OPERATIONS)))
    url = models.TextField()
    retries = models.PositiveIntegerField(default=3)
    timeout_ms = models.PositiveIntegerField(default=5000)
    state = models.CharField(max_length=8, choices=_choices(TRIGGER_STATES), default="active")
    backoff_initial_ms = models.PositiveIntegerField(default=2000)
    backoff_factor = models.FloatField(default=4)
    backoff_max_ms = models.PositiveIntegerField(default=3_600_000)
    # JSON objects of header names; the references keep what the file said, `${NAME}` and all.
    headers = EncryptedTextField(blank=True, default="")
    header_references = models.JSONField(default=dict, blank=True)
    signing_secrets = EncryptedTextField(blank=True, default="")
    format = models.CharField(max_length=18, choices=_choices(FORMATS), default="spacecloud")
    concurrency = models.PositiveIntegerField(default=64)
    rate_per_second = models.PositiveIntegerField(default=0)
    ordered = models.BooleanField(default=False)
    configuration_version = models.BigIntegerField(default=0)
    created_at = models.DateTimeField(auto_now_add=True)
    changed_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint("project", Lower("name"), name="one_trigger_name_a_project"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def problem(self) -> str | None:
        """Why nothing can be sent, and what to do: no key opens what is stored of it."""
        return problem_of(self)


class ApiToken(models.Model):
    """A program's key to the REST API; only the SHA-256 of it is kept."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="api_tokens"
    )
    project = models.ForeignKey(
        Project, on_delete=models.CASCADE, related_name="api_tokens", null=True, blank=True
    )
    role = models.CharField(max_length=6, choices=Membership.Role.choices)
    name = models.CharField(max_length=63, blank=True, default="")
    digest = models.CharField(max_length=64, unique=True)
    # The token it was made with; it goes with that one.
    made_with = models.ForeignKey(
        "self", on_delete=models.CASCADE, related_name="+", null=True, blank=True
    )
    created_at = models.DateTimeField(auto_now_add=True)
    last_used_at = models.DateTimeField(null=True, blank=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    # How many requests came with it since when, for its rate limit.
    requests = models.PositiveIntegerField(default=0, db_default=0)
    counted_since = models.DateTimeField(null=True, blank=True)


class KeptAnswer(models.Model):
    """The answer to a POST that came with an `Idempotency-Key`: see `eventing.api.idempotency`.

    `digest` is that of address and key; `status` is None until there is an answer.
    """

    KEPT_FOR = timedelta(hours=24)

    token = models.ForeignKey(ApiToken, on_delete=models.CASCADE, related_name="+")
    digest = models.CharField(max_length=64)
    body_digest = models.CharField(max_length=64)
    status = models.PositiveSmallIntegerField(null=True)
    headers = models.JSONField(default=dict)
    content = EncryptedTextField(blank=True, default="")
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["token", "digest"], name="one_answer_a_key"),
        ]


class AuditEntry(models.Model):
    """Who changed what; see `eventing.audit`, which alone writes it.

    It names everything by id and by name without a foreign key, and so outlives all of it.
    """

    at = models.DateTimeField(db_default=Now())
    # Empty for a command; `address` then names `manage.py`.
    user_name = models.CharField(max_length=150, blank=True)
    token_id = models.BigIntegerField(null=True)
    address = models.CharField(max_length=64, blank=True)
    # None for what concerns no project, or all of them.
    project_id = models.BigIntegerField(null=True)
    project_name = models.CharField(max_length=63, blank=True)
    kind = models.CharField(max_length=16)
    action = models.CharField(max_length=32)
    object_id = models.BigIntegerField(null=True)
    object_name = models.CharField(max_length=150)
    old = models.JSONField(null=True)
    new = models.JSONField(null=True)

    class Meta:
        indexes = [
            models.Index(fields=["project_id", "-id"], name="audit_of_project"),
            models.Index(fields=["kind", "object_id", "-id"], name="audit_of_object"),
        ]


class Notification(models.Model):
    """Where a project's troubles are told, and which; `service` says what is there.

    `url` is a webhook's or one of Apprise's: a secret, since whoever knows it may post there.
    """

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="notifications")
    name = models.CharField(max_length=63)
    url = EncryptedTextField()
    service = models.CharField(max_length=300)
    kinds = ArrayField(models.CharField(max_length=16, choices=_choices(TROUBLE_KINDS)))
    repeat_hours = models.PositiveIntegerField(default=24)
    lag_seconds = models.PositiveIntegerField(default=300)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint("project", Lower("name"), name="one_notification_a_name"),
        ]


class Trouble(models.Model):
    """Something that went wrong with a database or a trigger, from when until when.

    It names that by id and by name without a foreign key, and so outlives it. `gone_since` is when
    it was no longer seen; it has ended when it stays away. Times are the database server's.
    `begun_as` and `ended_as` are the numbers of its beginning and its end among the changes that
    triggers can watch; None where there is none.
    """

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="troubles")
    kind = models.CharField(max_length=16, choices=_choices(TROUBLE_KINDS))
    object_id = models.BigIntegerField()
    object_name = models.CharField(max_length=63)
    reason = models.TextField()
    began_at = models.DateTimeField(db_default=Now())
    gone_since = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    begun_as = models.BigIntegerField(null=True)
    ended_as = models.BigIntegerField(null=True)

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["kind", "object_id"],
                condition=models.Q(ended_at=None),
                name="one_trouble_at_a_time",
            ),
        ]
        indexes = [
            models.Index(fields=["project", "-id"], name="trouble_of_project"),
            models.Index(fields=["project", "begun_as"], name="trouble_begun"),
            models.Index(fields=["project", "ended_as"], name="trouble_ended"),
        ]


class TroubleNumber(models.Model):
    """The one row that says which number the latest change of any trouble got; none before it."""

    latest = models.BigIntegerField()

    class Meta:
        constraints = [
            models.CheckConstraint(condition=models.Q(id=1), name="trouble_number_is_one_row"),
        ]


class TroubleReader(models.Model):
    """How far a database of type `mission-control` has been read: what a slot is in Postgres.

    Troubles after `position` are kept; `forgotten` is the last change that is not kept any more.
    Without a foreign key, so that earlier versions, which do not know it, can delete a project.
    """

    source_name = models.CharField(max_length=63, unique=True)
    project_id = models.BigIntegerField()
    position = models.BigIntegerField()
    forgotten = models.BigIntegerField(default=0, db_default=0)


class Notice(models.Model):
    """One message about a trouble to one address, sent or yet to be sent."""

    class Word(models.TextChoices):
        BEGUN = "begun"
        STILL = "still"
        OVER = "over"

    notification = models.ForeignKey(Notification, on_delete=models.CASCADE, related_name="notices")
    trouble = models.ForeignKey(Trouble, on_delete=models.CASCADE, related_name="notices")
    word = models.CharField(max_length=5, choices=Word.choices)
    text = models.TextField()
    created_at = models.DateTimeField(db_default=Now())
    attempts = models.PositiveIntegerField(default=0)
    # None once it is sent, or given up.
    next_attempt_at = models.DateTimeField(null=True, db_default=Now())
    sent_at = models.DateTimeField(null=True)
    error = models.TextField(blank=True, default="")

    class Meta:
        indexes = [
            models.Index(
                fields=["next_attempt_at"],
                condition=models.Q(next_attempt_at__isnull=False),
                name="notice_due",
            ),
        ]


class CaptureLease(models.Model):
    """Which process captures a database, until when, and how that goes.

    A row exists for each database that is, or lately was, captured. Times are the database
    server's. `applied_version` is the configuration version the loop reads under.
    """

    class State(models.TextChoices):
        OFF = "off"
        STARTING = "starting"
        STREAMING = "streaming"
        RETRYING = "retrying"
        BLOCKED = "blocked"

    database = models.OneToOneField(Database, on_delete=models.CASCADE, related_name="capture")
    holder = models.UUIDField(null=True)
    expires_at = models.DateTimeField(db_default=Now())
    state = models.CharField(max_length=9, choices=State.choices, default=State.OFF)
    error = models.TextField(blank=True, default="")
    mend = models.TextField(blank=True, default="")
    next_try_at = models.DateTimeField(null=True)
    applied_version = models.BigIntegerField(default=0)
    position = models.TextField(blank=True, default="")
    lag_ms = models.BigIntegerField(null=True)
    lag_bytes = models.BigIntegerField(null=True)
    kept_log_bytes = models.BigIntegerField(null=True)
    last_change_at = models.DateTimeField(null=True)
    # Raised by a person who accepts the loss: capture then starts anew from now.
    restart_from_now = models.BooleanField(default=False)


class Heartbeat(models.Model):
    """When each process of the installation was last seen, and what kept it from its work then."""

    process = models.CharField(max_length=7)
    name = models.CharField(max_length=200)
    seen_at = models.DateTimeField(db_default=Now())
    hindrance = models.CharField(max_length=200, db_default="")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["process", "name"], name="one_heartbeat_a_process"),
        ]


class Allotment(models.Model):
    """What of a trigger's limits each worker holds: the ledger of `eventing.allotments`, as JSON.

    Worth nothing after a crash, so the table is not in the server's log. Without a foreign key, so
    that a deleted trigger does not make a statement about several triggers fail.
    """

    trigger_id = models.BigIntegerField(primary_key=True)
    ledger = models.TextField(default="{}")


class Breaker(models.Model):
    """An open breaker: the trigger's events are held, since its endpoint fails all the time.

    The row goes when the breaker closes. Times are the database server's.
    """

    trigger = models.OneToOneField(
        Trigger, on_delete=models.CASCADE, primary_key=True, related_name="breaker"
    )
    opened_at = models.DateTimeField(db_default=Now())
    reason = models.TextField()
    probes = models.PositiveIntegerField(default=0)
    next_probe_at = models.DateTimeField()
