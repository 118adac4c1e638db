"""Alerts to one webhook, in the body Alertmanager sends (version 4), so that receivers written for it understand us.

One request per alert. `Idempotency-Key` is the same for every repeat of the same news; with a secret,
`X-Engineroom-Signature` is `sha256=` and the hex HMAC-SHA256 of the body.
"""

import hashlib
import hmac
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import aiohttp
import msgspec

from agent.core.alerts.alert import Alert, AlertState
from agent.core.ports import Rejected, TryLater

RECEIVER = "engineroom"
ZERO_TIME = "0001-01-01T00:00:00Z"  # Go's zero: no end yet
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class WebhookExporter:
    """One webhook. `name` is shown instead of the address, which often carries a token."""

    def __init__(
        self,
        name: str,
        url: str,
        session: aiohttp.ClientSession,
        *,
        secret: bytes = b"",
        external_url: str = "",
        timeout_seconds: float = 10.0,
    ) -> None:
        self.name = f"webhook {name}"
        self._url = url
        self._session = session
        self._secret = secret
        self._external_url = external_url
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._told: set[str] = set()  # of a batch that failed half way: the receiver has these already

    async def send(self, batch: Sequence[Alert]) -> None:
        """Post each alert. Raises `TryLater`, or `Rejected` for a 4xx; what went well before is not repeated."""
        for alert in batch:
            key = idempotency_key(alert)
            if key not in self._told:
                await self._post(alert, key)
                self._told.add(key)
        self._told.clear()

    async def _post(self, alert: Alert, key: str) -> None:
        body = msgspec.json.encode(webhook_body(alert, self._external_url))
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        if self._secret:
            headers["X-Engineroom-Signature"] = "sha256=" + hmac.new(self._secret, body, hashlib.sha256).hexdigest()
        try:
            async with self._session.post(
                self._url, data=body, headers=headers, timeout=self._timeout, allow_redirects=False
            ) as answer:
                await answer.read()
                status, after = answer.status, answer.headers.get("Retry-After", "")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # The class only: messages of the HTTP library repeat the address.
            raise TryLater(type(error).__name__) from error
        if 200 <= status < 300:
            return
        if 400 <= status < 500 and status not in (408, 425, 429):
            raise Rejected(f"HTTP {status}")
        raise TryLater(f"HTTP {status}", float(after) if after.isascii() and after.isdecimal() else None)


def idempotency_key(alert: Alert) -> str:
    """`<fingerprint>-<firing|resolved>-<start in Unix nanoseconds>`."""
    return f"{alert.fingerprint}-{_status(alert)}-{alert.fired_at_ns or alert.active_at_ns}"


def webhook_body(alert: Alert, external_url: str = "") -> dict[str, object]:
    """A notification with one alert, as Alertmanager's webhook receiver sends it."""
    labels, annotations = dict(alert.labels), dict(alert.annotations)
    status = _status(alert)
    name = labels.get("alertname", alert.rule)
    ended_ns = alert.resolved_at_ns if status == "resolved" else None
    return {
        "version": "4",
        "groupKey": f'{{}}:{{alertname="{name}"}}',
        "truncatedAlerts": 0,
        "receiver": RECEIVER,
        "status": status,
        "groupLabels": {"alertname": name},
        "commonLabels": labels,
        "commonAnnotations": annotations,
        "externalURL": external_url,
        "alerts": [
            {
                "status": status,
                "labels": labels,
                "annotations": annotations,
                "startsAt": _rfc3339_nano(alert.fired_at_ns or alert.active_at_ns),
                "endsAt": ZERO_TIME if ended_ns is None else _rfc3339_nano(ended_ns),
                "generatorURL": external_url,
                "fingerprint": alert.fingerprint,
            }
        ],
    }


def _status(alert: Alert) -> str:
    return "resolved" if alert.state is AlertState.RESOLVED else "firing"


def _rfc3339_nano(at_ns: int) -> str:
    """As Go writes it: nanoseconds without trailing zeros."""
    seconds, rest = divmod(at_ns, 1_000_000_000)
    fraction = f".{rest:09d}".rstrip("0").rstrip(".")
    return f"{_EPOCH + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S}{fraction}Z"
