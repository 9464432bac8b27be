"""Settings, read from the environment alone (contract section 4).

A missing or malformed variable stops the process with one line that names it; the value is never
shown, since it may be a secret.
"""

import ipaddress
import sys
import traceback
import warnings
from pathlib import Path
from typing import NoReturn, cast
from urllib.parse import urlsplit
from uuid import UUID

import dj_database_url
import structlog
from environs import Env, EnvError
from psycopg2.extensions import ISOLATION_LEVEL_READ_COMMITTED

from eventing import __version__

BASE_DIR = Path(__file__).resolve().parent.parent


def _stop(variable: str, allowed: str) -> NoReturn:
    sys.exit(f"{variable} is missing or malformed; allowed: {allowed}")


env = Env()


def _text(variable: str, allowed: str) -> str:
    value: str = env.str(variable, "").strip()
    return value or _stop(variable, allowed)


def _flag(variable: str) -> bool:
    try:
        return bool(env.bool(variable, False))
    except EnvError:
        _stop(variable, "true or false")


def _choice(variable: str, choices: tuple[str, ...], default: str) -> str:
    value: str = env.str(variable, default)
    chosen = [each for each in choices if each.lower() == value.lower()]
    return chosen[0] if chosen else _stop(variable, "one of " + ", ".join(choices))


def _list(variable: str) -> list[str]:
    return [item.strip() for item in env.str(variable, "").split(",") if item.strip()]


def _hosts(variable: str) -> list[str]:
    hosts = _list(variable)
    if any("/" in host or any(map(str.isspace, host)) for host in hosts):
        _stop(variable, "comma-separated host names such as example.com, without http://")
    return hosts


def _origins(variable: str) -> list[str]:
    allowed = "comma-separated origins such as https://example.com"
    origins = _list(variable)
    for origin in origins:
        try:
            parts = urlsplit(origin)
        except ValueError:
            _stop(variable, allowed)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            _stop(variable, allowed)
    return origins


def _networks(variable: str) -> list[str]:
    try:
        return [str(ipaddress.ip_network(item)) for item in _list(variable)]
    except ValueError:
        _stop(variable, "comma-separated networks such as 10.1.0.0/16,fd00::/8")


_DATABASE_URL_ALLOWED = "postgresql://USER:PASSWORD@HOST:PORT/DATABASE"


def _database(variable: str) -> dict[str, object]:
    url = _text(variable, _DATABASE_URL_ALLOWED)
    try:
        database = dict(dj_database_url.parse(url, conn_max_age=60, conn_health_checks=True))
    except (dj_database_url.UnknownSchemeError, dj_database_url.ParseError, ValueError):
        _stop(variable, _DATABASE_URL_ALLOWED)
    if database.get("ENGINE") != "django.db.backends.postgresql" or not database.get("NAME"):
        _stop(variable, _DATABASE_URL_ALLOWED)
    # A cursor that outlives its statement belongs to a session, which a pooler may not give.
    database["DISABLE_SERVER_SIDE_CURSORS"] = True
    # Whatever the server's default: a conditional UPDATE must see what others have committed.
    options = cast(dict[str, object], database.setdefault("OPTIONS", {}))
    options["isolation_level"] = ISOLATION_LEVEL_READ_COMMITTED
    return database


def _broker_url(variable: str) -> str:
    allowed = (
        "redis://HOST:PORT/NUMBER (or rediss://, unix://),"
        " amqp://USER:PASSWORD@HOST:PORT/VHOST (or amqps://) for RabbitMQ"
    )
    url = _text(variable, allowed)
    try:
        parts = urlsplit(url)
        has_place = bool(parts.hostname) and parts.port != 0
    except ValueError:
        _stop(variable, allowed)
    number = parts.path.removeprefix("/") if parts.scheme in ("redis", "rediss") else ""
    well_formed = {
        **dict.fromkeys(("redis", "rediss"), has_place and (not number or number.isdecimal())),
        **dict.fromkeys(("amqp", "amqps"), has_place),
        "unix": bool(parts.path),
    }
    return url if well_formed.get(parts.scheme) else _stop(variable, allowed)


def _encryption_keys(variable: str) -> list[str]:
    keys = _list(variable)
    if not keys or any(len(key) < 32 for key in keys):
        _stop(variable, "comma-separated keys of at least 32 characters each")
    return keys


