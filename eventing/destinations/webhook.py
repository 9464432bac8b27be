"""HTTP exchanges with endpoints, many at once on one thread: libcurl's multi interface and epoll.

It answers what came of each request and never decides what follows from it. An endpoint cannot
make it wait beyond the request's timeout, read without end, follow a redirect, or connect to an
address that the guard refuses; neither header values nor credentials reach an error message.
"""

import errno
import os
import resource
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlsplit

import pycurl
import structlog

from eventing.backoff import retry_after_ms
from eventing.changes import Exchange
from eventing.destinations.addresses import AddressGuard
from eventing.destinations.base import MASK, Request
from eventing.destinations.names import Addresses, LookUps, Named, named_in

# The part of an answer that is kept.
KEPT_BODY_BYTES: Final = 10_000
_MASK: Final = MASK.encode()
KEPT_HEADERS: Final = 100
KEPT_HEADER_BYTES: Final = 2_000
# Once this much has arrived the rest is left unread and the answer counts with its status: whoever
# says 2xx has taken the event, and asking for it again would only repeat it.
MOST_BODY_BYTES: Final = 1_000_000

_MOST_CONNECTIONS: Final = 8_192
_OTHER_FILES: Final = 200
_IDLE_HANDLES: Final = 512
_LONGEST_POLL_SECONDS: Final = 10.0
_LOOK_AT_UNRESOLVED_SECONDS: Final = 0.05

_READABLE: Final = select.EPOLLIN | select.EPOLLHUP | select.EPOLLRDHUP
_TLS_ERRORS: Final = frozenset(
    {
        pycurl.E_SSL_CONNECT_ERROR,
        pycurl.E_PEER_FAILED_VERIFICATION,
        pycurl.E_SSL_CACERT,
        pycurl.E_SSL_CACERT_BADFILE,
        pycurl.E_SSL_CERTPROBLEM,
        pycurl.E_SSL_CIPHER,
        pycurl.E_SSL_ISSUER_ERROR,
        pycurl.E_SSL_INVALIDCERTSTATUS,
        pycurl.E_USE_SSL_FAILED,
    }
)
_BROKEN_OFF: Final = frozenset(
    {
        pycurl.E_GOT_NOTHING,
        pycurl.E_SEND_ERROR,
        pycurl.E_RECV_ERROR,
        pycurl.E_PARTIAL_FILE,
        pycurl.E_SEND_FAIL_REWIND,
    }
)

logger = structlog.get_logger(__name__)

OnDone = Callable[[Exchange], None]
Afterwards = Callable[[], None]


class _Submitted(NamedTuple):
    """A request, and who hears of it."""

    request: Request
    on_done: OnDone
    afterwards: Afterwards | None


class _Handover(socket.socket):
    """A socket on its way to libcurl, which works with a duplicate: ours closes when forgotten."""

    def __del__(self) -> None:
        self.close()


