from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import Request
from fastapi.routing import APIRoute
from starlette.routing import Route

from agent.api.access import CALLER, NEEDS, Need, admit, caller, need_of
from agent.api.app import build_api
from agent.doors.identity import Denied, Identity, Scope
from tests.support.api import node, open_doors


def routes(app: Any) -> Iterator[tuple[str, set[str]]]:
    """(path, methods) of everything that is served, whether or not the OpenAPI document shows it."""
    for route in app.routes:
        if hasattr(route, "original_router"):
            yield from routes(route.original_router)
        else:
            # A mount or a websocket would need a rule of its own in agent/api/access.py.
            assert isinstance(route, Route | APIRoute), f"{route!r}: only plain routes are gated by path"
            yield route.path, set(route.methods or ())


def test_every_route_says_who_may_ask_it():
    found: dict[str, set[str]] = {}
    for path, methods in routes(build_api(node(), open_doors())):
        found.setdefault(path, set()).update(methods)
    missing = sorted(found.keys() - NEEDS.keys())
    assert not missing, f"add {missing} to NEEDS in agent/api/access.py: until then nobody reaches them"
    assert not NEEDS.keys() - found.keys(), "NEEDS names paths that are not served"
    assert {path: set(need.methods) for path, need in NEEDS.items()} == found


def test_what_is_open_is_these():
    assert {path for path, need in NEEDS.items() if need.is_open} == {
        "/static/{name}",
        "/favicon.ico",
        "/livez",
        "/readyz",
        "/startupz",
    }


@pytest.mark.parametrize(
    "path",
    [
        "//metrics",
        "/metrics/",
        "/METRICS",
        "/metrics\n",
        "/metrics%00",
        "metrics",
        "",
        "*",
        "/static/../metrics",
        "/static/",
        "/static/a/b",
        "/livez/../metrics",
        "/api/v1/label//values",
        "/api/v1/label/a/b/values",
        "/api/v1/cost/requests/",
        "/api/v1/admin/anything",
        "/{name}",
    ],
)
def test_paths_that_only_resemble_one_do_not_exist(path: str):
    assert need_of(path) is None


@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("/metrics", "/metrics"),
        ("/static/page.css", "/static/{name}"),
        ("/static/{name}", "/static/{name}"),
        ("/api/v1/label/job/values", "/api/v1/label/{name}/values"),
        ("/api/v1/cost/requests/019ab", "/api/v1/cost/requests/{id}"),
    ],
)
def test_paths_find_their_need(path: str, template: str):
    assert need_of(path) is NEEDS[template]


def identity(*scopes: Scope, tenant: str | None = None) -> Identity:
    return Identity(name="a", kind="token", scopes=frozenset(scopes), tenant=tenant)


BOTH = Need(frozenset(("metrics", "cost")))
WHOLE = Need(frozenset(("cost",)), all_tenants=True)


@pytest.mark.parametrize(
    ("need", "who", "says"),
    [
        (Need(), identity(), None),
        (BOTH, identity("metrics", "cost", "admin"), None),
        (BOTH, identity("metrics"), "lacks the scope cost"),
        (BOTH, identity("admin", "ingest"), "lacks the scope cost and metrics"),
        (WHOLE, identity("cost"), None),
        (WHOLE, identity("cost", tenant="acme"), "one tenant"),
        (Need(frozenset(("cost",))), identity("cost", tenant="acme"), None),
    ],
)
def test_admission(need: Need, who: Identity, says: str | None):
    if says is None:
        admit(need, who)
        return
    with pytest.raises(Denied, match=says) as caught:
        admit(need, who)
    assert caught.value.status == 403


def test_without_a_gate_there_is_no_caller():
    with pytest.raises(KeyError, match=CALLER):
        caller(Request({"type": "http"}))
