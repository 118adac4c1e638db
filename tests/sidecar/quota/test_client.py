from collections.abc import Mapping

import msgspec
import pytest

from agent.core.ports import TryLater
from agent.core.quotas.leases import LeaseAnswer, LeaseRequest
from agent.sidecar.quota.client import MAX_ANSWER_BYTES, AgentLeases
from agent.sidecar.records.ship import open_session
from tests.support.http import Reply, answer, drip, raw, told_server

PATH = "/ingest/v1/leases"
GOOD = LeaseAnswer(number=7, lease_ns=5, sidecars=2, place=1, revision="x")
REQUEST = LeaseRequest(sidecar="s", epoch=1, number=7)


def encoded(**changes: object) -> bytes:
    return msgspec.msgpack.encode(msgspec.structs.replace(GOOD, **changes))


async def ask(reply: Reply, credentials: Mapping[str, str] | None = None) -> tuple[LeaseAnswer, list[str]]:
    async with told_server({PATH: reply}) as server, open_session() as session:
        client = AgentLeases(server.url, session, timeout_seconds=0.5, credentials=lambda: credentials or {})
        return await client.renew(REQUEST), server.heads


async def test_an_answer_and_who_asks():
    found, heads = await ask(answer(encoded()), {"authorization": "Bearer secret"})
    assert found == GOOD
    assert "authorization: bearer secret" in heads[0].lower()
    assert "content-type: application/msgpack" in heads[0].lower()


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (answer(encoded(), status=409), "answered 409"),
        (answer(b"<html>", status=302, location="/elsewhere"), "answered 302"),
        (answer(b"<html>"), "the answer is no lease"),
        (answer(b""), "the answer is no lease"),
        (answer(encoded(number=6)), "the answer is to another renewal"),
        (answer(encoded(), length=10_000), "Client"),
        (raw(b"nonsense\r\n\r\n"), "Bad"),
        (raw(b""), "ServerDisconnected"),
        (drip(b"x" * 100, 0.1), "Timeout"),
        (answer(bytes(MAX_ANSWER_BYTES + 10)), "the answer is no lease"),
    ],
)
async def test_everything_else_is_no_lease(reply: Reply, said: str):
    with pytest.raises(TryLater, match=said):
        await ask(reply)