class _Transfer:
    """One libcurl handle with what it needs for one request at a time; used over and over."""

    def __init__(
        self, guard: AddressGuard, ca_file: str | None, on_opened: Callable[[], None]
    ) -> None:
        self._guard = guard
        self._on_opened = on_opened
        self.curl = pycurl.Curl()
        self._url = ""
        self._resolved: tuple[Named | None, Addresses] = (None, ())
        self._timeout_ms = 0
        self._header_lines: list[bytes] = []
        self._size = -1
        self._given_bytes = 0
        self._may_send_again = False
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._refusal: str | None = None
        self._set_up(ca_file)

    def _set_up(self, ca_file: str | None) -> None:
        """What is the same for every request."""
        set_option = self.curl.setopt
        set_option(pycurl.NOSIGNAL, 1)
        set_option(pycurl.POST, 1)
        set_option(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        # HTTP/2 where the endpoint speaks it over TLS: its exchanges then share a connection.
        set_option(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_2TLS)
        # No proxy, whatever the environment says: it would resolve names behind the guard's back.
        set_option(pycurl.PROXY, "")
        set_option(pycurl.NOPROXY, "*")
        if ca_file is not None:
            set_option(pycurl.CAINFO, ca_file)
        set_option(pycurl.OPENSOCKETFUNCTION, self._open_socket)
        # Not POSTFIELDS: libcurl would send that again, unasked, see `_rewind`.
        set_option(pycurl.READFUNCTION, self._give_body)
        set_option(pycurl.SEEKFUNCTION, self._rewind)
        set_option(pycurl.WRITEFUNCTION, self._take_body)
        # libcurl itself refuses more than 300 kB or 5 000 lines of headers.
        set_option(pycurl.HEADERFUNCTION, self._header_lines.append)

    def prepare(
        self,
        submitted: _Submitted,
        named: Named | None,
        addresses: Addresses,
        may_send_again: bool,
    ) -> None:
        """Take on a request; `addresses` are those of the name in its URL, if it has one.

        `may_send_again`: libcurl may, of its own accord, where it had no answer. Raises
        pycurl.error or ValueError if the request cannot be made.
        """
        self.submitted = submitted
        self.request = request = submitted.request
        self._header_lines.clear()
        self._body = []
        self._body_bytes = 0
        self._refusal = None
        set_option = self.curl.setopt
        if request.url != self._url:
            self._url = ""
            set_option(pycurl.URL, _ascii_url(request.url))
            # Rather than open one more, wait to see whether a connection can be shared.
            set_option(pycurl.PIPEWAIT, request.url.lower().startswith("https:"))
            self._url = request.url
        if self._resolved != (named, addresses):
            if named is not None:
                set_option(pycurl.RESOLVE, [_resolution(named, addresses)])
            self._resolved = (named, addresses)
        if request.timeout_ms != self._timeout_ms:
            set_option(pycurl.TIMEOUT_MS, request.timeout_ms)
            self._timeout_ms = request.timeout_ms
        set_option(pycurl.HTTPHEADER, _header_list(request.headers))
        if len(request.body) != self._size:
            set_option(pycurl.POSTFIELDSIZE_LARGE, len(request.body))
            self._size = len(request.body)
        self._given_bytes = 0
        self._may_send_again = may_send_again
        self.started_at_ms = int(time.time() * 1000)
        self._started = time.monotonic()

    def rest(self) -> None:
        """Keep nothing of the request: many handles wait for their next one for a long time."""
        del self.request, self.submitted
        self._body = []

    @property
    def was_multiplexed(self) -> bool:
        """Whether its answer shared a connection with others (HTTP/2)."""
        lines = self._header_lines
        return bool(lines) and lines[0].startswith(b"HTTP/2")

    def _open_socket(self, _purpose: int, address: Any) -> Any:
        """libcurl's question for a socket, with the very address it is about to connect to."""
        refusal = self._guard.refusal(address.addr[0])
        if refusal is not None:
            self._refusal = refusal
            return pycurl.SOCKET_BAD
        self._on_opened()
        return _Handover(address.family, address.socktype, address.protocol)

    def _give_body(self, size: int) -> bytes:
        """libcurl's question for the next bytes of the request."""
        body, begin = self.request.body, self._given_bytes
        self._given_bytes = end = begin + size
        return body[begin:end] if begin or end < len(body) else body

    def _rewind(self, offset: int, _origin: int) -> Any:
        """libcurl's wish to send a request anew, since a connection that was used before has ended
        without a byte of an answer. The request may have arrived, and each attempt goes into the
        log; only with HTTP/2 an endpoint says which requests it has not looked at."""
        if not self._may_send_again:
            return pycurl.SEEKFUNC_FAIL
        self._given_bytes = offset
        return pycurl.SEEKFUNC_OK

    def _take_body(self, chunk: bytes) -> int | None:
        if self._body_bytes < KEPT_BODY_BYTES:
            self._body.append(chunk[: KEPT_BODY_BYTES - self._body_bytes])
        self._body_bytes += len(chunk)
        return 0 if self._body_bytes > MOST_BODY_BYTES else None

    def exchange(self, code: int = 0, message: str = "") -> Exchange:
        """What came of the request; `code` and `message` are libcurl's, 0 if all went well."""
        kind, words = None, None
        if code and not (code == pycurl.E_WRITE_ERROR and self._body_bytes > MOST_BODY_BYTES):
            kind, words = self._error_in_words(code, message)
        status = self.curl.getinfo(pycurl.RESPONSE_CODE) or None
        headers = _response_headers(self._header_lines)
        retry_after = None
        if status is not None and not 200 <= status < 300:
            for name, value in headers:
                if name.lower() == "retry-after":
                    retry_after = retry_after_ms(value, int(time.time() * 1000))
        headers, body = self._without_secrets(headers, b"".join(self._body))
        return Exchange(
            self.started_at_ms,
            int((time.monotonic() - self._started) * 1000),
            _shown_url(self.request.url),
            self.request.shown_headers,
            status,
            headers,
            body,
            kind,
            words,
            retry_after,
        )

    def _without_secrets(
        self, headers: tuple[tuple[str, str], ...], body: bytes
    ) -> tuple[tuple[tuple[str, str], ...], bytes]:
        """What is kept of an answer, which may repeat what it was sent."""
        if not self.request.secrets:
            return headers, body
        together = b"".join(self._header_lines)
        for secret in self.request.secrets:
            if secret in body:
                body = body.replace(secret, _MASK)
            if secret in together:
                written = secret.decode("latin-1")
                headers = tuple((name, value.replace(written, MASK)) for name, value in headers)
        return headers, body

    def _error_in_words(self, code: int, message: str) -> tuple[str, str]:
        host, place = _host_and_place(self.request.url)
        if code == pycurl.E_OPERATION_TIMEDOUT:
            return "timeout", f"no complete answer from {place} within {self._timeout_ms} ms"
        if code == pycurl.E_COULDNT_CONNECT:
            if self._refusal is not None:
                return "forbidden_address", f"{host}: {self._refusal}"
            number = int(self.curl.getinfo(pycurl.OS_ERRNO))
            if number == errno.ECONNREFUSED:
                return "refused", f"connection to {place} refused"
            reason = os.strerror(number).lower() if number else "no address of it answers"
            return "connection", f"no connection to {place}: {reason}"
        if code == pycurl.E_COULDNT_RESOLVE_HOST:
            return "dns", f"the name {host} does not resolve"
        if code in _TLS_ERRORS:
            return "tls", f"TLS with {place}: {message or 'the handshake failed'}"
        # Headers that are too large for libcurl have the code of a connection that broke off.
        if code in _BROKEN_OFF and not message.startswith("Too large"):
            return "connection", f"{place} broke off the connection before its answer was complete"
        if code == pycurl.E_URL_MALFORMAT:
            return "protocol", "the URL cannot be used"
        return "protocol", f"{place} did not answer as HTTP asks for: {message or f'error {code}'}"


class WebhookDestination:
    """Sends requests on one thread of its own, started here: later there may be no memory for it.

    At most `max_connections` exchanges are under way; further requests wait without their timeout
    running. `ca_file` names certificates to trust in place of the system's.
    """

    def __init__(
        self, guard: AddressGuard, max_connections: int | None = None, ca_file: str | None = None
    ) -> None:
        self._guard = guard
        self._max_connections = max_connections or _connections_allowed()
        self._ca_file = ca_file or ssl.get_default_verify_paths().cafile
        self._lock = threading.Lock()
        self._waiting: deque[_Submitted] = deque()
        self._stop_by: float | None = None
        self._closed = False
        self._asleep = False
        self._look_ups = LookUps(self._wake)
        # What waits for the addresses of a name, each until the time given.
        self._unresolved: dict[str, list[tuple[float, _Submitted]]] = {}
        # What is to be called once all that was answered has been told; a set that keeps its order.
        self._afterwards: dict[Afterwards, None] = {}
        self._wake_file = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="transfers", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            os.close(self._wake_file)
            raise MemoryError("no thread can be started") from error

    def submit(
        self, request: Request, on_done: OnDone, afterwards: Afterwards | None = None
    ) -> None:
        """Queue a request; `on_done` is called once on the destination's thread, then `afterwards`.

        After `stop` they are called at once, here.
        """
        with self._lock:
            if self._stop_by is None:
                self._waiting.append(_Submitted(request, on_done, afterwards))
                closed = False
            else:
                closed = True
        if closed:
            on_done(_unsent(request, "stopped", "the worker was stopping"))
            if afterwards is not None:
                afterwards()
        elif self._asleep:
            self._wake()

    def stop(self, timeout_seconds: float) -> None:
        """Finish what is under way for at most `timeout_seconds`; the rest ends as `stopped`."""
        with self._lock:
            if self._stop_by is None:
                self._stop_by = time.monotonic() + timeout_seconds
        self._wake()
        self._thread.join(timeout_seconds + 5)

    # All but the first of these run on the destination's thread.

    def _wake(self) -> None:
        with self._lock:
            if not self._closed:
                os.eventfd_write(self._wake_file, 1)

    def _run(self) -> None:
        self._epoll = select.epoll()
        self._epoll.register(self._wake_file, select.EPOLLIN)
        # What epoll watches of each socket, and of those that libcurl has no use for at present.
        self._watched: dict[int, int] = {}
        self._parked: dict[int, int] = {}
        # Parked sockets that may have been closed, so that others may have got their numbers.
        self._doubted: set[int] = set()
        # Sockets of HTTP/2, on which an endpoint may speak unasked.
        self._multiplexed: set[int] = set()
        self._speak_http2: set[str] = set()
        # What takes the place of a socket that is not to be used again: its other end is closed.
        self._ended, other_end = socket.socketpair()
        other_end.close()
        self._under_way: dict[Any, _Transfer] = {}
        self._idle: list[_Transfer] = []
        # Handles at rest, but for what they still hold of their last request.
        self._just_done: list[_Transfer] = []
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch_socket)
        self._multi.setopt(pycurl.M_MAXCONNECTS, self._max_connections)
        while not self._is_finished():
            try:
                self._turn()
            except Exception:
                logger.exception("a turn of the transfer loop failed")
        self._close()

    def _is_finished(self) -> bool:
        if self._stop_by is None:
            return False
        while self._waiting:
            self._answer_stopping(self._waiting.popleft())
        for waiting in self._unresolved.values():
            for _, submitted in waiting:
                self._answer_stopping(submitted)
        self._unresolved.clear()
        self._call_afterwards()
        return not self._under_way or time.monotonic() >= self._stop_by

    def _turn(self) -> None:
        """Start what waits, sleep until something happens, and finish what is done."""
        if self._unresolved:
            self._go_on_with_resolved()
        if self._waiting and len(self._under_way) < self._max_connections:
            while self._waiting and len(self._under_way) < self._max_connections:
                self._begin(self._waiting.popleft())
            self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
            # Some may have been answered, or have failed, in the meantime.
            self._finish_what_is_done()
        self._put_to_rest()
        polled = self._poll()
        # Before libcurl does anything, which may be to close them.
        for number, _ in polled:
            if number in self._parked:
                self._end_parked(number)
        for number, events in polled:
            if number == self._wake_file:
                os.eventfd_read(self._wake_file)
                continue
            if number not in self._watched:
                continue
            ready = (pycurl.CSELECT_IN if events & _READABLE else 0) | (
                pycurl.CSELECT_OUT if events & select.EPOLLOUT else 0
            )
            if events & select.EPOLLERR:
                ready |= pycurl.CSELECT_ERR
            self._multi.socket_action(number, ready)
        # Asked for once a turn: libcurl would tell of it several times a request.
        if self._multi.timeout() == 0:
            self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        self._finish_what_is_done()

    def _put_to_rest(self) -> None:
        """Have handles that were not used again at once keep nothing of their last request."""
        for transfer in self._just_done:
            transfer.rest()
            if len(self._idle) < _IDLE_HANDLES:
                self._idle.append(transfer)
            else:
                transfer.curl.close()
        self._just_done.clear()

    def _poll(self) -> list[tuple[int, int]]:
        timeout = _LOOK_AT_UNRESOLVED_SECONDS if self._unresolved else _LONGEST_POLL_SECONDS
        due_in_ms = self._multi.timeout()
        if due_in_ms >= 0:
            timeout = min(timeout, due_in_ms / 1000)
        if self._stop_by is not None:
            timeout = min(timeout, self._stop_by - time.monotonic())
        # Whoever queues a request looks at `_asleep` afterwards, so one of the two sees the other.
        self._asleep = True
        if self._waiting and len(self._under_way) < self._max_connections:
            timeout = 0.0
        try:
            return self._epoll.poll(max(timeout, 0.0), 512)
        finally:
            self._asleep = False

    def _go_on_with_resolved(self) -> None:
        """Hand back what waited for a name that is known by now; give up what waited too long."""
        now = time.monotonic()
        for name in list(self._unresolved):
            waiting = self._unresolved.pop(name)
            if self._look_ups.addresses(name) is not None:
                self._waiting.extend(submitted for _, submitted in waiting)
                continue
            for give_up_at, submitted in waiting:
                if give_up_at > now:
                    self._unresolved.setdefault(name, []).append((give_up_at, submitted))
                else:
                    request = submitted.request
                    words = f"the name {name} was not resolved within {request.timeout_ms} ms"
                    self._answer(submitted, _unsent(request, "dns", words))

    def _begin(self, submitted: _Submitted) -> None:
        request = submitted.request
        try:
            named = named_in(request.url)
            addresses = self._look_ups.addresses(named.name) if named is not None else ()
        except MemoryError:
            self._answer(submitted, _short_of_memory(request))
            return
        if named is not None and not addresses:
            if addresses is None:
                give_up_at = time.monotonic() + request.timeout_ms / 1000
                waiting = self._unresolved.setdefault(named.name, [])
                waiting.append((give_up_at, submitted))
            else:
                words = f"the name {named.name} does not resolve"
                self._answer(submitted, _unsent(request, "dns", words))
            return
        transfer = None
        try:
            transfer = self._handle()
            may_send_again = request.url in self._speak_http2
            transfer.prepare(submitted, named, addresses or (), may_send_again)
            self._multi.add_handle(transfer.curl)
        except (MemoryError, pycurl.error, ValueError, TypeError, OverflowError) as error:
            # The handle may be half prepared, so it is not used again; the error may quote values.
            if transfer is not None:
                transfer.curl.close()
            if _is_for_want_of_memory(error):
                self._answer(submitted, _short_of_memory(request))
            else:
                self._answer(submitted, _unsent(request, "protocol", "the request cannot be made"))
        else:
            self._under_way[transfer.curl] = transfer

    def _handle(self) -> _Transfer:
        """One that has just been used, one that rests, or a new one."""
        if self._just_done:
            return self._just_done.pop()
        if self._idle:
            return self._idle.pop()
        return _Transfer(self._guard, self._ca_file, self._doubt_parked)

    def _finish_what_is_done(self) -> None:
        queued = 1
        while queued:
            queued, succeeded, failed = self._multi.info_read()
            for curl in succeeded:
                self._finish(curl)
            for curl, code, message in failed:
                self._finish(curl, code, message)
        self._call_afterwards()

    def _finish(self, curl: Any, code: int = 0, message: str = "") -> None:
        transfer = self._under_way.pop(curl)
        if transfer.was_multiplexed:
            self._multiplexed.add(curl.getinfo(pycurl.ACTIVESOCKET))
            self._speak_http2.add(transfer.request.url)
        elif self._speak_http2 and not code:
            self._speak_http2.discard(transfer.request.url)
        self._multi.remove_handle(curl)
        self._just_done.append(transfer)
        if code == pycurl.E_SEND_FAIL_REWIND and not curl.getinfo(pycurl.REQUEST_SIZE):
            # The connection had ended before, and nothing of the request went out.
            self._waiting.appendleft(transfer.submitted)
            return
        exchange = transfer.exchange(code, message)
        self._answer(transfer.submitted, exchange)

    def _answer(self, submitted: _Submitted, exchange: Exchange) -> None:
        if submitted.afterwards is not None:
            self._afterwards[submitted.afterwards] = None
        try:
            submitted.on_done(exchange)
        except Exception:
            logger.exception("the outcome of a request could not be handed on")

    def _answer_stopping(self, submitted: _Submitted) -> None:
        unsent = _unsent(submitted.request, "stopped", "the worker was stopping")
        self._answer(submitted, unsent)

    def _call_afterwards(self) -> None:
        if self._afterwards:
            afterwards, self._afterwards = self._afterwards, {}
            for call in afterwards:
                try:
                    call()
                except Exception:
                    logger.exception("what follows the outcome of requests failed")

    def _watch_socket(self, what: int, number: int, _multi: Any, _data: Any) -> None:
        """libcurl's wish to hear of a socket, or to hear no more of it.

        What it wants to hear no more of mostly waits for its next request: epoll goes on with it.
        """
        if what == pycurl.POLL_REMOVE:
            known = self._watched.pop(number, None)
            if known is not None:
                if known != select.EPOLLIN:
                    # It can always be written to: what matters is what comes.
                    try:
                        self._epoll.modify(number, select.EPOLLIN)
                    except OSError:
                        return  # closed already
                self._parked[number] = select.EPOLLIN
            return
        wanted = (select.EPOLLIN if what & pycurl.POLL_IN else 0) | (
            select.EPOLLOUT if what & pycurl.POLL_OUT else 0
        )
        known = self._parked.pop(number, None)
        if known is None:
            known = self._watched.get(number)
        self._watched[number] = wanted
        if self._doubted and number in self._doubted:
            self._doubted.discard(number)
        elif known == wanted:
            return
        if known is not None:
            try:
                self._epoll.modify(number, wanted)
                return
            except FileNotFoundError:
                pass  # It was closed, and this is another socket with its number.
        self._multiplexed.discard(number)
        self._epoll.register(number, wanted)

    def _doubt_parked(self) -> None:
        """A socket is opened: it may get the number of one that was parked and then closed."""
        self._doubted.update(self._parked)

    def _end_parked(self, number: int) -> None:
        """The other end of an idle connection has closed it, or says what nobody asked for: see to
        it that libcurl, which looks for that only a second after the last request, sends nothing
        more there, and does not take what was said for the answer to it."""
        del self._parked[number]
        self._doubted.discard(number)
        if number in self._multiplexed:
            self._epoll.unregister(number)
        else:
            os.dup2(self._ended.fileno(), number, inheritable=False)

    def _close(self) -> None:
        for transfer in list(self._under_way.values()):
            self._multi.remove_handle(transfer.curl)
            unfinished = _unsent(
                transfer.request,
                "stopped",
                "the worker stopped before the answer was complete",
                transfer.started_at_ms,
            )
            self._answer(transfer.submitted, unfinished)
            transfer.curl.close()
        self._under_way.clear()
        self._call_afterwards()
        for transfer in (*self._idle, *self._just_done):
            transfer.curl.close()
        self._multi.close()
        with self._lock:
            self._closed = True
            self._epoll.close()
            os.close(self._wake_file)
            self._ended.close()


