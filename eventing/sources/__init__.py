"""Every kind of source, by the type a database has."""

from typing import Protocol

from django.apps import apps

from eventing.changes import MISSION_CONTROL
from eventing.sources.base import Source
from eventing.sources.mongodb import MongoSource
from eventing.sources.mysql import MySqlSource
from eventing.sources.postgres import PostgresSource
from eventing.sources.troubles import TroublesSource


class Described(Protocol):
    """What is needed to open a source: a stored database, or one that was given up."""

    @property
    def type(self) -> str: ...

    @property
    def url(self) -> str: ...

    @property
    def source_name(self) -> str: ...


def source_of(database: Described) -> Source:
    """The source for a database; connects only when it is used."""
    if database.type == "mongodb":
        return MongoSource(database.url, database.source_name)
    if database.type == "mysql":
        return MySqlSource(database.url, database.source_name)
    if database.type == MISSION_CONTROL:
        # One that was given up, or is not stored yet, belongs to no project.
        return TroublesSource(getattr(database, "project_id", None), database.source_name)
    schemas = getattr(database, "schemas", None)
    return PostgresSource(database.url, database.source_name, schemas, _own_tables())


def _own_tables() -> frozenset[str]:
    """The product's own tables, as `schema.table`, should the control database be watched."""
    names = {model._meta.db_table for model in apps.get_models(include_auto_created=True)}
    return frozenset(f"public.{name}" for name in names | {"django_migrations"})
