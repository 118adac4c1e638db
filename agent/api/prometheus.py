"""Prometheus' HTTP API over the node's short history: queries, rules, alerts, in its JSON and its error shape.

Shapes: https://prometheus.io/docs/prometheus/latest/querying/api/. Unknown parameters are ignored, as there (Grafana
sends some), except those that would change the answer.
"""

import re
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from agent.api.numbers import plain
from agent.api.problems import prometheus_error
from agent.api.rules_json import alerts_data, groups_data
from agent.api.schema import prometheus_parameters
from agent.api.services import Line, NodeServices, QueryRefused
from agent.api.times import parse_duration, parse_instant
from agent.core.catalogue import CATALOGUE

MAX_POINTS = 11_000  # per series, Prometheus' own limit
MAX_FORM_BYTES = 1 << 20
_CHANGES_ANSWER = ("lookback_delta",)
_INF = 2**62

Parameters = dict[str, list[str]]
Handler = Callable[[Parameters], Any]


class BadData(Exception):
    """A parameter is wrong; answered as errorType ``bad_data``, status 400."""


class Truncated(msgspec.Struct, frozen=True):
    """Data that `limit` cut short: answered with Prometheus' warning."""

    data: Any


def prometheus_router(node: NodeServices) -> APIRouter:
    """The paths under ``/api/v1`` that speak Prometheus' language."""
    router = APIRouter(prefix="/api/v1", tags=["Prometheus API"])
    asks = _Asks(node)

    def add(path: str, handler: Handler, summary: str, takes: str = "", *, form: bool = False) -> None:
        methods = ["GET", "POST"] if form else ["GET"]
        for method in methods:
            router.add_api_route(
                path,
                _endpoint(handler),
                methods=[method],
                summary=summary,
                operation_id=f"{method.lower()}{re.sub('[^a-z]+', '_', path)}",
                response_class=Response,
                openapi_extra=prometheus_parameters(path, takes.split(), as_form=method == "POST"),
            )

    add("/query", asks.query, "Evaluate a PromQL expression at one instant.", "query time limit", form=True)
    add("/query_range", asks.query_range, "Evaluate over a range.", "query start end step limit", form=True)
    add("/series", asks.series, "Series that match the selectors.", "match[] start end limit", form=True)
    add("/labels", asks.labels, "Label names.", "match[] start end limit", form=True)
    add("/label/{name}/values", asks.label_values, "Values of one label.", "match[] start end limit")
    add("/metadata", asks.metadata, "Type, unit and help of every metric of this agent.", "metric limit")
    kinds = "type rule_name[] rule_group[] file[] exclude_alerts"
    add("/rules", asks.rules, "Rules of this node and their state.", kinds)
    add("/alerts", asks.alerts, "Pending and firing alerts of this node.")
    add("/status/buildinfo", asks.buildinfo, "Version, as Grafana asks for it.")
    return router


def _endpoint(handler: Handler) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    @wraps(handler)
    async def answer(request: Request) -> Response:
        try:
            parameters = await _parameters(request)
            data = handler(parameters)
        except (BadData, ValueError) as error:
            return prometheus_error(400, "bad_data", str(error))
        except QueryRefused as error:
            return prometheus_error(400 if error.kind == "bad_data" else 422, error.kind, error.reason)
        if isinstance(data, Truncated):
            return _json({"status": "success", "data": data.data, "warnings": ["results truncated due to limit"]})
        return _json({"status": "success", "data": data})

    # FastAPI reads the signature; `wraps` would show it the handler's.
    del answer.__wrapped__
    answer.__annotations__ = {"request": Request, "return": Response}
    return answer


async def _parameters(request: Request) -> Parameters:
    pairs = list(request.query_params.multi_items())
    if request.method == "POST":
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_FORM_BYTES:
                raise BadData("the form is larger than 1 MiB")
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if body and kind != "application/x-www-form-urlencoded":
            raise BadData(f"content type {kind or 'missing'}: send the form as application/x-www-form-urlencoded")
        pairs += parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)
    found: Parameters = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    for key, value in request.path_params.items():
        found[f"{{{key}}}"] = [str(value)]
    for key in _CHANGES_ANSWER:
        if found.get(key, [""])[0]:
            raise BadData(f"parameter {key!r} is not supported by this agent; leave it out")
    return found


