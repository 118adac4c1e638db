"""Requests to one engine: where its page is, whom the token is sent to, and how long all of them may take."""

from pathlib import Path

import anyio
import pytest

from agent.collect.engines.asking import Asker
from agent.collect.engines.diagnosis import Unread
from agent.collect.engines.fetch import engine_session
from agent.collect.engines.targets import EngineTarget
from agent.collect.engines.unanswered import Unanswered
from agent.engines.contract import EngineFile
from tests.support.engine_scrape import MADE_UP
from tests.support.http import answer, held, told_server

TRITON_LIKE = EngineFile(
    kind="x", title="X", read=lambda _p, _o: [], recognise=lambda _process: None, metrics_port=8002
)


@pytest.mark.parametrize(
    ("target", "engine", "pages"),
    [
        (
            EngineTarget(url="http://e:1"),
            MADE_UP,
            [("/new/metrics", "http://e:1/new/metrics"), ("/metrics", "http://e:1/metrics")],
        ),
        (EngineTarget(url="http://e:1/base"), TRITON_LIKE, [("/metrics", "http://e:8002/metrics")]),
        (EngineTarget(url="https://[::1]:1"), TRITON_LIKE, [("/metrics", "https://[::1]:8002/metrics")]),
        (EngineTarget(url="http://e:1", metrics_url="http://m:2/x/y"), MADE_UP, [("/x/y", "http://m:2/x/y")]),
    ],
)
async def test_pages(target: EngineTarget, engine: EngineFile, pages: list[tuple[str, str]]) -> None:
    async with engine_session() as session:
        assert Asker(session, target).pages(engine) == pages


@pytest.mark.parametrize(
    ("target", "url", "sent"),
    [
        ({"url": "http://127.0.0.1:1"}, "http://127.0.0.1:{port}/a", True),
        ({"url": "https://127.0.0.1:1"}, "http://127.0.0.1:{port}/a", False),  # it would be readable on the wire
        ({"url": "http://engine:1"}, "http://127.0.0.1:{port}/a", False),
        ({"url": "http://127.0.0.1:1", "found_by": "process"}, "http://127.0.0.1:{port}/a", False),
        ({"url": "http://127.0.0.1:1", "found_by": "kubernetes"}, "http://127.0.0.1:{port}/a", False),
    ],
)
async def test_the_token_goes_to_the_configured_host_alone(
    target: dict[str, str], url: str, sent: bool, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("secret\n")
    async with told_server({"/a": answer(b"")}) as server, engine_session() as session:
        asker = Asker(session, EngineTarget(**target, token_file=file))  # type: ignore[arg-type]
        await asker.begin()
        await asker.get(url.format(port=server.port))
        assert ("Authorization: Bearer secret" in server.heads[0]) == sent


async def test_a_token_that_cannot_be_sent(tmp_path: Path) -> None:
    async with engine_session() as session:
        asker = Asker(session, EngineTarget(url="http://e:1", token_file=tmp_path / "none"))
        with pytest.raises(Unread, match=r"token_file .*none of this engine cannot be read"):
            await asker.begin()


async def test_time_that_is_over_is_not_used_again() -> None:
    async with told_server({"/a": held, "/b": answer(b"")}) as server, engine_session() as session:
        asker = Asker(session, EngineTarget(url=server.url, timeout_seconds=0.2))
        await asker.begin()
        with pytest.raises(Unanswered, match="did not answer in full"):
            await asker.get(asker.address("/a"))
        assert not asker.answered
        with pytest.raises(Unanswered, match="was not asked"):
            await asker.get(asker.address("/b"))
        assert server.asked == ["/a"]
        await asker.begin()
        assert (await asker.get(asker.address("/b"))).status == 200
        assert asker.answered


async def test_no_connection_is_used_twice_and_no_cookie_comes_back() -> None:
    """vLLM closes a connection that was idle for 5 s, just when the next scrape would use it."""
    connections = 0

    async def serve(stream: anyio.abc.ByteStream) -> None:
        nonlocal connections
        connections += 1
        async with stream:
            try:
                while True:  # as ready for a second request as a server can be
                    heads.append(await stream.receive())
                    await stream.send(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 2\r\n\r\nok")
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                pass

    heads: list[bytes] = []
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, engine_session() as session:
        host, port = listener.extra(anyio.abc.SocketAttribute.local_address)[:2]
        async with anyio.create_task_group() as group:
            group.start_soon(listener.serve, serve)
            asker = Asker(session, EngineTarget(url=f"http://{host}:{port}"))
            for _ in range(3):
                await asker.begin()
                assert (await asker.get(asker.address("/metrics"))).body == b"ok"
            group.cancel_scope.cancel()
    assert connections == 3
    assert all(b"Connection: close" in head and b"ookie" not in head for head in heads)


async def test_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    async with told_server({"/a": answer(b"")}) as server, engine_session() as session:
        asker = Asker(session, EngineTarget(url=server.url))
        await asker.begin()
        assert (await asker.get(asker.address("/a"))).status == 200
