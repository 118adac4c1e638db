"""The OpenAPI document as FastAPI makes it → with what it cannot see: who may ask, every answer and its media type."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from agent.api.access import NEEDS, Need
from agent.api.problems import MEDIA_TYPE as PROBLEM
from agent.api.problems import in_prometheus_form
from agent.core.quotas.leases import LeaseRequest
from agent.core.requests import RecordBatch

JSON = "application/json"
_SCHEMES = {
    "token": {"type": "http", "scheme": "bearer", "description": "A configured token, or a service account's."},
    "password": {"type": "http", "scheme": "basic", "description": "A token as the password, for browsers."},
    "certificate": {"type": "mutualTLS", "description": "A client certificate."},
}
_TEXT: dict[str, Any] = {"type": "string"}
_SCHEMAS: dict[str, Any] = {
    "Problem": {
        "type": "object",
        "description": "RFC 9457; `remedy` says what would work.",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": _TEXT,
            "title": _TEXT,
            "status": {"type": "integer"},
            "detail": _TEXT,
            "remedy": _TEXT,
        },
    },
    "PrometheusError": {
        "type": "object",
        "required": ["status", "errorType", "error"],
        "properties": {"status": {"const": "error"}, "errorType": _TEXT, "error": _TEXT},
    },
}
_MEDIA = {
    "/metrics": ("text/plain", "application/openmetrics-text"),
    "/livez": ("text/plain", JSON),
    "/readyz": ("text/plain", JSON),
    "/startupz": ("text/plain", JSON),
    "/api/v1/cost/report": (JSON, "text/csv"),
    "/ingest/v1/leases": ("application/msgpack",),
    "/ingest/v1/records": ("application/msgpack",),
}
"""Media types of good answers; JSON where nothing is said."""

_PROBES = ("/livez", "/readyz", "/startupz")
_BODIES: dict[str, tuple[str, type]] = {
    "/ingest/v1/leases": ("application/msgpack", LeaseRequest),
    "/ingest/v1/records": ("application/msgpack", RecordBatch),
}
_ERRORS = {
    400: "A parameter or the body is wrong.",
    401: "Credentials are needed, or these are not known.",
    403: "These credentials do not reach so far.",
    404: "There is nothing under this name.",
    409: "A newer message of the same sender was answered already.",
    413: "The body is too large.",
    415: "The body has another content type than is read here.",
    421: "This agent does not answer for that host name.",
    422: "The query can be read, but not evaluated.",
    429: "Too many requests, or too many wrong credentials, from this address.",
    500: "A bug.",
    503: "Not now, or not within the time that requests may take.",
}
_OF_ALL = (413, 421, 429, 500, 503)
_OF_KNOWN = (400, 401, 403)
_OF_PATH = {
    "/api/v1/query": (422,),
    "/api/v1/query_range": (422,),
    "/api/v1/cost/requests/{id}": (404,),
    "/ingest/v1/leases": (409, 415),
    "/ingest/v1/records": (415,),
}


def describe(document: dict[str, Any]) -> None:
    """Complete an OpenAPI document in place."""
    components = document.setdefault("components", {})
    components["securitySchemes"] = _SCHEMES
    _, bodies = msgspec.json.schema_components(
        [kind for _, kind in _BODIES.values()], ref_template="#/components/schemas/{name}"
    )
    # FastAPI's own form of errors is not among them: wrong parameters are answered as a problem.
    components["schemas"] = _SCHEMAS | bodies
    for path, operations in document["paths"].items():
        for operation in operations.values():
            _describe_operation(path, NEEDS[path], operation)


def _describe_operation(path: str, need: Need, operation: dict[str, Any]) -> None:
    good = {media: {"schema": {} if media.endswith("json") else _TEXT} for media in _MEDIA.get(path, (JSON,))}
    statuses = [*_OF_ALL, *(() if need.is_open else _OF_KNOWN), *_OF_PATH.get(path, ())]
    operation["responses"] = {"200": {"description": "The answer.", "content": good}} | {
        str(status): _error(path, status) for status in sorted(statuses)
    }
    if path in _PROBES:
        operation["responses"]["503"]["content"] |= good
    if path in _BODIES:
        media, kind = _BODIES[path]
        content = {media: {"schema": {"$ref": f"#/components/schemas/{kind.__name__}"}}}
        operation["requestBody"] = {"required": True, "content": content}
    if not need.is_open:
        operation["security"] = [{scheme: sorted(need.scopes)} for scheme in _SCHEMES]


def _error(path: str, status: int) -> dict[str, Any]:
    # A foreign host name is refused before anybody looks at the path.
    form = (JSON, "PrometheusError") if in_prometheus_form(path) and status != 421 else (PROBLEM, "Problem")
    schema = {"$ref": f"#/components/schemas/{form[1]}"}
    return {"description": _ERRORS[status], "content": {form[0]: {"schema": schema}}}


_MEANINGS: dict[str, tuple[str, Any]] = {
    "query": ("A PromQL expression.", "up"),
    "time": ("An instant; now if it is left out.", "2025-11-23T10:00:00Z"),
    "start": ("The first instant.", "2025-11-23T10:00:00Z"),
    "end": ("The last instant.", "1763892300"),
    "step": ("Seconds, or a duration.", "15s"),
    "limit": ("At most so many; 0 for all.", "10"),
    "match[]": ("A series selector.", ["up"]),
    "metric": ("One metric's name.", "engineroom_gpu_up"),
    "type": ("alert or record.", "alert"),
    "rule_name[]": ("Only rules of this name.", ["GpuTemperatureHigh"]),
    "rule_group[]": ("Only rules of this group.", ["node"]),
    "file[]": ("Only rules of this file.", ["alert-rules/node.yaml"]),
    "exclude_alerts": ("true: rules without their alerts.", "true"),
}
"""Parameter -> what it means, and an example."""


def prometheus_parameters(path: str, names: Sequence[str], *, as_form: bool) -> dict[str, Any]:
    """What the document says of parameters that are read by hand, as Prometheus reads them."""
    needed = {"query": ("query",), "query_range": ("query", "start", "end", "step"), "series": ("match[]",)}
    required = needed.get(path.removeprefix("/"), ())
    schemas: dict[str, dict[str, Any]] = {
        name: {"type": "array", "items": {"type": "string"}} if name.endswith("[]") else {"type": "string"}
        for name in names
    }
    if as_form:
        described = {name: {**schema, "description": _MEANINGS[name][0]} for name, schema in schemas.items()}
        example = {name: _MEANINGS[name][1] for name in schemas}
        schema = {"type": "object", "properties": described, "required": list(required)}
        content = {"application/x-www-form-urlencoded": {"schema": schema, "example": example}}
        return {"requestBody": {"required": bool(required), "content": content}}
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", path)
    ]
    for name, schema in schemas.items():
        meaning, example = _MEANINGS[name]
        told = {"description": meaning, "schema": schema, "example": example}
        parameters.append({"name": name, "in": "query", "required": name in required, **told})
    return {"parameters": parameters}
