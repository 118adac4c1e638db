"""Connections to engines, real ones: TCP, unix sockets, TLS both ways, and what fails."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from agent.core.ports import ConfigError
from agent.doors.settings import ClientTlsSettings
from agent.sidecar.sockets.addresses import Address, parse_upstream
from agent.sidecar.sockets.dialling import Dialler, dialler
from agent.sidecar.sockets.settings import DialSettings
from tests.support.credentials import Authority, make_ca


class Listener(asyncio.Protocol):
    """Keeps what the engine says."""

    def __init__(self) -> None:
        self.said = b""
        self.ended = anyio.Event()

    def data_received(self, data: bytes) -> None:
        self.said += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set()


async def _greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    tls = writer.get_extra_info("ssl_object")
    peer = writer.get_extra_info("peercert")
    name = dict(part[0] for part in peer["subject"])["commonName"] if peer else None
    writer.write(f"hello {tls and tls.selected_alpn_protocol()} {name}".encode())
    writer.close()


@asynccontextmanager
async def engine(context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    server = await asyncio.start_server(_greet, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def heard(made: Dialler, address: Address) -> str:
    with anyio.fail_after(10):
        transport, protocol = await made.connect(asyncio.get_running_loop(), address, Listener)
        await protocol.ended.wait()
        transport.close()
    return protocol.said.decode()


def server_context(ca: Authority, folder: Path, *, ask: bool = False, **names: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*ca.issue(**names).write(folder, "engine"))
    context.set_alpn_protocols(["h2", "http/1.1"])
    if ask:
        context.load_verify_locations(cadata=ca.pem.decode())
        context.verify_mode = ssl.CERT_REQUIRED
    return context


async def test_tcp_by_address_and_by_name() -> None:
    async with engine() as port:
        made = Dialler(DialSettings())
        for host in ("127.0.0.1", "localhost"):
            assert await heard(made, Address(host, port)) == "hello None None"
        transport, _ = await made.connect(asyncio.get_running_loop(), Address("127.0.0.1", port), Listener)
        seen = transport.get_extra_info("socket")
        assert seen.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert seen.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert seen.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
        transport.abort()


async def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    server = await asyncio.start_unix_server(_greet, path)
    assert await heard(Dialler(DialSettings()), parse_upstream(f"unix:{path}")) == "hello None None"
    server.close()
    with pytest.raises(OSError, match=r"engine\.sock"):
        await heard(Dialler(DialSettings()), parse_upstream(f"unix:{path}.gone"))


async def test_a_full_queue_of_a_unix_socket_is_waited_out(tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    made = Dialler(DialSettings(connect_timeout_seconds=10))
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(path))
        busy.listen(0)
        loop = asyncio.get_running_loop()
        first, _ = await made.connect(loop, Address(path=str(path)), Listener)
        short = Dialler(DialSettings(connect_timeout_seconds=0.05))
        with pytest.raises(TimeoutError):
            await short.connect(loop, Address(path=str(path)), Listener)
        async with anyio.create_task_group() as group:
            second = Kept()
            group.start_soon(second.keep, made, Address(path=str(path)))
            busy.accept()[0].close()
        busy.accept()[0].close()
        first.abort()
        assert second.transport is not None
        second.transport.abort()


class Kept:
    transport: asyncio.Transport | None = None

    async def keep(self, made: Dialler, address: Address) -> None:
        self.transport, _ = await made.connect(asyncio.get_running_loop(), address, Listener)


async def test_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            await heard(Dialler(DialSettings()), Address("127.0.0.1", free.getsockname()[1]))
    with pytest.raises(OSError, match=r".+"):
        await heard(Dialler(DialSettings()), Address("no-such-host.invalid", 80))


async def test_nobody_answers(mute: Callable[[], int]) -> None:
    """A queue that is full lets the kernel's handshake wait."""
    with pytest.raises(TimeoutError):
        await heard(Dialler(DialSettings(connect_timeout_seconds=0.2)), Address("127.0.0.1", mute()))


