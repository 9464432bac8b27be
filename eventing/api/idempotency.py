"""A POST that is sent again with the same `Idempotency-Key` is done once: the first answer is kept
for a day and given again.

Only what was done is kept; a refusal has changed nothing, so the same key may be tried again. An
answer may hold what is shown once, such as a new token, and is encrypted where it is kept.
"""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import wraps
from hashlib import sha256
from typing import Any, Final, cast

import orjson
import structlog
from django.db import Error, connection
from django.db.models import Q
from django.db.models.functions import Now
from django.utils.crypto import salted_hmac
from rest_framework.request import Request
from rest_framework.response import Response

from eventing.access import Actor
from eventing.api.bodies import as_json
from eventing.api.problem_details import Conflict
from eventing.models import KeptAnswer
from eventing.problems import InvalidInput, Problem, shown

HEADER: Final = "Idempotency-Key"
KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")
_SALT: Final = "eventing.api.idempotency"
_KEPT_HEADERS: Final = ("Location", "ETag")
# A request under way renews its claim; one that has not for this long died with its process.
_ABANDONED_SECONDS: Final = 60
_RENEW_SECONDS: Final = 10.0

logger = structlog.get_logger(__name__)

Post = Callable[..., Response]


def once_per_key(post: Post) -> Post:
    """A `post` that is done once for each key its caller gives."""

    @wraps(post)
    def answered(view: Any, request: Request, *args: Any, **named: Any) -> Response:
        if HEADER not in request.headers:
            return post(view, request, *args, **named)
        kept, is_new = _claim(request)
        if not is_new:
            return _again(kept)
        try:
            with _kept_alive(kept):
                response = post(view, request, *args, **named)
        except BaseException:
            kept.delete()
            raise
        KeptAnswer.objects.filter(pk=kept.pk).update(
            status=response.status_code,
            headers={name: response[name] for name in _KEPT_HEADERS if name in response},
            content="" if response.data is None else as_json(response.data).decode(),
        )
        return response

    return answered


@contextmanager
def _kept_alive(kept: KeptAnswer) -> Iterator[None]:
    """However long it takes, nobody takes this request for lost meanwhile."""
    done = threading.Event()

    def renew() -> None:
        while not done.wait(_RENEW_SECONDS):
            try:
                KeptAnswer.objects.filter(pk=kept.pk).update(created_at=Now())
            except Error:
                logger.warning("the claim of a request under way could not be renewed")
            connection.close()

    keeper = threading.Thread(target=renew, name="keeps a request's claim", daemon=True)
    try:
        keeper.start()
    except RuntimeError as error:
        raise MemoryError("no thread can be started") from error
    try:
        yield
    finally:
        done.set()
        keeper.join()


def _claim(request: Request) -> tuple[KeptAnswer, bool]:
    """The row of the request's key, and whether it is this request that made it.

    Raises InvalidInput for a key that is malformed, or was given with another body.
    """
    key = request.headers[HEADER]
    if not KEY.fullmatch(key):
        allowed = "1 to 255 visible ASCII characters"
        raise InvalidInput([Problem(HEADER, shown(key), allowed)])
    token = cast(Actor, request.auth).token
    path = request.get_full_path()
    digest = sha256(f"{path}\n{key}".encode()).hexdigest()
    # Keyed: a body may hold a password, which must not be guessed from what is kept.
    body = salted_hmac(_SALT, request.body, algorithm="sha256").hexdigest()
    own = KeptAnswer.objects.filter(token=token, digest=digest)
    own.filter(_is_past()).delete()
    kept, is_new = KeptAnswer.objects.get_or_create(
        token=token, digest=digest, defaults={"body_digest": body}
    )
    if kept.body_digest != body:
        allowed = "a key that was not used at this address with another body"
        raise InvalidInput([Problem(HEADER, "one used before", allowed)])
    return kept, is_new


def _again(kept: KeptAnswer) -> Response:
    """The answer that was given first."""
    if kept.status is None:
        raise Conflict("the first request with this Idempotency-Key is not done yet")
    headers = {**kept.headers, "Idempotency-Replayed": "true"}
    content = orjson.Fragment(kept.content) if kept.content else None
    return Response(content, status=kept.status, headers=headers)


def _is_past() -> Q:
    lost = Q(status=None, created_at__lt=Now() - timedelta(seconds=_ABANDONED_SECONDS))
    return Q(created_at__lt=Now() - KeptAnswer.KEPT_FOR) | lost
