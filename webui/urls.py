"""The addresses of the console."""

from allauth.account.views import reauthenticate
from allauth.mfa.base import views as factors
from allauth.mfa.recovery_codes import views as recovery_codes
from allauth.mfa.totp import views as totp
from django.urls import URLPattern, URLResolver, include, path, register_converter
from django.views.decorators.http import require_safe

from webui.names import NameConverter
from webui.sign_in import PROVIDER
from webui.views import (
    accounts,
    audit,
    begin,
    configuration,
    databases,
    events,
    health,
    members,
    notifications,
    overview,
    projects,
    redeliveries,
    settings,
    tokens,
    triggers,
)

register_converter(NameConverter, "named")

_database = [
    path("", databases.edit, name="database-edit"),
    path("delete/", databases.delete, name="database-delete"),
    path("start-anew/", databases.start_capture_anew, name="database-start-anew"),
    path("tables/", databases.tables, name="database-tables"),
    path("tables/count/", databases.table_count, name="database-table-count"),
]

_trigger = [
    path("", triggers.show, name="trigger"),
    path("edit/", triggers.edit, name="trigger-edit"),
    path("state/", triggers.set_state, name="trigger-state"),
    path("test/", triggers.send_test, name="trigger-test"),
    path("secret/", triggers.reveal_secret, name="trigger-secret"),
    path("secret/rotate/", triggers.rotate_secret, name="trigger-secret-rotate"),
    path("secret/retire/", triggers.retire_secret, name="trigger-secret-retire"),
    path("delete/", triggers.delete, name="trigger-delete"),
]

_notification = [
    path("", notifications.edit, name="settings-notification"),
    path("test/", notifications.test, name="settings-notification-test"),
    path("delete/", notifications.delete, name="settings-notification-delete"),
]

_project: list[URLPattern | URLResolver] = [
    path("", overview.show, name="overview"),
    path("begin/", begin.resume, name="begin"),
    path("begin/database/", databases.add, {"begins": True}, name="begin-database"),
    path("begin/trigger/", triggers.add, {"begins": True}, name="begin-trigger"),
    path("begin/event/", begin.event, name="begin-event"),
    path("begin/enable/", begin.enable, name="begin-enable"),
    path("figures/", projects.figures, name="project-figures"),
    path("databases/", databases.index, name="databases"),
    path("databases/add/", databases.add, name="database-add"),
    path("databases/<named:alias>/", include(_database)),
    path("triggers/", triggers.index, name="triggers"),
    path("triggers/add/", triggers.add, name="trigger-add"),
    path("triggers/preview/", triggers.preview, name="trigger-preview"),
    path("triggers/sample/", triggers.sample, name="trigger-sample"),
    path("triggers/try/", triggers.try_draft, name="trigger-try"),
    path("triggers/<named:name>/", include(_trigger)),
    path("events/", events.index, name="events"),
    path("events/redeliver/", redeliveries.start, name="events-redeliver"),
    path("events/chosen/", events.chosen, name="events-chosen"),
    path("events/export/", events.export, name="events-export"),
    path("redeliveries/", redeliveries.index, name="redeliveries"),
    path("redeliveries/<int:number>/", redeliveries.show, name="redelivery"),
    path("redeliveries/<int:number>/cancel/", redeliveries.cancel, name="redelivery-cancel"),
    path("events/<uuid:event_id>/", events.show, name="event"),
    path("events/<uuid:event_id>/payload/", events.payload, name="event-payload"),
    path("events/<uuid:event_id>/redeliver/", events.redeliver, name="event-redeliver"),
    path("settings/", settings.edit, name="settings"),
    path("settings/members/", members.index, name="settings-members"),
    path("settings/members/<int:user_id>/role/", members.change_role, name="settings-member-role"),
    path("settings/members/<int:user_id>/remove/", members.remove, name="settings-member-remove"),
    path(
        "settings/members/<int:user_id>/two-factor/",
        members.reset_factors,
        name="settings-member-two-factor",
    ),
    path("settings/tokens/", tokens.index, name="settings-tokens"),
    path("settings/tokens/<int:token_id>/revoke/", tokens.revoke, name="settings-token-revoke"),
    path("settings/notifications/", notifications.index, name="settings-notifications"),
    path("settings/notifications/add/", notifications.add, name="settings-notification-add"),
    path("settings/notifications/<named:name>/", include(_notification)),
    path("settings/configuration/", configuration.edit, name="settings-configuration"),
    path(
        "settings/configuration/export/", configuration.download, name="settings-configuration-file"
    ),
    path("settings/audit/", audit.index, name="settings-audit"),
    path("settings/rename/", settings.rename, name="project-rename"),
    path("settings/delete/", projects.delete, name="project-delete"),
]

# The names are those that django-allauth leads to.
_account = [
    path("", accounts.show, name="mfa_index"),
    path("password/", accounts.change_password, name="account-password"),
    path("confirm/", reauthenticate, name="account_reauthenticate"),
    path("confirm/code/", factors.reauthenticate, name="mfa_reauthenticate"),
    path("two-factor/on/", totp.activate_totp, name="mfa_activate_totp"),
    path("two-factor/off/", totp.deactivate_totp, name="mfa_deactivate_totp"),
    path(
        "recovery-codes/",
        require_safe(recovery_codes.view_recovery_codes),
        name="mfa_view_recovery_codes",
    ),
    path(
        "recovery-codes/new/",
        recovery_codes.generate_recovery_codes,
        name="mfa_generate_recovery_codes",
    ),
]

urlpatterns = [
    path("", projects.root, name="root"),
    path("sign-in/", accounts.sign_in, name="sign-in"),
    path("sign-in/", accounts.sign_in, name="account_login"),
    path("sign-in/code/", factors.authenticate, name="mfa_authenticate"),
    path("sign-in/sso/", accounts.sign_in_at_provider, name="sign-in-sso"),
    path(
        "sign-in/sso/callback/",
        accounts.back_from_provider,
        {"provider_id": PROVIDER},
        name="openid_connect_callback",
    ),
    path("account/", include(_account)),
    path("sign-out/", accounts.sign_out, name="sign-out"),
    path("first-run/", accounts.first_run, name="first-run"),
    path("theme/", accounts.set_theme, name="theme"),
    path("health/", health.show, name="health"),
    path("health/dot/", health.dot, name="health-dot"),
    path("audit/", audit.of_installation, name="audit"),
    path("projects/", projects.index, name="projects"),
    path("projects/add/", projects.add, name="project-add"),
    path("projects/<named:project>/", include(_project)),
]
