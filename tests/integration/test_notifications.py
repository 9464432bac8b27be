"""What is told of a project's troubles, where and how often: against a real SMTP server and a real
HTTP endpoint.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from django.conf import settings
from django.db import connection
from django.db.models import F
from django.db.models.functions import Now

from eventing import notifications, troubles
from eventing.access import command_line
from eventing.breakers import Breakers
from eventing.definitions import TROUBLE_KINDS, parse_notification
from eventing.destinations.announcement import Announcer, NoSuchService, service_of
from eventing.destinations.messenger import without_secrets
from eventing.logs.postgres import PostgresEventLog
from eventing.models import Breaker, CaptureLease, Notice, Project, Trouble
from tests.factories import (
    make_change,
    make_database,
    make_events,
    make_origin,
    make_outcome,
    make_project,
    make_trigger,
)
from tests.mailbox import Mailbox
from tests.receiver import Behaviour, Receiver
from tests.waiting import wait_until


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    with Mailbox() as running:
        yield running


@pytest.fixture
def project(log: PostgresEventLog) -> Project:
    return make_project()


def mail_address(mailbox: Mailbox, more: str = "") -> str:
    return f"mailto://127.0.0.1:{mailbox.port}?from=mc@example.com&to=oncall@example.com{more}"


def make_notification(project: Project, url: str, name: str = "on-call", **more: Any) -> Any:
    definition = parse_notification({"name": name, "url": url, **more})
    return notifications.save_notification(project, definition, by=command_line())


def block(project: Project, **fields: Any) -> CaptureLease:
    database = make_database(project, "postgresql://h/d")
    state = {"state": "blocked", "error": "the slot is gone", "mend": "SELECT 1"} | fields
    expires = {"expires_at": Now() + timedelta(minutes=5)}
    return CaptureLease.objects.create(database=database, **state, **expires)


def texts(receiver: Receiver, path: str = "/hook") -> list[str]:
    return [str(each.json()["text"]) for each in receiver.received(path)]


def watch_and_send() -> int:
    notifications.watch()
    return notifications.send_due()


def pass_time(**span: Any) -> None:
    """Everything that has been noted was noted so much earlier."""
    earlier = timedelta(**span)
    Notice.objects.update(created_at=F("created_at") - earlier)
    Notice.objects.exclude(next_attempt_at=None).update(
        next_attempt_at=F("next_attempt_at") - earlier
    )
    Trouble.objects.update(began_at=F("began_at") - earlier, gone_since=F("gone_since") - earlier)


def test_a_blocked_source_is_told_by_mail(project: Project, mailbox: Mailbox) -> None:
    make_notification(project, mail_address(mailbox))
    block(project)
    assert watch_and_send() == 1
    (message,) = mailbox.messages
    assert mailbox.recipients == ["oncall@example.com"]
    assert message["Subject"] == "shop: the database main is blocked"
    body = message.get_body(("plain", "html"))
    assert body is not None
    assert "The slot is gone" in body.get_content()
    assert "SELECT 1" in body.get_content()


def test_it_is_told_once_again_after_hours_and_once_when_it_is_over(
    project: Project, receiver: Receiver
) -> None:
    make_notification(project, receiver.url("/hook"), repeat_hours=6)
    lease = block(project)
    for _ in range(3):
        watch_and_send()
    assert len(texts(receiver)) == 1
    pass_time(hours=5, minutes=59)
    watch_and_send()
    assert len(texts(receiver)) == 1
    pass_time(minutes=2)
    watch_and_send()
    assert texts(receiver)[1].startswith("shop: still: the database main is blocked\n")
    CaptureLease.objects.filter(pk=lease.pk).update(state="streaming", error="", mend="")
    watch_and_send()
    assert len(texts(receiver)) == 2
    pass_time(seconds=61)
    for _ in range(3):
        watch_and_send()
    assert len(texts(receiver)) == 3
    assert texts(receiver)[2].startswith("shop: over: the database main is blocked\n")
    assert "for 6 h 2 min" in texts(receiver)[2]
    assert not troubles.troubles_of(project)


def test_what_is_back_within_a_minute_is_the_same_trouble(
    project: Project, receiver: Receiver
) -> None:
    make_notification(project, receiver.url("/hook"))
    lease = CaptureLease.objects.filter(pk=block(project).pk)
    watch_and_send()
    lease.update(state="streaming")
    watch_and_send()
    pass_time(seconds=50)
    lease.update(state="blocked")
    watch_and_send()
    pass_time(seconds=50)
    lease.update(state="streaming")
    watch_and_send()
    assert len(texts(receiver)) == 1
    assert Trouble.objects.count() == 1


def test_what_ends_before_it_could_be_told_is_not_told(
    project: Project, receiver: Receiver
) -> None:
    receiver.behave("/hook", Behaviour(statuses=(500,)))
    make_notification(project, receiver.url("/hook"))
    lease = CaptureLease.objects.filter(pk=block(project).pk)
    assert watch_and_send() == 0
    lease.update(state="streaming")
    notifications.watch()
    pass_time(seconds=61)
    notifications.watch()
    assert not Notice.objects.exists()


def test_a_message_that_is_not_taken_is_tried_again_and_given_up_in_the_end(
    project: Project, receiver: Receiver
) -> None:
    receiver.behave("/hook", Behaviour(statuses=(503,)))
    make_notification(project, receiver.url("/hook"))
    block(project)
    for attempt in range(1, 9):
        assert watch_and_send() == 0
        notice = Notice.objects.get()
        assert notice.attempts == attempt
        assert notice.error == "it answered 503"
        assert notifications.send_due() == 0
        pass_time(hours=1, minutes=15)
    assert notice.next_attempt_at is None
    assert notice.sent_at is None
    assert len(receiver.received("/hook")) == 8


def test_a_service_that_does_not_answer_holds_up_one_thread_of_a_process(
    project: Project, receiver: Receiver
) -> None:
    receiver.behave("/hook", Behaviour(hang=True))
    make_notification(project, receiver.url("/hook"))
    block(project)
    notifications.watch()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(_send_and_close)
        wait_until(lambda: receiver.received("/hook"), 10, "nothing is sent")
        make_notification(project, receiver.url("/other"), "other")
        assert watch_and_send() == 0
        assert not first.done()
        assert receiver.received("/other") == []
        first.result()
    watch_and_send()
    assert len(receiver.received("/other")) == 1


def _send_and_close() -> int:
    try:
        return notifications.send_due()
    finally:
        connection.close()


def test_lag_past_the_limit_of_each_is_told(project: Project, receiver: Receiver) -> None:
    make_notification(project, receiver.url("/soon"), "soon", lag_seconds=60)
    make_notification(project, receiver.url("/late"), "late", lag_seconds=600)
    lease = CaptureLease.objects.filter(
        pk=block(project, state="streaming", error="", lag_ms=59_000).pk
    )
    assert watch_and_send() == 0
    lease.update(lag_ms=61_000, lag_bytes=3_000_000)
    assert watch_and_send() == 1
    assert "is 1 min 1 s old; 3 MB of its log wait" in texts(receiver, "/soon")[0]
    lease.update(lag_ms=601_000)
    assert watch_and_send() == 1
    assert texts(receiver, "/late")[0].startswith("shop: the database main lags\n")


def test_much_retained_log_is_lag_too(project: Project, receiver: Receiver) -> None:
    make_notification(project, receiver.url("/hook"), lag_seconds=600)
    block(project, state="streaming", error="", lag_ms=0, lag_bytes=5_000_000_000)
    assert watch_and_send() == 1
    assert "5 GB of its log" in texts(receiver)[0]


def test_log_that_is_kept_for_open_transactions_is_lag_too(
    project: Project, receiver: Receiver
) -> None:
    make_notification(project, receiver.url("/hook"), lag_seconds=600)
    block(project, state="streaming", error="", lag_ms=0, lag_bytes=0, kept_log_bytes=6_000_000_000)
    assert watch_and_send() == 1
    assert "6 GB of its log" in texts(receiver)[0]


def test_an_open_breaker_is_told_and_that_it_has_closed(
    project: Project, receiver: Receiver
) -> None:
    make_notification(project, receiver.url("/hook"), kinds=["breaker_open"])
    trigger = make_trigger(project, "https://example.com/")
    block(project)
    Breakers().open(trigger.pk, "10 invocations in a row failed")
    assert watch_and_send() == 1
    begun = "shop: deliveries of the trigger welcome-email are held\n10 invocations in a row"
    assert texts(receiver)[0].startswith(begun)
    Breaker.objects.all().delete()
    watch_and_send()
    pass_time(seconds=61)
    assert watch_and_send() == 1


def test_a_trigger_of_which_events_fail_for_good_is_told(
    project: Project, receiver: Receiver, log: PostgresEventLog
) -> None:
    make_notification(project, receiver.url("/hook"))
    database = make_database(project, "postgresql://h/d")
    trigger = make_trigger(project, "https://example.com/")
    origin = make_origin(project, database.pk)
    events = make_events([make_change(), make_change()], origin, trigger.pk)
    log.append(origin, events, None, "1")
    claims = log.claim([event.id for event in events], 30)
    log.record([make_outcome(claims[0]), make_outcome(claims[1], 500)], "worker")
    assert watch_and_send() == 1
    assert "1 event failed for good within 10 minutes" in texts(receiver)[0]


def test_others_are_not_told_of_it(project: Project, receiver: Receiver) -> None:
    make_notification(make_project("other"), receiver.url("/other"))
    make_notification(project, receiver.url("/hook"), kinds=["source_lag"])
    block(project)
    assert watch_and_send() == 0
    assert [each.kind for each in troubles.troubles_of(project)] == ["source_blocked"]


def test_looking_costs_the_same_with_much_to_look_at(
    project: Project, receiver: Receiver, django_assert_num_queries: Any
) -> None:
    make_notification(project, receiver.url("/hook"))
    block(project)
    watch_and_send()
    with django_assert_num_queries(14):
        notifications.watch()
    other = make_project("other")
    for number in range(3):
        make_trigger(other, "https://example.com/", f"trigger-{number}")
        make_database(other, "postgresql://h/d", f"database-{number}")
        make_notification(other, receiver.url("/other"), f"notification-{number}")
    with django_assert_num_queries(14):
        notifications.watch()


@pytest.mark.parametrize("scheme", ["http", "gotify", "ntfy", "mmost", "mailto"])
def test_nothing_is_sent_to_a_private_address(
    scheme: str, receiver: Receiver, mailbox: Mailbox
) -> None:
    port = mailbox.port if scheme == "mailto" else receiver.port
    rest = "?from=a@example.com&to=b@example.com" if scheme == "mailto" else "/abcdefghijklmnop"
    announcer = Announcer()
    for host in ("127.0.0.1", "localhost"):
        why = announcer.send(f"{scheme}://{host}:{port}{rest}", "title", "text")
        assert why is not None
        assert "nothing is sent there unless WEBHOOK_ALLOWED_NETWORKS names" in why
    assert receiver.connections == 0
    assert mailbox.messages == []


def test_a_redirect_leads_nowhere(receiver: Receiver) -> None:
    away = {"Location": "http://169.254.169.254/latest/meta-data/"}
    announcer = Announcer(["127.0.0.0/8"])
    for path in ("/hook", "/message", "/hooks/abcdefghijklmnop"):
        receiver.behave(path, Behaviour(statuses=(302,), headers=away))
    assert announcer.send(receiver.url("/hook"), "title", "text") == "it answered 302"
    for scheme in ("gotify", "mmost"):
        url = f"{scheme}://127.0.0.1:{receiver.port}/abcdefghijklmnop"
        why = announcer.send(url, "title", "text")
        assert why
        assert "169.254.169.254" in why


def test_why_it_was_not_taken_says_nothing_of_the_secret(mailbox: Mailbox) -> None:
    announcer = Announcer(["127.0.0.0/8"])
    mailbox.refuses = True
    why = announcer.send(mail_address(mailbox, "&user=ada&pass=s3cret-word"), "title", "text")
    assert why
    assert "s3cret-word" not in why
    why = announcer.send("gotify://127.0.0.1:1/s3cretword1234", "title", "text")
    assert why
    assert "s3cretword1234" not in why


@pytest.mark.parametrize(
    ("url", "quoted"),
    [
        ("mailto://ada:pw1@smtp.example.com", "sign-in of ada with pw1 failed"),
        ("mailto://ada:p%40s%3As@smtp.example.com", "sign-in with p@s:s failed"),
        ("https://chat.example.com/hook?key=k3y", "k3y is no key"),
        ("https://chat.example.com/hook?k3y", "k3y is no key"),
        ("https://chat.example.com/T1/B2", "no T1/B2, no T1, no b2"),
        ("tgram://123456789:abcdefg_hijklmnop/-1001", "bot 123456789:abcdefg_hijklmnop, -1001"),
        ("discord://4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js", "no webhook 4174216298"),
    ],
)
def test_what_an_answer_quotes_of_an_address_is_taken_out_however_short(
    url: str, quoted: str, receiver: Receiver
) -> None:
    host = "chat.example.com" if url.startswith("https") else None
    said = without_secrets(f"{quoted} at chat.example.com: it answered 404", url, host)
    assert said.endswith(": it answered 404")
    assert "pw1" not in said
    for secret in ("p@s", "k3y", "T1", "b2", "123456789", "abcdefg", "1001", "4174216298"):
        assert secret.lower() not in said.lower()
    assert "chat.example.com" in said


def test_the_process_that_sends_shows_nobody_the_secret_and_knows_none_of_ours(
    receiver: Receiver,
) -> None:
    receiver.behave("/hook-s3cret", Behaviour(hang=True))
    with ThreadPoolExecutor(1) as threads:
        url = receiver.url("/hook-s3cret")
        sending = threads.submit(Announcer(["127.0.0.0/8"]).send, url, "title", "text")
        wait_until(lambda: receiver.received("/hook-s3cret"), 30, "nothing is sent")
        (messenger,) = [
            child
            for child in psutil.Process().children()
            if "eventing.destinations.messenger" in child.cmdline()
        ]
        shown = [*messenger.cmdline(), *messenger.environ().items()]
        assert sending.result() == "no answer in time"
    assert "s3cret" not in str(shown)
    assert settings.SECRET_KEY not in str(shown)
    assert "DATABASE_URL" not in str(shown)


@pytest.mark.parametrize("scheme", ["http", "gotify", "ntfy", "mmost"])
def test_proxies_and_sign_ins_of_the_environment_are_not_used(
    scheme: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login somebody password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    with Receiver() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url("/"))
        monkeypatch.setenv("http_proxy", proxy.url("/"))
        announcer = Announcer(["127.0.0.0/8"])
        assert announcer.send(f"{scheme}://127.0.0.1:{receiver.port}/hook4567", "a", "b") is None
        assert proxy.connections == 0
    assert [each for each in receiver.received() if "authorization" in each.headers] == []
    assert receiver.received()


@pytest.mark.parametrize(
    ("url", "service"),
    [
        ("https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ", "Slack"),
        ("https://chat.example.com/hooks/abc", "webhook at chat.example.com"),
        ("mailtos://u:p@smtp.example.com?to=a@b.example", "e-mail at smtp.example.com"),
        ("ntfys://ntfy.example.com/topic", "ntfy at ntfy.example.com"),
    ],
)
def test_what_is_at_an_address_is_said_without_its_secrets(url: str, service: str) -> None:
    assert service_of(url) == service


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "syslog://",
        "dbus://",
        "json://example.com/",
        "https:///nowhere",
        "slack://",
        "mailto://smtp.example.com?to=a@b.example&pgp=yes&pgppub=/etc/passwd",
        "https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/x?template=/proc/self/environ",
    ],
)
def test_what_reads_files_or_stays_on_this_machine_is_refused(url: str) -> None:
    with pytest.raises(NoSuchService):
        service_of(url)


def test_its_address_is_encrypted_where_it_is_stored(project: Project) -> None:
    notification = make_notification(project, "https://chat.example.com/hooks/s3cret")
    assert set(notification.kinds) == set(TROUBLE_KINDS)
    with connection.cursor() as cursor:
        cursor.execute("SELECT url FROM eventing_notification")
        assert "s3cret" not in str(cursor.fetchall())
