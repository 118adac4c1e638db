import hashlib
import hmac

import aiohttp
import pytest

from agent.core.cost.report_forms import ReportNews
from agent.core.ports import Paused, Rejected, TooLarge, TryLater
from exporters.report_webhook import ReportWebhook
from tests.support.report_files import Receiver, receiving

NEWS = ReportNews(key="node-a-bill-2026-11-22", body=b'{"version":1}')


async def test_a_report_arrives_with_its_key_and_signature():
    receiver = Receiver()
    async with receiving(receiver) as url, aiohttp.ClientSession() as session:
        webhook = ReportWebhook("bill", url, session, secret=b"secret", authorization="Bearer token")
        await webhook.send([NEWS, NEWS])
    (headers, body), _ = receiver.got
    assert body == NEWS.body
    assert headers["Idempotency-Key"] == NEWS.key
    assert headers["Authorization"] == "Bearer token"
    assert headers["Content-Type"] == "application/json"
    expected = hmac.new(b"secret", NEWS.body, hashlib.sha256).hexdigest()
    assert headers["X-Engineroom-Signature"] == f"sha256={expected}"


async def test_without_secrets_no_such_headers():
    receiver = Receiver()
    async with receiving(receiver) as url, aiohttp.ClientSession() as session:
        await ReportWebhook("bill", url, session).send([NEWS])
    assert not {"Authorization", "X-Engineroom-Signature"} & receiver.got[0][0].keys()


@pytest.mark.parametrize(
    ("status", "error"),
    [(500, TryLater), (429, TryLater), (401, Paused), (302, Paused), (413, TooLarge), (400, Rejected), (422, Rejected)],
)
async def test_answers(status: int, error: type[Exception]):
    async with receiving(Receiver(status)) as url, aiohttp.ClientSession() as session:
        with pytest.raises(error) as caught:
            await ReportWebhook("bill", url, session).send([NEWS])
    assert "secret-in-the-address" not in str(caught.value)


async def test_a_receiver_that_says_when_to_come_back():
    async with receiving(Receiver(503, Retry_After="77")) as url, aiohttp.ClientSession() as session:
        with pytest.raises(TryLater) as caught:
            await ReportWebhook("bill", url, session).send([NEWS])
    assert caught.value.after_seconds == 77


async def test_nobody_there():
    async with aiohttp.ClientSession() as session:
        with pytest.raises(TryLater):
            await ReportWebhook("bill", "http://127.0.0.1:9/", session, timeout_seconds=2).send([NEWS])
