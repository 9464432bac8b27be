"""Configuration: settings, the Celery application, URLs, the web entry point."""

from config.celery import app as celery_app

__all__ = ["celery_app"]
