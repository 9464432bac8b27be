"""`/healthz` and `/readyz`, for whatever restarts processes and routes requests to them, and
`/metrics` for Prometheus.

The first answers as long as the process does and touches nothing else: a database that is away is
no reason to restart the web.
"""

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import CONTENT_TYPE_LATEST
from rest_framework.exceptions import AuthenticationFailed

from eventing.access import TooManyRequests
from eventing.api.authentication import actor_of_header
from eventing.health import degradations, readiness
from eventing.metrics import metrics_text


@never_cache
@require_safe
def healthz(request: HttpRequest) -> JsonResponse:
    """200: this process answers."""
    return JsonResponse({"status": "ok"})


@never_cache
@require_safe
def readyz(request: HttpRequest) -> JsonResponse:
    """200 if database, migrations and broker are fine, else 503 with the reasons.

    What else is not as it should be is said, and 200 all the same: web shows it to people.
    """
    reasons = readiness()
    if reasons:
        return JsonResponse({"status": "not ready", "reasons": reasons}, status=503)
    degraded = degradations()
    if degraded:
        return JsonResponse({"status": "degraded", "reasons": degraded})
    return JsonResponse({"status": "ok"})


@never_cache
@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """The state of the installation, and with a token that of the projects its user may see."""
    try:
        actor = actor_of_header(request.headers.get("Authorization", ""))
    except AuthenticationFailed as error:
        refusal = HttpResponse(f"{error.detail}\n", content_type="text/plain", status=401)
        refusal.headers["WWW-Authenticate"] = "Bearer"
        return refusal
    except TooManyRequests as error:
        refusal = HttpResponse("too many requests\n", content_type="text/plain", status=429)
        refusal.headers["Retry-After"] = str(error.wait_seconds)
        return refusal
    projects = list(actor.projects().order_by("name")) if actor else []
    return HttpResponse(metrics_text(projects), content_type=CONTENT_TYPE_LATEST)
