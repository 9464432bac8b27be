"""What a project's overview tells: figures of a period, troubles, and where its log is."""

from contextlib import suppress

from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response

from eventing import history
from eventing.api import serializers
from eventing.api.filters import figures_selection_of
from eventing.api.representations import figures_shown, store_shown, trouble_shown
from eventing.api.views.base import ProjectView, operation
from eventing.eventing_dbs import stores_of
from eventing.logs.base import LogUnavailable
from eventing.stats import series, series_by_trigger
from eventing.troubles import troubles_of


class Figures(ProjectView):
    takes_parameters = True

    @operation(
        "get_figures",
        {200: serializers.Figures},
        parameters=[serializers.FiguresSelection],
        tag="figures",
    )
    def get(self, request: Request, project: str) -> Response:
        """What came of events in a period up to now, in steps, and of each trigger."""
        selection = figures_selection_of(request.query_params, self.project)
        period, trigger = selection.period, selection.trigger
        since, until = period.bounds(timezone.now())
        found = series(self.project, since, until, period.step, trigger)
        if trigger is not None:
            of_each = {trigger: found}
        else:
            by_id = series_by_trigger(self.project, since, until, period.step)
            of_each = {each: by_id[each.pk] for each in self.project.triggers.filter(pk__in=by_id)}
        backlogs: dict[int, int] = {}
        # A log that does not answer is named in `unavailable`.
        with suppress(LogUnavailable):
            backlogs = history.pending_of(self.project, [each.pk for each in of_each])
        return Response(figures_shown(period, found, of_each, backlogs))


class Troubles(ProjectView):
    @operation("list_troubles", {200: serializers.Trouble(many=True)}, tag="figures")
    def get(self, request: Request, project: str) -> Response:
        """What is wrong with the project's databases and triggers now, the newest first."""
        return Response([trouble_shown(each) for each in troubles_of(self.project)])


class EventingDbs(ProjectView):
    @operation("list_eventing_dbs", {200: serializers.EventingDb(many=True)}, tag="figures")
    def get(self, request: Request, project: str) -> Response:
        """Where the project's events are: the Eventing DB in use, then those before it."""
        return Response([store_shown(each) for each in stores_of(self.project)])