@pytest.fixture
def mute() -> Any:
    held: list[socket.socket] = []

    def make() -> int:
        server = socket.socket()
        held.append(server)
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        port = server.getsockname()[1]
        for _ in range(4):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
            held.append(client)
        return port

    yield make
    for each in held:
        each.close()


async def test_the_next_address_is_tried(mute: Callable[[], int]) -> None:
    """A name that leads to an address where nobody listens, to one that does not answer, and to the engine."""
    async with engine() as port:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            places = [free.getsockname()[1], mute(), port]
            found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", each)) for each in places]

            class Resolving:
                def __init__(self) -> None:
                    self.asked = 0
                    self.loop = asyncio.get_running_loop()

                def __getattr__(self, name: str) -> Any:
                    return getattr(self.loop, name)

                async def getaddrinfo(self, *_: Any, **__: Any) -> Any:
                    self.asked += 1
                    return found

            loop: Any = Resolving()
            made = Dialler(DialSettings(connect_timeout_seconds=3))
            for asked in (1, 2):
                with anyio.fail_after(10):
                    transport, protocol = await made.connect(loop, Address("engine.test", 80), Listener)
                    await protocol.ended.wait()
                    transport.close()
                assert protocol.said == b"hello None None"
                assert loop.asked == asked  # anew for each connection


async def test_tls_checks_the_engine(tmp_path: Path) -> None:
    ca = make_ca()
    settings = DialSettings(tls=ClientTlsSettings(ca_file=ca.write(tmp_path)))
    stranger = DialSettings(tls=ClientTlsSettings(ca_file=make_ca().write(tmp_path, "other")))
    async with engine(server_context(ca, tmp_path)) as port:
        address = parse_upstream(f"https://localhost:{port}")
        assert await heard(dialler(settings, [address]), address) == "hello None None"
        assert await heard(dialler(settings, [address], protocols=("h2",)), address) == "hello h2 None"
        for _ in range(2):
            with pytest.raises(ssl.SSLCertVerificationError):
                await heard(dialler(stranger, [address]), address)
        with pytest.raises(OSError, match="TLS is not set up"):
            await heard(dialler(settings, []), address)


async def test_the_name_in_the_certificate_may_be_another(tmp_path: Path) -> None:
    ca = make_ca()
    trust = ClientTlsSettings(ca_file=ca.write(tmp_path))
    async with engine(server_context(ca, tmp_path, dns=("engine.internal",), addresses=())) as port:
        address = parse_upstream(f"https://127.0.0.1:{port}")
        named = DialSettings(tls=trust, server_name="engine.internal")
        assert await heard(dialler(named, [address]), address) == "hello None None"
        with pytest.raises(ssl.SSLCertVerificationError):
            await heard(dialler(DialSettings(tls=trust), [address]), address)


async def test_our_certificate_is_shown(tmp_path: Path) -> None:
    ca = make_ca()
    certificate, key = ca.issue("sidecar", client=True).write(tmp_path, "sidecar")
    trust = ClientTlsSettings(ca_file=ca.write(tmp_path), certificate_file=certificate, key_file=key)
    async with engine(server_context(ca, tmp_path, ask=True)) as port:
        address = parse_upstream(f"https://localhost:{port}")
        assert await heard(dialler(DialSettings(tls=trust), [address]), address) == "hello None sidecar"


def test_unusable_files_are_named(tmp_path: Path) -> None:
    settings = DialSettings(tls=ClientTlsSettings(ca_file=tmp_path / "none.pem"))
    assert dialler(settings, [Address("engine", 80)]).tls is None
    with pytest.raises(ConfigError) as raised:
        dialler(settings, [Address("engine", 443, tls=True)], key="sidecar.dial")
    assert raised.value.key == "sidecar.dial.tls.ca_file"
