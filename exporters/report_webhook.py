"""Finished cost reports to one webhook: JSON by POST, one request each, repeated until it is taken.

`Idempotency-Key` is the same for every repeat of a report; with a secret, `X-Engineroom-Signature` is `sha256=` and the
hex HMAC-SHA256 of the body; with an authorization, it is sent as the header of that name.
"""

import hashlib
import hmac
from collections.abc import Sequence

import aiohttp

from agent.core.cost.report_forms import ReportNews
from agent.core.http_outcome import http_date_ns, outcome, retry_after_seconds
from exporters.post import post


class ReportWebhook:
    """One webhook. `name` is shown instead of the address, which often carries a token."""

    def __init__(
        self,
        name: str,
        url: str,
        session: aiohttp.ClientSession,
        *,
        secret: bytes = b"",
        authorization: str = "",
        timeout_seconds: float = 10.0,
    ) -> None:
        self.name = f"report webhook {name}"
        self._url = url
        self._session = session
        self._secret = secret
        self._authorization = authorization
        self._timeout_seconds = timeout_seconds

    async def send(self, batch: Sequence[ReportNews]) -> None:
        """Post each. Raises `TryLater`, `Paused`, `Rejected` or `TooLarge` for the first that was not taken."""
        for news in batch:
            headers = {"Content-Type": "application/json", "Idempotency-Key": news.key}
            if self._secret:
                signature = hmac.new(self._secret, news.body, hashlib.sha256).hexdigest()
                headers["X-Engineroom-Signature"] = f"sha256={signature}"
            if self._authorization:
                headers["Authorization"] = self._authorization
            answer = await post(self._session, self._url, news.body, headers, self._timeout_seconds)
            their_now_ns = http_date_ns(answer.headers.get("Date"))
            after = retry_after_seconds(answer.headers.get("Retry-After"), their_now_ns)
            # Without what they say: error pages repeat the address, and it is the key here.
            if error := outcome(answer.status, "", after):
                raise error