def _connections_allowed() -> int:
    """As many connections as the process may have files open, less what it needs besides."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _MOST_CONNECTIONS
    return max(64, min(_MOST_CONNECTIONS, soft - _OTHER_FILES))


def _is_for_want_of_memory(error: Exception) -> bool:
    if isinstance(error, pycurl.error):
        return bool(error.args[0] == pycurl.E_OUT_OF_MEMORY)
    return isinstance(error, MemoryError)


def _short_of_memory(request: Request) -> Exchange:
    logger.warning("short of memory: events go back", url=_shown_url(request.url))
    return _unsent(request, "stopped", "the process is short of memory")


def _unsent(
    request: Request, kind: str, message: str, started_at_ms: int | None = None
) -> Exchange:
    now_ms = int(time.time() * 1000)
    started = now_ms if started_at_ms is None else started_at_ms
    return Exchange(
        started,
        now_ms - started,
        _shown_url(request.url),
        request.shown_headers,
        error_kind=kind,
        error_message=message,
    )


def _resolution(named: Named, addresses: Addresses) -> bytes:
    """A name's addresses as libcurl takes them, to be forgotten like those it finds itself."""
    listed = ",".join(f"[{address}]" if ":" in address else address for address in addresses)
    return f"+{named.name}:{named.port}:{listed}".encode()


