"""TLS and unix sockets on both sides of the sidecar: who is trusted, what the engine is told, what the records say."""

import asyncio
import signal
import ssl
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest

from tests.support.components import need
from tests.support.credentials import Authority, make_ca
from tests.support.gateway import BODY, STREAM
from tests.support.sidecar import record, records, sidecar, sidecar_process
from tests.support.upstream import Message, Wire, chunked, post, until, whole

CHAT = b'{"model":"tiny","messages":[]}'
CA = make_ca()
STREAMED = b"".join(STREAM)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: the name of a unix socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="er-") as path:
        yield Path(path)


@dataclass
class Heard:
    """What an engine heard and saw of who connected."""

    url: str = ""
    messages: list[Message] = field(default_factory=list)
    names: list[str | None] = field(default_factory=list)  # that the connection asked for (SNI)
    clients: list[str | None] = field(default_factory=list)  # common names of the certificates that were shown
    connections: int = 0


@asynccontextmanager
async def engine(tls: ssl.SSLContext | None = None, path: Path | None = None) -> AsyncIterator[Heard]:
    """Answers each request with a stream where it asks for one."""
    heard = Heard()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.connections += 1
        peer = writer.get_extra_info("peercert")
        heard.clients.append(dict(part[0] for part in peer["subject"])["commonName"] if peer else None)
        wire = Wire(reader, writer)
        try:
            while True:
                heard.messages.append(await wire.message())
                streams = b'"stream":true' in heard.messages[-1].body
                await wire.send(chunked(*STREAM) if streams else whole(BODY))
        except (asyncio.IncompleteReadError, ConnectionError, TimeoutError):
            pass  # the sidecar has closed it, or the test is over
        finally:
            writer.close()

    if tls is not None:
        tls.sni_callback = lambda _socket, name, _context: heard.names.append(name)
    if path is None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
        port = server.sockets[0].getsockname()[1]
        heard.url = f"{'https' if tls else 'http'}://localhost:{port}"
    else:
        server = await asyncio.start_unix_server(serve, path)
        heard.url = f"unix:{path}"
    try:
        yield heard
    finally:
        server.close()


def server_context(folder: Path, ca: Authority = CA, *, ask: bool = False, **names: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*ca.issue(**names).write(folder, "engine"))
    if ask:
        context.load_verify_locations(cadata=CA.pem.decode())
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def trusting() -> ssl.SSLContext:
    return ssl.create_default_context(cadata=CA.pem.decode())


def listener_tls(folder: Path) -> dict[str, Path]:
    certificate, key = CA.issue().write(folder, "sidecar")
    return {"certificate_file": certificate, "key_file": key}


@asynccontextmanager
async def connected(port: int = 0, path: Path | None = None, tls: ssl.SSLContext | None = None) -> AsyncIterator[Wire]:
    if path is not None:
        reader, writer = await asyncio.open_unix_connection(path)
    else:
        name = "localhost" if tls else None
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname=name)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()


async def say(client: Wire, body: bytes = CHAT, more: str = "") -> Message:
    await client.send(post(body, more=more))
    return await client.answer()


async def test_tls_on_both_sides(folder: Path) -> None:
    """The engine sees its own name, our certificate, and that the client came by https."""
    certificate, key = CA.issue("the-sidecar", client=True).write(folder, "ours")
    trust = {"ca_file": CA.write(folder), "certificate_file": certificate, "key_file": key}
    async with (
        engine(server_context(folder, ask=True)) as far,
        sidecar(far.url, tls=listener_tls(folder), dial={"tls": trust}) as proxy,
        connected(proxy.port, tls=trusting()) as client,
    ):
        large = b'{"model":"tiny","stream":true,"x":"%b"}' % (b"y" * 700_000)
        for number, body in enumerate((CHAT, CHAT, b'{"model":"tiny","stream":true}', large), 1):
            answer = await say(client, body)
            assert answer.body == (BODY if body == CHAT else STREAMED)
            assert far.messages[-1].body == body
            await until(lambda: len(records(proxy)) == number)  # noqa: B023
        authority = far.url.removeprefix("https://")
        head = far.messages[0]
        assert (head.field("host"), head.field("x-forwarded-host")) == (authority, "engine")
        assert (head.field("x-forwarded-proto"), head.field("x-forwarded-for")) == ("https", "127.0.0.1")
        assert set(far.names) == {"localhost"}
        assert set(far.clients) == {"the-sidecar"}
        assert far.connections == 1
        assert {(seen.outcome, seen.upstream) for seen in records(proxy)} == {("ok", authority)}


