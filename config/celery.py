"""The Celery application: which queues there are, and what beat asks for.

Messages are hints that may be lost or repeated; the event log decides what happens. So they are
acknowledged at once, carry ids alone, and no result is kept.
"""

import logging
import logging.config
import os
import signal
import time
from datetime import UTC, datetime
from typing import Any

from celery import Celery
from celery.beat import Service
from celery.schedules import schedule
from celery.signals import beat_init, celeryd_init, setup_logging, worker_init
from kombu import Queue

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
# Django's checks would import all pages first, none of which a worker needs.
os.environ.setdefault("CELERY_SKIP_CHECKS", "1")

from django.conf import settings

app = Celery("mission_control")


def _time_passed() -> datetime:
    """A time that no setting of the clock changes."""
    return datetime.fromtimestamp(time.monotonic(), UTC)


def every(seconds: float) -> schedule:
    """A schedule that goes on when the clock is set back, and does not hurry when it is set on."""
    return schedule(seconds, nowfun=_time_passed)


app.conf.update(
    broker_url=settings.REDIS_URL,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_connection_timeout=2,
    # For RabbitMQ: how soon either side notices that the other is gone without a word.
    broker_heartbeat=10,
    broker_transport_options={
        # Whoever publishes is told at once that the broker is away; a worker still waits for it.
        "max_retries": 1,
        "interval_start": 0,
        "interval_step": 0,
        "interval_max": 0,
        # For Redis; other brokers' clients ignore them.
        "socket_timeout": 10,
        "socket_connect_timeout": 2,
        "socket_keepalive": True,
        "health_check_interval": 10,
        "retry_on_timeout": False,
    },
    broker_pool_limit=8,
    task_ignore_result=True,
    task_serializer="json",
    accept_content=["json"],
    task_default_queue="upkeep",
    task_queues=[Queue("deliver", routing_key="deliver"), Queue("upkeep", routing_key="upkeep")],
    # What a broker loses is found again, so it need not write it to its disk.
    task_default_delivery_mode="transient",
    worker_pool="threads",
    worker_concurrency=8,
    worker_prefetch_multiplier=2,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    # Each process tells that it lives in the control database; what Celery has for it takes queues
    # of their own, which RabbitMQ gives to one worker per machine only.
    worker_enable_remote_control=False,
    worker_hijack_root_logger=False,
    worker_redirect_stdouts=False,
    beat_schedule={
        # No `expires`: it would compare the clocks of two machines.
        "sweep": {"task": "eventing.tasks.sweep", "schedule": every(1.0)},
        "statistics": {"task": "eventing.tasks.settle_statistics", "schedule": every(60.0)},
        "watch": {"task": "eventing.tasks.watch", "schedule": every(10.0)},
        "upkeep": {"task": "eventing.tasks.upkeep", "schedule": every(600.0)},
    },
    # Nothing to remember between starts: what is due is in the event log.
    beat_scheduler="celery.beat:Scheduler",
    beat_max_loop_interval=1,
    timezone="UTC",
)


@celeryd_init.connect
def speak_as_the_settings_say(instance: Any, **_: object) -> None:
    """From its first line on: warnings are lines of the log, and a log of JSON has no banner."""
    logging.config.dictConfig(settings.LOGGING)
    logging.captureWarnings(True)
    instance.quiet = instance.quiet or settings.LOG_FORMAT == "json"


@setup_logging.connect
def keep_django_logging(**_: object) -> None:
    """Celery would otherwise replace the logging that the settings describe."""


@worker_init.connect
def keep_to_itself(sender: Any, **_: object) -> None:
    """Workers have nothing to tell each other, whatever the command line says."""
    sender.options.update(without_gossip=True, without_mingle=True, without_heartbeat=True)


@beat_init.connect
def end_when_told(sender: Service, **_: object) -> None:
    """Beat ends even if what the signal interrupts swallows the exception, as destructors do."""

    def end(*_: object) -> None:
        sender.stop()
        raise SystemExit

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)


app.autodiscover_tasks(["eventing"])
