"""`manage.py changepassword`: Django's own; whose password it changes is noted."""

from django.contrib.auth.management.commands.changepassword import Command as DjangosCommand

from eventing.management.noted import NotingUsers


class Command(NotingUsers, DjangosCommand):
    pass
