"""Errors of our own paths as ``application/problem+json`` (RFC 9457): what was wrong, where, what to do."""

import math
from collections.abc import Mapping

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from agent.core.ports import TryLater

MEDIA_TYPE = "application/problem+json"


class Problem(Exception):
    """Ends a request with an error that people can act on. `remedy` says what would work."""

    def __init__(
        self, status: int, title: str, detail: str, remedy: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.title = title
        self.detail = detail
        self.remedy = remedy
        self.headers = dict(headers or {})

    def response(self) -> Response:
        body: dict[str, object] = {"type": "about:blank", "title": self.title, "status": self.status}
        body["detail"] = self.detail
        if self.remedy:
            body["remedy"] = self.remedy
        return Response(msgspec.json.encode(body), self.status, self.headers, MEDIA_TYPE)


def unavailable(title: str, error: TryLater) -> Problem:
    """503 with the time after which asking again is useful."""
    seconds = max(1, math.ceil(error.after_seconds or 1))
    remedy = f"Ask again in {seconds} s."
    return Problem(503, title, f"{error.reason}.", remedy, {"Retry-After": str(seconds)})


def add_problem_handlers(app: FastAPI) -> None:
    """Turn every error of the framework into a problem, so that no path answers in another form."""

    @app.exception_handler(Problem)
    async def on_problem(_request: Request, problem: Problem) -> Response:
        return problem.response()

    @app.exception_handler(TryLater)
    async def on_try_later(_request: Request, error: TryLater) -> Response:
        return unavailable("Not available now", error).response()

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> Response:
        remedy = "See /docs for the paths of this agent." if error.status_code in (404, 405) else ""
        detail = f"{request.method} {request.url.path}: {error.detail}"
        return Problem(error.status_code, str(error.detail), detail, remedy, error.headers).response()

    @app.exception_handler(Exception)
    async def on_bug(request: Request, _error: Exception) -> Response:
        # uvicorn logs the trace; what went wrong inside is not for whoever asked.
        detail = f"{request.method} {request.url.path} failed inside the agent."
        return Problem(500, "Internal error", detail, "This is a bug; the agent's log says more.").response()

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> Response:
        return _invalid(request, error).response()


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
