"""Listening sockets, real ones: TCP of both kinds, unix sockets and what lies in their place, TLS."""

import asyncio
import socket
import ssl
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from agent.core.ports import ConfigError
from agent.doors.settings import TlsSettings
from agent.doors.tls import ServerTls
from agent.sidecar.sockets.alpn import offering
from agent.sidecar.sockets.listening import Listening, open_listening
from agent.sidecar.sockets.settings import ListenSettings
from tests.support.credentials import make_ca

SETTINGS = ListenSettings()


class Greeter(asyncio.Protocol):
    """Says which peer it sees, and closes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(repr(transport.get_extra_info("peername")).encode())  # type: ignore[attr-defined]
        transport.close()


@asynccontextmanager
async def serving(
    listen: str, settings: ListenSettings = SETTINGS, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Listening]:
    listening = open_listening(listen, settings)
    try:
        await listening.prepare(Greeter, tls)
        await listening.start()
        yield listening
    finally:
        listening.close()


async def greeting(host: str, port: int, context: ssl.SSLContext | None = None) -> str:
    with anyio.fail_after(10):
        reader, writer = await asyncio.open_connection(
            host, port, ssl=context, server_hostname="localhost" if context else None
        )
        said = await reader.read()
        writer.close()
    return said.decode()


async def unix_greeting(path: Path) -> str:
    with anyio.fail_after(10):
        reader, writer = await asyncio.open_unix_connection(path)
        said = await reader.read()
        writer.close()
    return said.decode()


def has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 on loopback")


async def test_tcp_serves_from_start_to_close() -> None:
    listening = open_listening("127.0.0.1:0", SETTINGS)
    assert listening.port > 0
    assert listening.shown == f"127.0.0.1:{listening.port}"
    await listening.prepare(Greeter)
    assert not listening.is_serving
    with pytest.raises(ConnectionRefusedError):
        await greeting("127.0.0.1", listening.port)
    await listening.start()
    assert listening.is_serving
    assert "127.0.0.1" in await greeting("127.0.0.1", listening.port)
    listening.close()
    listening.close()
    assert not listening.is_serving


async def test_an_address_in_use_is_named() -> None:
    async with serving("127.0.0.1:0") as first:
        with pytest.raises(ConfigError, match=f"127.0.0.1:{first.port}.*in use") as raised:
            open_listening(f"127.0.0.1:{first.port}", SETTINGS)
        assert raised.value.key == "sidecar.listen"


async def test_processes_share_a_port_when_both_say_so() -> None:
    shared = ListenSettings(reuse_port=True)
    async with serving("127.0.0.1:0", shared) as first:
        async with serving(f"127.0.0.1:{first.port}", shared) as second:
            assert second.port == first.port
        with pytest.raises(ConfigError):
            open_listening(f"127.0.0.1:{first.port}", SETTINGS)
        assert "127.0.0.1" in await greeting("127.0.0.1", first.port)


@needs_ipv6
async def test_ipv6_and_both_at_once() -> None:
    async with serving("[::1]:0") as one:
        assert one.shown == f"[::1]:{one.port}"
        assert "::1" in await greeting("::1", one.port)
    async with serving("[::]:0") as both:
        assert "'::1'" in await greeting("::1", both.port)
        assert "'::ffff:127.0.0.1'" in await greeting("127.0.0.1", both.port)
    async with serving("[::]:0", ListenSettings(dual_stack=False)) as six:
        assert "'::1'" in await greeting("::1", six.port)
        with pytest.raises(ConnectionRefusedError):
            await greeting("127.0.0.1", six.port)


async def test_a_name_with_several_addresses_has_one_port() -> None:
    async with serving("localhost:0") as listening:
        for each in listening.sockets:
            assert each.getsockname()[1] == listening.port
            assert each.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert await greeting(each.getsockname()[0], listening.port)


def test_what_cannot_be_listened_on_is_said() -> None:
    for listen in ("no-such-host.invalid:9480", "192.0.2.1:0", "9480", "unix:relative"):
        with pytest.raises(ConfigError) as raised:
            open_listening(listen, SETTINGS, key="sidecar.other")
        assert raised.value.key == "sidecar.other"


async def test_a_unix_socket_and_its_file(tmp_path: Path) -> None:
    path = tmp_path / "sidecar.sock"
    async with serving(f"unix:{path}", ListenSettings(unix_mode="0600")) as listening:
        assert (listening.port, listening.shown) == (0, f"unix:{path}")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert await unix_greeting(path) == "''"
    assert not path.exists()


async def test_nobody_is_pushed_aside(tmp_path: Path) -> None:
    path = tmp_path / "sidecar.sock"
    async with serving(f"unix:{path}"):
        with pytest.raises(ConfigError, match="another sidecar listens there"):
            open_listening(f"unix:{path}", SETTINGS)
        assert await unix_greeting(path) == "''"


def test_nor_is_another_program(tmp_path: Path) -> None:
    path = tmp_path / "other.sock"
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as waiting:
        other.bind(str(path))
        other.listen(0)
        with pytest.raises(ConfigError, match="in use"):
            open_listening(f"unix:{path}", SETTINGS)
        waiting.setblocking(False)
        waiting.connect_ex(str(path))  # now nobody more may wait to be accepted
        with pytest.raises(ConfigError, match="in use"):
            open_listening(f"unix:{path}", SETTINGS)
        assert path.exists()


async def test_a_file_left_behind_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "sidecar.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    assert path.exists()
    async with serving(f"unix:{path}"):
        assert await unix_greeting(path) == "''"


def test_what_is_no_socket_stays(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_text("important")
    with pytest.raises(ConfigError, match="no socket"):
        open_listening(f"unix:{path}", SETTINGS)
    assert path.read_text() == "important"
    (tmp_path / "link.lock").symlink_to(path)
    with pytest.raises(ConfigError):
        open_listening(f"unix:{tmp_path / 'link'}", SETTINGS)


async def test_a_successor_s_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "sidecar.sock"
    first = open_listening(f"unix:{path}", SETTINGS)
    for each in (path, tmp_path / "sidecar.sock.lock"):
        each.unlink()
    async with serving(f"unix:{path}"):
        first.close()
        assert await unix_greeting(path) == "''"


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_no_file_descriptor_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_text("x")
    before = open_files()
    for listen in ("192.0.2.1:0", f"unix:{path}", f"unix:{tmp_path}/none/x"):
        with pytest.raises(ConfigError):
            open_listening(listen, SETTINGS)
    open_listening("127.0.0.1:0", SETTINGS).close()
    open_listening(f"unix:{tmp_path}/a", SETTINGS).close()
    assert open_files() == before


async def test_tls_offers_both_protocols_and_follows_its_files(tmp_path: Path) -> None:
    ca = make_ca()
    certificate, key = ca.issue().write(tmp_path)
    instants = iter(range(0, 10**18, 2 * 10**9))  # a file may be looked at again at each connection
    tls = ServerTls(
        TlsSettings(certificate_file=certificate, key_file=key), key="sidecar.tls", boot_ns=lambda: next(instants)
    )
    context = offering(tls.context, ("h2", "http/1.1"))
    for listen in ("127.0.0.1:0", f"unix:{tmp_path / 'tls.sock'}"):
        async with serving(listen, tls=context) as listening:
            for wanted, offered in (("h2", ["h2", "http/1.1"]), ("http/1.1", ["http/1.1"]), (None, [])):
                assert await protocol_of(listening, ca.pem, offered) == wanted
            newer = make_ca()
            newer.issue().write(tmp_path)
            assert await protocol_of(listening, newer.pem, ["h2"]) == "h2"
            with pytest.raises(ssl.SSLCertVerificationError):
                await protocol_of(listening, ca.pem, ["h2"])
            ca.issue().write(tmp_path)


async def protocol_of(listening: Listening, ca: bytes, offered: list[str]) -> str | None:
    client = ssl.create_default_context(cadata=ca.decode())
    if offered:
        client.set_alpn_protocols(offered)
    with anyio.fail_after(10):
        if listening.place.path is None:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", listening.port, ssl=client, server_hostname="localhost"
            )
        else:
            reader, writer = await asyncio.open_unix_connection(
                listening.place.path, ssl=client, server_hostname="localhost"
            )
        assert await reader.read()
        chosen: str | None = writer.get_extra_info("ssl_object").selected_alpn_protocol()
        writer.close()
    return chosen


async def test_a_handshake_that_does_not_come_is_ended(tmp_path: Path) -> None:
    certificate, key = make_ca().issue().write(tmp_path)
    tls = ServerTls(TlsSettings(certificate_file=certificate, key_file=key), key="sidecar.tls")
    async with serving("127.0.0.1:0", ListenSettings(handshake_timeout_seconds=0.2), tls.context) as listening:
        with anyio.fail_after(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", listening.port)
            assert await reader.read() == b""
            writer.close()


async def test_who_connects_before_the_start_waits_for_it(tmp_path: Path) -> None:
    for listen in ("127.0.0.1:0", f"unix:{tmp_path / 's'}"):
        listening = open_listening(listen, SETTINGS)
        try:
            listening.queue()
            assert not listening.is_serving
            kind = socket.AF_INET if listening.place.path is None else socket.AF_UNIX
            with socket.socket(kind, socket.SOCK_STREAM) as early:
                early.settimeout(10)
                early.connect(listening.place.path or ("127.0.0.1", listening.port))
                await listening.prepare(Greeter)
                await listening.start()
                assert await anyio.to_thread.run_sync(early.recv, 100)
        finally:
            listening.close()
