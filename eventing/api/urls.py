"""The addresses of contract section 7."""

from typing import Final

from django.urls import include, path, re_path, register_converter
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from eventing.api.health import healthz, metrics, readyz
from eventing.api.problem_details import nothing_here
from eventing.api.views import (
    audit,
    configuration,
    databases,
    events,
    figures,
    health,
    members,
    notifications,
    projects,
    redeliveries,
    tokens,
    triggers,
)
from eventing.definitions import NAME

SAFE: Final = ["get", "head"]
# Without the slash that every address begins with.
REST: Final = "api/v1/"


class NameConverter:
    """A project, a database or a trigger may have no other name."""

    regex = NAME.pattern

    def to_python(self, value: str) -> str:
        return value

    def to_url(self, value: str) -> str:
        return value


register_converter(NameConverter, "name")

_of_a_project = [
    path("", projects.OneProject.as_view(), name="api-project"),
    path("settings/", projects.ProjectSettings.as_view()),
    path("members/", members.Members.as_view()),
    path("members/<str:username>/", members.OneMember.as_view(), name="api-member"),
    path("members/<str:username>/reset-two-factor/", members.MemberFactorsReset.as_view()),
    path("tokens/", tokens.Tokens.as_view()),
    path("tokens/<int:token_id>/", tokens.OneToken.as_view(), name="api-token"),
    path("notifications/", notifications.Notifications.as_view()),
    path(
        "notifications/<name:name>/",
        notifications.OneNotification.as_view(),
        name="api-notification",
    ),
    path("notifications/<name:name>/test/", notifications.NotificationTest.as_view()),
    path("audit/", audit.AuditLog.as_view()),
    path("databases/", databases.Databases.as_view()),
    path("databases/<name:alias>/", databases.OneDatabase.as_view(), name="api-database"),
    path("databases/<name:alias>/check/", databases.DatabaseCheck.as_view()),
    path("databases/<name:alias>/start-anew/", databases.DatabaseStartingAnew.as_view()),
    path("databases/<name:alias>/tables/", databases.DatabaseTables.as_view()),
    path("databases/<name:alias>/tables/count/", databases.DatabaseTableCount.as_view()),
    path("check/", databases.CandidateCheck.as_view()),
    path("triggers/", triggers.Triggers.as_view()),
    path("triggers/<name:name>/", triggers.OneTrigger.as_view(), name="api-trigger"),
    path("triggers/<name:name>/history/", triggers.TriggerHistory.as_view()),
    path("triggers/<name:name>/test/", triggers.TriggerTest.as_view()),
    path("triggers/<name:name>/secret/", triggers.TriggerSecret.as_view()),
    path("triggers/<name:name>/secret/rotate/", triggers.TriggerSecretRotation.as_view()),
    path("triggers/<name:name>/secret/retire/", triggers.TriggerSecretRetirement.as_view()),
    path("sample/", triggers.DraftSample.as_view()),
    path("try/", triggers.DraftTest.as_view()),
    path("events/", events.Events.as_view()),
    path("events/count/", events.EventsCount.as_view()),
    path("events/redeliver/", events.EventsRedelivery.as_view()),
    path("events/export/", events.EventsExport.as_view()),
    path("events/cancel/", events.EventsCancelling.as_view()),
    path("events/<uuid:event_id>/", events.OneEvent.as_view()),
    path("events/<uuid:event_id>/redeliver/", events.EventRedelivery.as_view()),
    path("redeliveries/", redeliveries.Redeliveries.as_view()),
    path(
        "redeliveries/<int:number>/",
        redeliveries.OneRedelivery.as_view(),
        name="api-redelivery",
    ),
    path("redeliveries/<int:number>/cancel/", redeliveries.RedeliveryCancelling.as_view()),
    path("stats/", events.Stats.as_view()),
    path("figures/", figures.Figures.as_view()),
    path("troubles/", figures.Troubles.as_view()),
    path("eventing-dbs/", figures.EventingDbs.as_view()),
    path("configuration/", configuration.Configuration.as_view()),
]

urlpatterns = [
    path("healthz", healthz),
    path("readyz", readyz),
    path("metrics", metrics),
    path(
        "api/docs/",
        # Its usual template has inline style, which the content security policy refuses.
        SpectacularSwaggerSplitView.as_view(
            url_name="api-schema", template_name="api/docs.html", http_method_names=SAFE
        ),
        name="api-docs",
    ),
    path(f"{REST}schema/", SpectacularAPIView.as_view(http_method_names=SAFE), name="api-schema"),
    path(f"{REST}health/", health.InstallationHealth.as_view()),
    path(f"{REST}audit/", audit.InstallationAuditLog.as_view()),
    path(f"{REST}projects/", projects.Projects.as_view()),
    path(f"{REST}projects/<name:project>/", include(_of_a_project)),
    re_path(rf"^{REST}(?P<path>.*)$", nothing_here),
]