def _port(variable: str) -> int:
    value = env.str(variable, "8000")
    # The shell that starts the web process reads it as well, and knows no digits but these.
    if value.isascii() and value.isdecimal() and 0 < int(value) < 65536:
        return int(value)
    _stop(variable, "a whole number from 1 to 65535")


def _processes(variable: str) -> int:
    """Gunicorn reads it, too; with none of them it would listen and never answer."""
    value = env.str(variable, "2")
    if value.isascii() and value.isdecimal() and 0 < int(value) <= 1000:
        return int(value)
    _stop(variable, "a whole number from 1 to 1000")


def _name(variable: str) -> str:
    """A name that stands on every page; none if it is not set."""
    name: str = env.str(variable, "").strip()
    if len(name) > 24 or not name.isprintable():
        _stop(variable, "at most 24 characters on one line, such as production")
    return name


def _node_id(variable: str) -> str:
    value = env.str(variable, "")
    try:
        return str(UUID(value)) if value else ""
    except ValueError:
        _stop(variable, "a uuid")


def _provider() -> list[dict[str, object]]:
    """The OpenID Connect provider, none without an issuer."""
    names = ("OIDC_ISSUER", "OIDC_CLIENT_ID", "OIDC_CLIENT_SECRET")
    if not any(env.str(name, "").strip() for name in names):
        return []
    allowed = "https://HOST/PATH, as the provider calls itself (http:// on this machine alone)"
    issuer = _text(names[0], allowed)
    parts = urlsplit(issuer)
    is_local = parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1", "::1")
    if not parts.hostname or not (parts.scheme == "https" or is_local):
        _stop(names[0], allowed)
    return [
        {
            "provider_id": "sso",
            "name": env.str("OIDC_NAME", "").strip() or "single sign-on",
            "client_id": _text(names[1], "the client's id at the provider of OIDC_ISSUER"),
            "secret": _text(names[2], "the client's secret at the provider of OIDC_ISSUER"),
            "settings": {"server_url": issuer, "oauth_pkce_enabled": True},
        }
    ]


DEBUG = _flag("DEBUG")
SECRET_KEY = _text("SECRET_KEY", "a long random text")
ENCRYPTION_KEYS = _encryption_keys("ENCRYPTION_KEYS")
DATABASES = {"default": _database("DATABASE_URL")}
REDIS_URL = _broker_url("REDIS_URL")
ALLOWED_HOSTS = _hosts("ALLOWED_HOSTS") or ["localhost", "127.0.0.1", "[::1]"]
CSRF_TRUSTED_ORIGINS = _origins("CSRF_TRUSTED_ORIGINS")
NODE_ID = _node_id("NODE_ID")
ENVIRONMENT_NAME = _name("ENVIRONMENT_NAME")
WEBHOOK_ALLOWED_NETWORKS = _networks("WEBHOOK_ALLOWED_NETWORKS")
OIDC_APPS = _provider()
TRUSTED_PROXIES = _networks("TRUSTED_PROXIES")
LOG_FORMAT = _choice("LOG_FORMAT", ("text", "json"), "text")
LOG_LEVEL = _choice("LOG_LEVEL", ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"), "INFO")
PORT = _port("PORT")
WEB_CONCURRENCY = _processes("WEB_CONCURRENCY")
VERSION = __version__

INSTALLED_APPS = [
    # Before Django's own, whose commands that make or change users it has note that.
    "eventing",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "allauth.socialaccount",
    "allauth.socialaccount.providers.openid_connect",
    "django_htmx",
    "heroicons",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "webui",
]

MIDDLEWARE = [
    "webui.middleware.ClientAddressMiddleware",
    "webui.middleware.HeadersMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "webui.middleware.HostMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "webui.middleware.ConsoleMethodsMiddleware",
]

ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "webui.frame.frame",
            ],
        },
    }
]

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
ACCOUNT_ADAPTER = "webui.sign_in.AccountAdapter"
ACCOUNT_EMAIL_VERIFICATION = "none"
ACCOUNT_LOGIN_METHODS = {"username"}
ACCOUNT_SIGNUP_FIELDS = ["username*", "password1*"]
# An address that the provider gives neither makes nor merges users.
ACCOUNT_UNIQUE_EMAIL = False
MFA_ADAPTER = "webui.sign_in.SecondFactorAdapter"
MFA_ALLOW_UNVERIFIED_EMAIL = True
MFA_TOTP_ISSUER = "Mission Control"
# One step of 30 seconds to either side, for clocks that differ.
MFA_TOTP_TOLERANCE = 1
SOCIALACCOUNT_ADAPTER = "webui.sign_in.ProviderAdapter"
SOCIALACCOUNT_PROVIDERS = {"openid_connect": {"APPS": OIDC_APPS}}
CACHES = {
    "default": {
        # For the web processes alone, and small: which codes were used, how often something failed.
        "BACKEND": "django.core.cache.backends.db.DatabaseCache",
        "LOCATION": "webui_cache",
        "OPTIONS": {"MAX_ENTRIES": 10_000},
    }
}
LOGIN_URL = "sign-in"
LOGIN_REDIRECT_URL = "projects"
LOGOUT_REDIRECT_URL = "sign-in"