class _Asks:
    """The handlers: parameters in, the value of ``data`` out."""

    def __init__(self, node: NodeServices) -> None:
        self.node = node

    def query(self, parameters: Parameters) -> Any:
        expression = _needed(parameters, "query")
        at_ms = _instant_ms(parameters, "time", self.now_ms())
        answer = self.node.queries.instant(expression, at_ms)
        if answer.kind == "string":
            return {"resultType": "string", "result": [_seconds(at_ms), answer.text]}
        if answer.kind == "scalar":
            return {"resultType": "scalar", "result": _point(answer.lines[0].points[0])}
        if answer.kind == "vector":
            result = [{"metric": line.labels, "value": _point(line.points[0])} for line in answer.lines]
            return _limited({"resultType": "vector", "result": result}, "result", parameters)
        return _limited({"resultType": "matrix", "result": _matrix(answer.lines)}, "result", parameters)

    def query_range(self, parameters: Parameters) -> Any:
        expression = _needed(parameters, "query")
        start, end = (_instant_ms(parameters, name, None) for name in ("start", "end"))
        if end < start:
            raise BadData(f"invalid parameter 'end': {_seconds(end)} is before start {_seconds(start)}")
        step = round(parse_duration(_needed(parameters, "step")) * 1000)
        if step <= 0:
            raise BadData("invalid parameter 'step': it must be at least one millisecond")
        if (end - start) // step > MAX_POINTS:
            raise BadData(
                f"the range holds {(end - start) // step} steps, more than {MAX_POINTS}; choose a larger 'step'"
            )
        lines = self.node.queries.range(expression, start, end, step)
        return _limited({"resultType": "matrix", "result": _matrix(lines)}, "result", parameters)

    def series(self, parameters: Parameters) -> Any:
        if not parameters.get("match[]"):
            raise BadData("missing parameter 'match[]': give at least one series selector")
        return _limited_list(self._select(parameters), parameters)

    def labels(self, parameters: Parameters) -> Any:
        names = sorted({name for labels in self._select(parameters) for name in labels})
        return _limited_list(names, parameters)

    def label_values(self, parameters: Parameters) -> Any:
        name = parameters["{name}"][0]
        if not name:
            raise BadData("the label name is empty")
        values = sorted({labels[name] for labels in self._select(parameters) if name in labels})
        return _limited_list(values, parameters)

    def metadata(self, parameters: Parameters) -> Any:
        wanted = parameters.get("metric", [""])[0]
        found = {
            metric.name: [{"type": "gauge" if metric.type == "info" else metric.type, "help": metric.help, "unit": ""}]
            for metric in CATALOGUE
            if wanted in ("", metric.name)
        }
        limit = _limit(parameters)
        return dict(list(found.items())[:limit]) if limit is not None else found

    def rules(self, parameters: Parameters) -> Any:
        kind = parameters.get("type", [""])[0]
        if kind not in ("", "alert", "record"):
            raise BadData(f"invalid parameter 'type': {kind!r} is neither 'alert' nor 'record'")
        if parameters.get("match[]"):
            raise BadData("parameter 'match[]' is not supported by this agent; filter by rule_name[] or rule_group[]")
        filters = {key: parameters.get(f"{key}[]", []) for key in ("rule_name", "rule_group", "file")}
        without_alerts = parameters.get("exclude_alerts", [""])[0] in ("true", "1")
        return {"groups": groups_data(self.node.rule_groups(), kind, filters, without_alerts=without_alerts)}

    def alerts(self, _parameters: Parameters) -> Any:
        return {"alerts": alerts_data(self.node.rule_groups())}

    def buildinfo(self, _parameters: Parameters) -> Any:
        # Grafana chooses features by `version` read as a Prometheus version; ours would look ancient to it.
        return {
            "version": "3.0.0",
            "revision": f"engineroom-{self.node.version}",
            "branch": "",
            "buildUser": "",
            "buildDate": "",
            "goVersion": "",
        }

    def now_ms(self) -> int:
        return self.node.unix_ns() // 1_000_000

    def _select(self, parameters: Parameters) -> list[dict[str, str]]:
        start = _instant_ms(parameters, "start", 0)
        end = _instant_ms(parameters, "end", _INF)
        found: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
        selectors: list[str | None] = [*parameters.get("match[]", [])] or [None]
        for selector in selectors:
            for labels in self.node.queries.series(selector, start, end):
                found[tuple(sorted(labels.items()))] = labels
        return [found[key] for key in sorted(found)]


def _needed(parameters: Parameters, name: str) -> str:
    value = parameters.get(name, [""])[0]
    if not value:
        raise BadData(f"missing parameter {name!r}")
    return value


def _instant_ms(parameters: Parameters, name: str, default: int | None) -> int:
    if not parameters.get(name, [""])[0] and default is not None:
        return default
    try:
        return parse_instant(_needed(parameters, name)) // 1_000_000
    except ValueError as error:
        raise BadData(f"invalid parameter {name!r}: {error}") from error


def _limit(parameters: Parameters) -> int | None:
    text = parameters.get("limit", [""])[0]
    if text in ("", "0"):
        return None
    if not text.isdecimal():
        raise BadData(f"invalid parameter 'limit': {text!r} is not a whole number")
    return int(text)


def _limited_list(items: list[Any], parameters: Parameters) -> Any:
    limit = _limit(parameters)
    return Truncated(items[:limit]) if limit is not None and len(items) > limit else items


def _limited(data: dict[str, Any], key: str, parameters: Parameters) -> Any:
    result = _limited_list(data[key], parameters)
    return Truncated({**data, key: result.data}) if isinstance(result, Truncated) else data


def _seconds(at_ms: int) -> float:
    return at_ms / 1000 if at_ms % 1000 else at_ms // 1000


def _point(point: tuple[int, float]) -> tuple[float, str]:
    return _seconds(point[0]), plain(point[1])


def _matrix(lines: list[Line]) -> list[dict[str, Any]]:
    return [{"metric": line.labels, "values": [_point(point) for point in line.points]} for line in lines]


def _json(body: Any) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")
