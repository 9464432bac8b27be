"""`manage.py createsuperuser`: Django's own; whom it makes is noted."""

from django.contrib.auth.management.commands.createsuperuser import Command as DjangosCommand

from eventing.management.noted import NotingUsers


class Command(NotingUsers, DjangosCommand):
    pass