async def test_another_name_may_be_asked_for(folder: Path) -> None:
    dial = {"tls": {"ca_file": CA.write(folder)}, "server_name": "llm.internal", "host": "llm.internal"}
    context = server_context(folder, common_name="llm.internal", dns=("llm.internal",), addresses=())
    async with (
        engine(context) as far,
        sidecar(far.url, dial=dial) as proxy,
        connected(proxy.port) as client,
    ):
        assert (await say(client)).status == 200
        assert far.names == ["llm.internal"]
        assert far.messages[0].field("host") == "llm.internal"
        assert far.messages[0].field("x-forwarded-proto") == "http"


@pytest.mark.parametrize("wrong", ["authority", "name", "ours-missing"])
async def test_an_engine_that_cannot_be_trusted_gets_nothing(folder: Path, wrong: str) -> None:
    context = server_context(
        folder,
        make_ca("somebody else") if wrong == "authority" else CA,
        ask=wrong == "ours-missing",
        **({"common_name": "another", "dns": ("another",), "addresses": ()} if wrong == "name" else {}),
    )
    async with (
        engine(context) as far,
        sidecar(far.url, dial={"tls": {"ca_file": CA.write(folder)}}) as proxy,
        connected(proxy.port) as client,
    ):
        answer = await say(client, more="authorization: Bearer secret-of-the-client\r\n")
        assert answer.status == 502
        seen = await record(proxy)
        assert (seen.outcome, seen.status, seen.upstream) == ("error", 502, far.url.removeprefix("https://"))
        assert seen.error
        assert not far.messages
        assert proxy.forwarder.upstreams.engines[0].outstanding == 0


async def test_a_client_without_tls_or_with_another_authority_gets_nothing(folder: Path) -> None:
    async with engine() as near, sidecar(near.url, tls=listener_tls(folder)) as proxy:
        async with connected(proxy.port) as plain:
            await plain.send(post(CHAT))
            assert not (await plain.until_closed()).startswith(b"HTTP/")
        with pytest.raises(ssl.SSLError):
            async with connected(proxy.port, tls=ssl.create_default_context()):
                pass
        async with connected(proxy.port, tls=trusting()) as client:
            assert (await say(client)).status == 200
        assert len(near.messages) == 1
        await until(lambda: not proxy.listener.connections)


async def test_clients_with_certificates_only(folder: Path) -> None:
    tls = {**listener_tls(folder), "client_ca_file": CA.write(folder), "require_client_certificate": True}
    certificate, key = CA.issue("a-client", client=True).write(folder, "client")
    async with engine() as near, sidecar(near.url, tls=tls) as proxy:
        known = trusting()
        known.load_cert_chain(certificate, key)
        async with connected(proxy.port, tls=known) as client:
            assert (await say(client)).status == 200
        async with connected(proxy.port, tls=trusting()) as stranger:
            with pytest.raises((OSError, EOFError)):  # with TLS 1.3 it hears of it when it reads
                await say(stranger)
        assert len(near.messages) == 1


async def test_slow_clients_are_ended_behind_tls_too(folder: Path) -> None:
    limits = {"head_timeout_seconds": 0.3, "idle_seconds": 0.3, "crowded_idle_seconds": 0.3}
    async with (
        engine() as near,
        sidecar(near.url, tls=listener_tls(folder), limits=limits) as proxy,
        connected(proxy.port, tls=trusting()) as slow,
        connected(proxy.port, tls=trusting()) as silent,
    ):
        await slow.send(b"POST /v1/completions HTTP/1.1\r\nx-a: ")
        assert (await slow.head()).status == 408
        assert await silent.until_closed() == b""
        await until(lambda: not proxy.listener.connections)
        assert not near.messages


async def test_a_client_that_leaves_behind_tls_is_noticed(folder: Path) -> None:
    dial = {"tls": {"ca_file": CA.write(folder)}}
    context = server_context(folder)
    ended = anyio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await Wire(reader, writer).message()
            await reader.read()
        except ConnectionError:
            pass  # a reset is an end as well
        ended.set()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0, ssl=context)
    url = f"https://localhost:{server.sockets[0].getsockname()[1]}"
    async with sidecar(url, tls=listener_tls(folder), dial=dial) as proxy:
        async with connected(proxy.port, tls=trusting()) as client:
            await client.send(post(CHAT))
            await until(lambda: any(one.upstream for one in proxy.forwarder.active))
        with anyio.fail_after(5):
            await ended.wait()
        assert (await record(proxy)).outcome == "client_abort"
    server.close()


# unix sockets


