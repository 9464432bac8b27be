"""How signing in is slowed down for those who guess: counters in the database that all web
processes share. A user name is counted whether it exists or not, so nothing is given away by it.
"""

from datetime import timedelta
from hashlib import sha256
from typing import Final

from django.db import connection
from django.db.models import Q
from django.db.models.functions import Now

from webui.models import SignInFailures

WINDOW_MINUTES: Final = 15
_MOST_BY_NAME: Final = 5
_MOST_BY_ADDRESS: Final = 100

# One statement, so that attempts made at once are all counted.
_COUNT: Final = """
    INSERT INTO webui_signinfailures AS f (key, failures, since) VALUES (%s, 1, now())
    ON CONFLICT (key) DO UPDATE SET
        failures = CASE WHEN f.since < now() - %s * interval '1 minute'
                        THEN 1 ELSE f.failures + 1 END,
        since = CASE WHEN f.since < now() - %s * interval '1 minute'
                     THEN now() ELSE f.since END
    RETURNING failures"""


def may_try(username: str, address: str) -> bool:
    """Count an attempt before it is looked at; False when there have been too many."""
    by_name = _count(_key_of(username, address)) <= _MOST_BY_NAME
    by_address = _count(_key_of(address)) <= _MOST_BY_ADDRESS
    return by_name and by_address


def succeeded(username: str, address: str) -> None:
    """Forget what was counted for someone who has signed in, and whatever is long past."""
    long_past = Now() - timedelta(minutes=WINDOW_MINUTES)
    own = Q(key=_key_of(username, address))
    SignInFailures.objects.filter(own | Q(since__lt=long_past)).delete()


def _count(key: str) -> int:
    with connection.cursor() as cursor:
        cursor.execute(_COUNT, [key, WINDOW_MINUTES, WINDOW_MINUTES])
        return int(cursor.fetchone()[0])


def _key_of(*parts: str) -> str:
    return sha256("\x00".join(part.casefold() for part in parts).encode()).hexdigest()
