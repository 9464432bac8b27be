"""What the description of the API says beyond what serializers can."""

from typing import Any


def close_bodies(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Say of whatever is sent that fields nobody knows are refused; a hook of drf-spectacular."""
    for name, schema in result["components"]["schemas"].items():
        if name.endswith("Request") and schema.get("type") == "object":
            schema.setdefault("additionalProperties", False)
    return result
