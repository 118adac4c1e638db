"""Errors as ``application/problem+json`` (RFC 9457), on Prometheus' paths in its form: what was wrong, what to do."""

import math
import re
from collections.abc import Mapping

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from agent.api.access import need_of
from agent.core.ports import TryLater

MEDIA_TYPE = "application/problem+json"
_PROMETHEUS_PATHS = re.compile(r"/api/v1/(query|query_range|series|labels|label/.*|metadata|rules|alerts|status/.*)")
_PROMETHEUS_KINDS = {
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "bad_data",
    413: "bad_data",
    429: "too_many_requests",
    500: "internal",
    503: "unavailable",
}


class Problem(Exception):
    """Ends a request with an error that people can act on. `remedy` says what would work.

    Where a program acts on it, `kind` is the problem's type (RFC 9457) and `members` are further members.
    """

    def __init__(
        self,
        status: int,
        title: str,
        detail: str,
        remedy: str = "",
        headers: Mapping[str, str] | None = None,
        *,
        kind: str = "about:blank",
        members: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.title = title
        self.detail = detail
        self.remedy = remedy
        self.headers = dict(headers or {})
        self.kind = kind
        self.members = dict(members or {})

    def response(self) -> Response:
        body: dict[str, object] = {"type": self.kind, "title": self.title, "status": self.status}
        body["detail"] = self.detail
        if self.remedy:
            body["remedy"] = self.remedy
        body |= self.members
        return Response(msgspec.json.encode(body), self.status, self.headers, MEDIA_TYPE)


def in_prometheus_form(path: str) -> bool:
    """Whether errors of this path are for clients of Prometheus."""
    return _PROMETHEUS_PATHS.fullmatch(path) is not None


def in_the_form_of(path: str, problem: Problem) -> Response:
    """The answer as the clients of `path` read errors: a problem, or Prometheus' error JSON."""
    if not in_prometheus_form(path):
        return problem.response()
    reason = f"{problem.detail} {problem.remedy}".strip()
    kind = _PROMETHEUS_KINDS.get(problem.status, "bad_data")
    return prometheus_error(problem.status, kind, reason, problem.headers)


def prometheus_error(status: int, kind: str, reason: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error as Prometheus' HTTP API writes it."""
    body = msgspec.json.encode({"status": "error", "errorType": kind, "error": reason})
    return Response(body, status, headers, "application/json")


def unavailable(title: str, error: TryLater) -> Problem:
    """503 with the time after which asking again is useful."""
    seconds = max(1, math.ceil(error.after_seconds or 1))
    remedy = f"Ask again in {seconds} s."
    return Problem(503, title, f"{error.reason}.", remedy, {"Retry-After": str(seconds)})


def add_problem_handlers(app: FastAPI) -> None:
    """Turn every error of the framework into a problem, so that no path answers in another form."""

    def answer(request: Request, problem: Problem) -> Response:
        return in_the_form_of(request.scope["path"], problem)

    @app.exception_handler(Problem)
    async def on_problem(request: Request, problem: Problem) -> Response:
        return answer(request, problem)

    @app.exception_handler(TryLater)
    async def on_try_later(request: Request, error: TryLater) -> Response:
        return answer(request, unavailable("Not available now", error))

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> Response:
        remedy = "See /docs for the paths of this agent." if error.status_code in (404, 405) else ""
        detail = f"{request.method} {request.scope['path']}: {error.detail}"
        headers = dict(error.headers or {})
        need = need_of(request.scope["path"])
        if error.status_code == 405 and need is not None:
            headers["Allow"] = ", ".join(need.methods)  # of all routes of the path; the framework knows one at a time
        return answer(request, Problem(error.status_code, str(error.detail), detail, remedy, headers))

    @app.exception_handler(Exception)
    async def on_bug(request: Request, _error: Exception) -> Response:
        # uvicorn logs the trace; what went wrong inside is not for whoever asked.
        detail = f"{request.method} {request.scope['path']} failed inside the agent."
        remedy = "This is a bug; the agent's log says more."
        # Starlette answers this outside of all middlewares, which would have added these.
        headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        return answer(request, Problem(500, "Internal error", detail, remedy, headers))

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> Response:
        return answer(request, _invalid(request, error))


def _invalid(request: Request, error: RequestValidationError) -> Problem:
    allowed = _allowed_parameters(request)
    unknown = [str(e["loc"][-1]) for e in error.errors() if e["type"] == "extra_forbidden"]
    if unknown:
        names = ", ".join(repr(name) for name in unknown)
        detail = f"{request.url.path} does not know the query parameter {names}."
        return Problem(400, "Unknown query parameter", detail, f"Allowed are: {', '.join(allowed) or 'none'}.")
    parts = [f"{'.'.join(str(p) for p in e['loc'][1:]) or e['loc'][0]}: {e['msg']}" for e in error.errors()]
    remedy = f"Parameters of this path: {', '.join(allowed)}." if allowed else "See /docs."
    return Problem(400, "Invalid request", f"{request.url.path}: {'; '.join(parts)}.", remedy)


def _allowed_parameters(request: Request) -> list[str]:
    """Names of the query parameters of the route that was asked, from its own signature."""
    dependant = getattr(request.scope.get("route"), "dependant", None)
    names: list[str] = []
    for field in getattr(dependant, "query_params", []):
        model_fields = getattr(field.field_info.annotation, "model_fields", None)
        names.extend([field.alias] if model_fields is None else model_fields)
    return names