LANGUAGE_CODE = "en-us"
USE_I18N = False
USE_TZ = True
TIME_ZONE = "UTC"

STATIC_URL = "/static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
STATICFILES_DIRS = [BASE_DIR / "static"]
# Without `collectstatic` the files are served from where they lie.
WHITENOISE_USE_FINDERS = True
warnings.filterwarnings("ignore", "No directory at: .*staticfiles", module="django.core.handlers")

SESSION_ENGINE = "webui.sessions"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_HTTPONLY = True
CSRF_COOKIE_SAMESITE = "Lax"
CSRF_FAILURE_VIEW = "webui.views.errors.csrf_failure"
# Told to browsers that came by https.
SECURE_HSTS_SECONDS = 365 * 86_400
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["eventing.api.authentication.TokenAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["eventing.api.permissions.ProjectRole"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "eventing.api.problem_details.answer",
    "UNAUTHENTICATED_USER": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Mission Control",
    "VERSION": __version__,
    "SERVE_INCLUDE_SCHEMA": False,
    # Else a generated client would ask for what is read only when it makes something.
    "COMPONENT_SPLIT_REQUEST": True,
    "SERVE_PERMISSIONS": [],
    "SERVE_AUTHENTICATION": [],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "eventing.api.description.close_bodies",
    ],
    "ENUM_NAME_OVERRIDES": {
        "AuditKind": "eventing.audit.KINDS",
        "DatabaseType": "eventing.changes.DATABASE_TYPES",
        "EventStatus": "eventing.changes.EVENT_STATUSES",
        "EventType": ["DB_INSERT", "DB_UPDATE", "DB_DELETE"],
        "FindingStatus": ["ok", "warning", "error"],
        "TriggerStateEnum": "eventing.definitions.TRIGGER_STATES",
        "TroubleKind": "eventing.definitions.TROUBLE_KINDS",
    },
}


def _frames(exc_info: structlog.typing.ExcInfo) -> str:
    """A traceback without the messages of exceptions, which may quote rows, headers and secrets."""
    told = []
    error: BaseException | None = exc_info[1]
    while error is not None:
        frames = "".join(traceback.format_tb(error.__traceback__))
        told.append(f"Traceback (most recent call last):\n{frames}{type(error).__qualname__}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n\n… while handling, or because of:\n\n".join(told)


_timestamper = structlog.processors.TimeStamper(fmt="iso", utc=True)
_shared_processors: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    _timestamper,
]
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "structured": {
            "()": structlog.stdlib.ProcessorFormatter,
            "foreign_pre_chain": _shared_processors,
            "processors": [
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.ExceptionRenderer(_frames),
                structlog.processors.JSONRenderer()
                if LOG_FORMAT == "json"
                else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
            ],
        }
    },
    "handlers": {"standard_error": {"class": "logging.StreamHandler", "formatter": "structured"}},
    # At DEBUG drivers and libraries quote rows, addresses and answers.
    "root": {
        "handlers": ["standard_error"],
        "level": "INFO" if LOG_LEVEL == "DEBUG" else LOG_LEVEL,
    },
    "loggers": {
        **{ours: {"level": LOG_LEVEL} for ours in ("config", "eventing", "webui")},
        "django.server": {"level": "WARNING"},
        # A line for each message would be a line for each chunk of events, and one each second.
        "celery.app.trace": {"level": "WARNING"},
        "celery.beat": {"level": "WARNING"},
        "celery.worker.strategy": {"level": "WARNING"},
    },
}
structlog.configure(
    processors=[*_shared_processors, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
    logger_factory=structlog.stdlib.LoggerFactory(),
    wrapper_class=structlog.stdlib.BoundLogger,
    cache_logger_on_first_use=True,
)
