"""What the console stores for itself: how often signing in has failed lately."""

from django.db import models
from django.db.models.functions import Now


class SignInFailures(models.Model):
    """Failures of one key since `since`; keys are digests, so no user name is kept."""

    key = models.CharField(max_length=64, primary_key=True)
    failures = models.PositiveIntegerField(default=0)
    since = models.DateTimeField(db_default=Now())
