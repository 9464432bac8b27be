"""`/healthz` and `/readyz`, for whatever restarts processes and routes requests to them.

The first answers as long as the process does and touches nothing else: a database that is away is
no reason to restart the web.
"""

from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from eventing.health import readiness


@never_cache
@require_safe
def healthz(request: HttpRequest) -> JsonResponse:
    """200: this process answers."""
    return JsonResponse({"status": "ok"})


@never_cache
@require_safe
def readyz(request: HttpRequest) -> JsonResponse:
    """200 if database, migrations and broker are fine, else 503 with the reasons."""
    reasons = readiness()
    if reasons:
        return JsonResponse({"status": "not ready", "reasons": reasons}, status=503)
    return JsonResponse({"status": "ok"})
