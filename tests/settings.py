"""The product's own settings, given the addresses of the tests' servers.

The servers are started later, by the fixtures that need them: unit tests wait for none.
"""

import os
import secrets

from tests.folders import in_memory
from tests.servers import session_postgres, session_redis

# Before there is any server.
os.environ.update(in_memory())
os.environ.update(
    # What `config.celery` reads while it is imported, and what child processes run with.
    DJANGO_SETTINGS_MODULE="config.settings",
    DATABASE_URL=session_postgres().url("mission_control"),
    REDIS_URL=session_redis().url(),
    SECRET_KEY=secrets.token_urlsafe(48),
    ENCRYPTION_KEYS=secrets.token_urlsafe(48),
    ALLOWED_HOSTS="localhost,127.0.0.1,testserver",
    WEBHOOK_ALLOWED_NETWORKS="127.0.0.0/8,::1/128",
)

from config.settings import *  # noqa: F403
from config.settings import INSTALLED_APPS as _APPS_OF_THE_PRODUCT

# Static files are served from where they lie; nothing is collected.
STATIC_ROOT = None
# For the `flush` of tests/management.
INSTALLED_APPS = [*_APPS_OF_THE_PRODUCT, "tests"]
# What is slow on purpose would be most of what a test of the pages takes. Whoever signs in to the
# product that runs (tests/stack.py) does so with its own.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
# Each client of a test begins with middleware of its own, which would look through all static files
# first. So a file is looked for when it is asked for; the product that runs does as it does.
WHITENOISE_AUTOREFRESH = True
