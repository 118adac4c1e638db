"""Alerts to one Alertmanager: POST /api/v2/alerts, with the instants and texts it accepts.

Payload and answers: https://github.com/prometheus/alertmanager, api/v2/openapi.yaml.
"""

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import aiohttp
import msgspec
import structlog

from agent.core.alerts.alert import Alert, AlertState
from agent.core.http_outcome import http_date_ns, outcome, retry_after_seconds
from agent.core.ports import Paused
from exporters.post import post

log = structlog.get_logger()

NS = 1_000_000_000
SKEW_CORRECTED_SECONDS = 5.0  # below, the whole seconds of the Date header say nothing useful
SKEW_WARNED_SECONDS = 30.0
RESOLVED_MARGIN_NS = NS  # the Date header and the time under way leave their clock known to about half a second
_BAD_IN_NAME = re.compile(r"[^a-zA-Z0-9_]")
_HEADERS = {"Content-Type": "application/json"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class AlertmanagerExporter:
    """One Alertmanager. `hold_seconds` is how long a firing alert stays there without being repeated.

    `unix_ns` is the wall clock. `skew_seconds` says how far that Alertmanager's clock is ahead of ours (None: not yet
    known); when it matters, the instants sent are in that Alertmanager's time.
    """

    def __init__(
        self,
        url: str,
        session: aiohttp.ClientSession,
        unix_ns: Callable[[], int],
        *,
        hold_seconds: float = 120.0,
        timeout_seconds: float = 10.0,
        generator_url: str = "",
    ) -> None:
        self.name = f"alertmanager {url}"
        self.skew_seconds: float | None = None
        self._url = url.rstrip("/") + "/api/v2/alerts"
        self._session = session
        self._unix_ns = unix_ns
        self._hold_ns = int(hold_seconds * NS)
        self._timeout_seconds = timeout_seconds
        self._generator_url = generator_url if _is_absolute(generator_url) else ""

    async def send(self, batch: Sequence[Alert]) -> None:
        """Post the alerts. Raises an error of the port for all of them; some may be stored all the same."""
        before = self._correction_ns()
        await self._post(batch)
        if abs(self._correction_ns() - before) > SKEW_WARNED_SECONDS * NS:
            await self._post(batch)  # the first one carried instants that Alertmanager reads as long past or far ahead

    async def _post(self, batch: Sequence[Alert]) -> None:
        now_ns = self._unix_ns()
        shift_ns = self._correction_ns()
        ahead_ns = 0 if shift_ns else max(0, int(-(self.skew_seconds or 0.0) * NS))
        body = msgspec.json.encode(
            [payload(a, now_ns, self._hold_ns, shift_ns, ahead_ns, self._generator_url) for a in batch]
        )
        answer = await post(self._session, self._url, body, _HEADERS, self._timeout_seconds)
        self._measure_skew(answer.headers.get("Date"), now_ns, self._unix_ns())
        after = retry_after_seconds(answer.headers.get("Retry-After"), self._unix_ns())
        if error := outcome(answer.status, answer.text, after):
            raise error
        if answer.text.lstrip()[:1] == "<":
            raise Paused("answered with a web page: something else than Alertmanager listens there")

    def _correction_ns(self) -> int:
        if self.skew_seconds is None or abs(self.skew_seconds) < SKEW_CORRECTED_SECONDS:
            return 0
        return int(self.skew_seconds * NS)

    def _measure_skew(self, date: str | None, sent_ns: int, answered_ns: int) -> None:
        theirs_ns = http_date_ns(date)
        if theirs_ns is None:
            return
        # The header is cut to whole seconds: half a second is its mean error.
        skew = (theirs_ns + NS // 2 - (sent_ns + answered_ns) // 2) / NS
        was_far = self.skew_seconds is not None and abs(self.skew_seconds) > SKEW_WARNED_SECONDS
        self.skew_seconds = skew
        if (abs(skew) > SKEW_WARNED_SECONDS) != was_far:
            log.warning("clock_differs", destination=self.name, skew_seconds=round(skew, 1), limit=SKEW_WARNED_SECONDS)


def payload(
    alert: Alert, now_ns: int, hold_ns: int, shift_ns: int = 0, ahead_ns: int = 0, generator_url: str = ""
) -> dict[str, object]:
    """One element of the array that POST /api/v2/alerts takes.

    `startsAt` is when the alert fired and never ahead of now; `endsAt` is now + hold while it fires and never before
    `startsAt`. `shift_ns` is added to every instant; `ahead_ns` is how far our clock is ahead of theirs after that.
    """
    starts = min(alert.fired_at_ns or alert.active_at_ns, now_ns)
    if alert.state is AlertState.RESOLVED:
        # An end that lies in their future does not end the alert (their merge keeps the later of two future ends).
        latest = now_ns - ahead_ns - RESOLVED_MARGIN_NS
        starts = min(starts, latest)
        ends = max(starts, min(alert.resolved_at_ns or now_ns, latest))
    else:
        ends = now_ns + hold_ns
    content: dict[str, object] = {
        "labels": _texts(alert.labels),
        "annotations": _texts(alert.annotations),
        "startsAt": rfc3339(starts + shift_ns),
        "endsAt": rfc3339(ends + shift_ns),
    }
    if generator_url:
        content["generatorURL"] = generator_url
    return content


def rfc3339(at_ns: int) -> str:
    """`2026-11-23T08:25:21.816Z`: milliseconds, cut, UTC."""
    at = _EPOCH + timedelta(milliseconds=at_ns // 1_000_000)
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"


def _texts(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Names Alertmanager before 0.27 takes too; no empty values, which would change the identity over there."""
    return {_name(n): v.encode("utf-8", "replace").decode() for n, v in pairs if v}


def _name(name: str) -> str:
    cleaned = _BAD_IN_NAME.sub("_", name)
    return "_" + cleaned if not cleaned or cleaned[0].isdigit() else cleaned


def _is_absolute(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)
