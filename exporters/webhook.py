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
from agent.core.http_outcome import http_date_ns, outcome, retry_after_seconds
from agent.core.ports import Rejected, TooLarge, TryLater, Verdict
from exporters.post import post

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
        self._timeout_seconds = timeout_seconds

    async def send(self, batch: Sequence[Alert]) -> Sequence[Verdict]:
        """Post each alert; the first that cannot be taken now ends the turn, one that is refused does not.

        Raises an error of the port where it holds for the whole batch.
        """
        verdicts: list[Verdict] = []
        for alert in batch:
            try:
                await self._post(alert)
            except TryLater as later:
                if not verdicts:
                    raise
                return verdicts + [later] * (len(batch) - len(verdicts))
            except (Rejected, TooLarge) as refusal:
                if len(batch) == 1:
                    raise
                verdicts.append(Rejected(refusal.reason))
            else:
                verdicts.append("delivered")
        return verdicts

    async def _post(self, alert: Alert) -> None:
        body = msgspec.json.encode(webhook_body(alert, self._external_url))
        headers = {"Content-Type": "application/json", "Idempotency-Key": idempotency_key(alert)}
        if self._secret:
            headers["X-Engineroom-Signature"] = "sha256=" + hmac.new(self._secret, body, hashlib.sha256).hexdigest()
        answer = await post(self._session, self._url, body, headers, self._timeout_seconds)
        their_now_ns = http_date_ns(answer.headers.get("Date"))
        after = retry_after_seconds(answer.headers.get("Retry-After"), their_now_ns)
        # Without what they say: error pages repeat the address, and it is the key here.
        if error := outcome(answer.status, "", after):
            raise error


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
