"""Who may ask what: every path of port 9440 → what a caller must hold, and the caller a route was reached by."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from fastapi import Request
from starlette.routing import compile_path

from agent.doors.identity import Denied, Identity, Scope

CALLER = "engineroom.caller"
"""Where `agent.api.gate` leaves the `Identity` in the ASGI scope."""

SMALL_BODY_BYTES = 64 << 10  # nobody needs to send more to a path that reads no body
FORM_BODY_BYTES = (1 << 20) + 1024  # Prometheus' forms; their handler says so itself at 1 MiB
LEASES_BODY_BYTES = 1 << 20
BATCH_BODY_BYTES = (8 << 20) + 1024  # records; as above at 8 MiB


class Need(NamedTuple):
    """What a path asks of its caller. `is_open`: nothing, not even a name.

    Without scopes any known caller will do. `all_tenants`: what it answers holds figures of every tenant, so that
    whoever is limited to one is refused.
    """

    scopes: frozenset[Scope] = frozenset()
    is_open: bool = False
    all_tenants: bool = False
    body_bytes: int = SMALL_BODY_BYTES
    methods: tuple[str, ...] = ("GET",)


def _need(*scopes: Scope, **fields: Any) -> Need:
    return Need(frozenset(scopes), **fields)


_OPEN = Need(is_open=True)
_KNOWN = _need()
_METRICS = _need("metrics", all_tenants=True)  # engineroom_cost_total has the label `tenant`
_FORMS = _need("metrics", all_tenants=True, body_bytes=FORM_BODY_BYTES, methods=("GET", "POST"))
_EVERYTHING = _need("metrics", "cost", all_tenants=True)

NEEDS: Mapping[str, Need] = {
    "/": _EVERYTHING,
    "/fragment": _EVERYTHING,
    "/static/{name}": _OPEN,
    "/favicon.ico": _OPEN,
    "/docs": _KNOWN,
    "/openapi.json": _need(methods=("GET", "HEAD")),
    "/livez": _OPEN,
    "/readyz": _OPEN,
    "/startupz": _OPEN,
    "/metrics": _METRICS,
    "/api/v1/query": _FORMS,
    "/api/v1/query_range": _FORMS,
    "/api/v1/series": _FORMS,
    "/api/v1/labels": _FORMS,
    "/api/v1/label/{name}/values": _METRICS,
    "/api/v1/metadata": _METRICS,
    "/api/v1/rules": _METRICS,
    "/api/v1/alerts": _METRICS,
    "/api/v1/status/buildinfo": _METRICS,
    "/api/v1/doctor": _METRICS,
    "/api/v1/slots": _METRICS,
    "/api/v1/engines": _METRICS,
    "/api/v1/cost/report": _need("cost"),
    "/api/v1/cost/requests/{id}": _need("cost"),
    "/api/v1/cost/budgets": _need("cost"),
    "/api/v1/cost/tariff": _need("cost", all_tenants=True),
    "/api/v1/cost/variance": _need("cost", all_tenants=True),
    "/api/v1/cost/savings": _need("cost", all_tenants=True),
    "/api/v1/cost/reconcile": _need("cost", all_tenants=True),
    "/api/v1/cost/prices": _need("cost", all_tenants=True),
    "/ingest/v1/leases": _need("ingest", body_bytes=LEASES_BODY_BYTES, methods=("POST",)),
    "/ingest/v1/records": _need("ingest", body_bytes=BATCH_BODY_BYTES, methods=("POST",)),
}
"""One line for each route; `tests/api/test_access.py` fails for a route that has none."""

_PATTERNS = [(compile_path(path)[0], need) for path, need in NEEDS.items() if "{" in path]


def need_of(path: str) -> Need | None:
    """What the path of a request asks of its caller; None for a path that does not exist here."""
    found = NEEDS.get(path) if "{" not in path else None
    if found is not None:
        return found
    return next((need for pattern, need in _PATTERNS if pattern.match(path)), None)


def admit(need: Need, caller: Identity) -> None:
    """Raises `Denied` (403), naming what is missing."""
    missing = need.scopes - caller.scopes
    if missing:
        raise Denied(403, f"{caller.name} may not ask this: it lacks the scope {' and '.join(sorted(missing))}")
    if need.all_tenants and caller.tenant is not None:
        raise Denied(403, f"{caller.name} may not ask this: it is limited to one tenant, and the answer holds all")


def caller(request: Request) -> Identity:
    """Who sent this request. For handlers; a KeyError when no gate stands before them, which is a bug."""
    identity: Identity = request.scope[CALLER]
    return identity
