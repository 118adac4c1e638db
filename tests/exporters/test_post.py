"""The one POST against the hostile destination; what every exporter inherits from it is in test_contract."""

import aiohttp
import pytest

from agent.core.ports import TryLater
from exporters.post import READ_BYTES, open_session, post
from tests.support import hostile as acts
from tests.support.agent import free_port
from tests.support.hostile import answer, hostile

URL_SECRET = "token-in-the-path"


async def sent(url: str, session: aiohttp.ClientSession, timeout: float = 5.0):
    return await post(session, f"{url}/{URL_SECRET}", b"body", {"X-Test": "1"}, timeout)


async def test_what_goes_out_and_what_comes_back():
    async with hostile(answer(418, "grüße".encode(), X_Told="2")) as server, open_session() as session:
        got = await sent(server.url, session)
    assert (got.status, got.text, got.headers["x-told"]) == (418, "grüße", "2")
    (request,) = server.requests
    assert (request.method, request.path, request.body) == ("POST", f"/{URL_SECRET}", b"body")
    assert request.headers["x-test"] == "1"


@pytest.mark.parametrize("size", [0, 1, READ_BYTES - 1, READ_BYTES, READ_BYTES + 1, 10 * READ_BYTES])
async def test_an_answer_is_read_up_to_its_bound(size):
    async with hostile(answer(200, b"x" * size)) as server, open_session(keep=True) as session:
        assert len((await sent(server.url, session)).text) == min(size, READ_BYTES)
        assert len((await sent(server.url, session)).text) == min(size, READ_BYTES)
        assert server.connections == 1 or size > READ_BYTES


@pytest.mark.parametrize(("keep", "connections"), [(False, 3), (True, 1)])
async def test_a_connection_is_kept_only_when_asked_for_and_cookies_never(keep, connections):
    told = answer(200, Set_Cookie="who=knows; Path=/")
    async with hostile(told) as server, open_session(keep=keep) as session:
        for _ in range(3):
            await sent(server.url, session)
    assert server.connections == connections
    assert not any("cookie" in request.headers for request in server.requests)


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (acts.hang, "Timeout"),
        (acts.drip, "Timeout"),
        (acts.reset_after_reading, "reset|Disconnected"),
        (acts.closed_without_a_word, "Disconnected"),
        (acts.cut_answer, "Payload"),
    ],
)
async def test_reasons_say_what_happened_and_not_where(act, says):
    async with hostile(script=[act]) as server, open_session() as session:
        with pytest.raises(TryLater, match=says) as caught:
            await sent(server.url, session, 0.2)
    assert URL_SECRET not in str(caught.value)
    assert "127.0.0.1" not in str(caught.value)


async def test_nobody_listens():
    async with open_session() as session:
        with pytest.raises(TryLater, match="Connection refused"):
            await sent(f"http://127.0.0.1:{free_port()}", session)