def _header_list(headers: tuple[tuple[str, str], ...]) -> list[bytes]:
    """Headers as libcurl takes them: `Name;` is an empty one, `Name:` one not to be sent."""
    lines = [
        f"{name}: {value}".encode() if value.strip() else f"{name};".encode()
        for name, value in headers
    ]
    lines.append(b"Expect:")
    return lines


def _response_headers(lines: list[bytes]) -> tuple[tuple[str, str], ...]:
    """The headers of the last answer among `lines` (1xx answers come before it)."""
    together = b"".join(lines)
    # Within a second an endpoint's answers are mostly alike; only short ones are remembered.
    return _known_headers(together) if len(together) <= 2000 else _parsed_headers(together)


def _parsed_headers(together: bytes) -> tuple[tuple[str, str], ...]:
    found: list[tuple[str, str]] = []
    for line in together.split(b"\n"):
        if line.startswith(b"HTTP/"):
            found = []
        elif len(found) < KEPT_HEADERS and b":" in line:
            name, _, value = line[:KEPT_HEADER_BYTES].decode("latin-1").partition(":")
            found.append((name.strip(), value.strip()))
    return tuple(found)


_known_headers = lru_cache(maxsize=1024)(_parsed_headers)


@lru_cache(maxsize=1024)
def _ascii_url(url: str) -> str:
    """The URL as it goes over the wire: an international name in Punycode, the rest %-encoded."""
    if url.isascii():
        return url
    parts = urlsplit(url)
    host = (parts.hostname or "").encode("idna").decode()
    port = "" if parts.port is None else f":{parts.port}"
    query = f"?{quote(parts.query, safe='%/:=&?~!$(),;@[]*+')}" if parts.query else ""
    return f"{parts.scheme}://{host}{port}{quote(parts.path, safe='%/:=&~!$(),;@*+')}{query}"


@lru_cache(maxsize=1024)
def _shown_url(url: str) -> str:
    """The URL without the user name and password that it may carry."""
    head, at, rest = url.partition("@")
    if not at or "/" in head.partition("://")[2]:
        return url
    return f"{head.partition('://')[0]}://{rest}"


@lru_cache(maxsize=1024)
def _host_and_place(url: str) -> tuple[str, str]:
    """The URL's host, and `host:port`, for messages."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or "?"
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return "?", "?"
    return host, f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