@pytest.mark.parametrize(("mode", "wanted"), [(None, 0o660), ("0600", 0o600), ("0666", 0o666)])
async def test_unix_sockets_on_both_sides(folder: Path, mode: str | None, wanted: int) -> None:
    here = folder / "sidecar.sock"
    settings: dict[str, Any] = {} if mode is None else {"sockets": {"unix_mode": mode}}
    async with engine(path=folder / "engine.sock") as far:
        async with sidecar(far.url, listen=f"unix:{here}", **settings) as proxy:
            assert stat.S_IMODE(here.stat().st_mode) == wanted
            async with connected(path=here) as client:
                assert (await say(client, more="x-engineroom-tenant: acme\r\n")).body == BODY
                assert (await say(client, b'{"stream":true}', more="x-engineroom-tenant: acme\r\n")).body == STREAMED
            await until(lambda: len(records(proxy)) == 2)
            for seen in records(proxy):
                assert (seen.outcome, seen.upstream, seen.tenant) == ("ok", far.url, "acme")
            head = far.messages[0]
            assert (head.field("host"), head.field("x-forwarded-proto")) == ("engine", "http")
            assert head.field("x-forwarded-for") is None
            async with connected(path=here) as client:
                await client.send(b"POST /v1/completions HTTP/1.0\r\ncontent-length: 2\r\n\r\n{}")
                assert (await client.head()).status == 200
            assert far.messages[-1].field("host") == "localhost"
        assert not here.exists()


@pytest.mark.parametrize(("hops", "tenant"), [(["unix"], "acme"), (["127.0.0.1"], None)])
async def test_who_comes_over_the_socket_is_believed_where_the_settings_say_so(
    folder: Path, hops: list[str], tenant: str | None
) -> None:
    here = folder / "s"
    async with engine() as near, sidecar(near.url, listen=f"unix:{here}", tenancy={"trusted_hops": hops}) as proxy:
        async with connected(path=here) as client:
            await say(client, more="x-engineroom-tenant: acme\r\n")
        assert (await record(proxy)).tenant == tenant


async def test_engines_of_every_kind_behind_one_gateway(folder: Path) -> None:
    async with (
        engine() as plain,
        engine(path=folder / "e") as near,
        engine(server_context(folder)) as far,
    ):
        entries = [{"url": one.url} for one in (plain, near, far)]
        settings = {"dial": {"tls": {"ca_file": CA.write(folder)}}, "balance": {"check": False}}
        async with sidecar("http://127.0.0.1:9", upstreams=entries, **settings) as proxy:
            async with connected(proxy.port) as client:
                for _ in range(9):
                    assert (await say(client)).body == BODY
            assert [len(one.messages) for one in (plain, near, far)] == [3, 3, 3]
            await until(lambda: len(records(proxy)) == 9)
            names = {plain.url.removeprefix("http://"), near.url, far.url.removeprefix("https://")}
            assert {seen.upstream for seen in records(proxy)} == names


async def test_health_is_asked_over_tls_and_unix_sockets_too(folder: Path) -> None:
    """As requests are: an engine must not look dead for how it is reached; one that cannot be trusted does."""
    strange = server_context(folder, make_ca("somebody else"))
    async with (
        engine(path=folder / "e") as near,
        engine(server_context(folder)) as far,
        engine(strange) as untrusted,
    ):
        entries = [{"url": one.url} for one in (near, far, untrusted)]
        balance = {"check": True, "check_interval_seconds": 0.05, "check_failures": 1}
        dial = {"tls": {"ca_file": CA.write(folder)}}
        async with sidecar("http://127.0.0.1:9", upstreams=entries, balance=balance, dial=dial) as proxy:
            engines = proxy.forwarder.upstreams.engines
            await until(lambda: all(one.ready is not None for one in engines))
            assert [one.ready for one in engines] == [True, True, False]
            assert "certificate" in engines[2].reason
            async with connected(proxy.port) as client:
                for _ in range(6):
                    assert (await say(client)).status == 200
            assert not untrusted.messages


async def test_the_command_with_a_socket_and_real_clients(folder: Path) -> None:
    here = folder / "sidecar.sock"
    async with (
        engine(path=folder / "engine.sock") as far,
        sidecar_process(listen=f"unix:{here}", admin_listen="127.0.0.1:0", upstream=far.url) as process,
    ):
        await process.until_it_says("sidecar_listening")
        assert f"unix:{here}" in process.said
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(here))) as session,
            session.post("http://localhost/v1/chat/completions", data=b'{"stream":true}') as answer,
        ):
            assert (answer.status, await answer.read()) == (200, STREAMED)
        process.process.send_signal(signal.SIGTERM)
        assert await process.ended() == 0
        assert not here.exists()


@pytest.mark.component("curl")
async def test_curl_over_tls(folder: Path) -> None:
    async with engine() as near, sidecar(near.url, tls=listener_tls(folder)) as proxy:
        url = f"https://localhost:{proxy.port}/v1/chat/completions"
        with anyio.fail_after(20):
            for version in ("--http1.1", "--http2"):
                done = await anyio.run_process(
                    [need("curl"), "-sS", version, "--ipv4", "--cacert", str(CA.write(folder)), "-d", "{}", url],
                    check=False,
                )
                assert (done.returncode, done.stderr) == (0, b""), version
                assert done.stdout == BODY
