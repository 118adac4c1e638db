import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import structlog
from cryptography.hazmat.primitives import serialization

from agent.clock import NS, unix_ns
from agent.core.ports import ConfigError
from agent.doors.settings import ClientTlsSettings, TlsSettings
from agent.doors.tls import ClientTls, ServerTls, certificate_names
from tests.support.credentials import Issued, Projected, make_ca, put

CA, OTHER_CA = make_ca("one"), make_ca("two")
SERVER, LATER = CA.issue("first.example"), CA.issue("second.example")
CLIENT, FOREIGN = CA.issue("scraper", client=True), OTHER_CA.issue("scraper", client=True)
REFUSED = (ssl.SSLError, ConnectionResetError, BrokenPipeError)


class Clock:
    now = 5 * NS

    def __call__(self) -> int:
        return self.now

    def later(self, seconds: float = 1.0) -> None:
        self.now += int(seconds * NS)


@pytest.fixture(params=[True, False], ids=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Both loops: each has its own implementation of TLS over a transport."""
    return "asyncio", {"use_uvloop": request.param}


def server_tls(folder: Path, clock: Clock, *, client_ca: bytes | None = None, **more: Any) -> ServerTls:
    certificate, key = SERVER.write(folder)
    files: dict[str, Any] = {"certificate_file": certificate, "key_file": key}
    if client_ca is not None:
        files["client_ca_file"] = put(folder / "clients.crt", client_ca)
    return ServerTls(TlsSettings(**files, **more), key="api.tls", boot_ns=clock)


@asynccontextmanager
async def serving(context: ssl.SSLContext) -> AsyncIterator[int]:
    """A server on loopback that answers each line with the names of the client's certificate. Yields the port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readline():
                names = certificate_names(writer.get_extra_info("peercert"))
                writer.write((",".join(names) + "\n").encode())
                await writer.drain()
        except REFUSED:
            pass  # what the client sees is judged
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


class Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.tls: ssl.SSLObject = writer.get_extra_info("ssl_object")

    @property
    def server_name(self) -> str:
        return certificate_names(self.tls.getpeercert())[0]

    async def ask(self) -> str:
        """The client's names, as the server sees them. In TLS 1.3 a refusal of our certificate shows only here."""
        self.writer.write(b"who am I\n")
        line = await self.reader.readline()
        if not line:
            raise ConnectionResetError("closed by the server")
        return line.decode().strip()


@asynccontextmanager
async def connected(port: int, context: ssl.SSLContext, name: str | None = None) -> AsyncIterator[Connection]:
    """A connection to 127.0.0.1; without `name` no server name is sent, because an address is none."""
    with anyio.fail_after(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
        try:
            yield Connection(reader, writer)
        finally:
            writer.transport.abort()


def client(folder: Path, shown: Issued | None = None, *, ca: bytes = CA.pem) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=ca.decode())
    if shown is not None:
        context.load_cert_chain(*shown.write(folder, "client"))
    return context


@pytest.mark.parametrize("name", [None, "localhost"], ids=["no server name", "server name"])
async def test_new_connections_get_the_new_certificate_and_old_ones_live(tmp_path: Path, name: str | None) -> None:
    clock = Clock()
    tls = server_tls(tmp_path, clock)
    async with serving(tls.context) as port, connected(port, client(tmp_path), name) as old:
        assert old.server_name == "first.example"
        assert old.tls.version() == "TLSv1.3"
        LATER.write(tmp_path)
        async with connected(port, client(tmp_path), name) as soon:
            assert soon.server_name == "first.example"  # not looked at yet
        clock.later()
        async with connected(port, client(tmp_path), name) as new:
            assert new.server_name == "second.example"
            assert await new.ask() == ""
        assert await old.ask() == ""


async def test_a_server_name_is_really_not_sent_for_an_address(tmp_path: Path) -> None:
    """Guards the tests above: they say something about clients without a server name."""
    seen: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*SERVER.write(tmp_path))
    context.sni_callback = lambda _tls, name, _context: seen.append(name)
    async with serving(context) as port:
        for name in (None, "localhost"):
            async with connected(port, client(tmp_path), name):
                pass
    assert seen == [None, "localhost"]


async def test_a_kubernetes_volume_changes_certificate_and_key_at_once(tmp_path: Path) -> None:
    clock = Clock()
    volume = Projected(tmp_path / "volume", crt=SERVER.certificate, key=SERVER.key)
    tls = ServerTls(TlsSettings(certificate_file=volume / "crt", key_file=volume / "key"), key="api.tls", boot_ns=clock)
    async with serving(tls.context) as port:
        for issued, name in [(LATER, "second.example"), (SERVER, "first.example")]:
            volume.update(crt=issued.certificate, key=issued.key)
            clock.later()
            async with connected(port, client(tmp_path)) as connection:
                assert connection.server_name == name


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_an_authority_that_is_taken_away_is_trusted_no_longer(tmp_path: Path, version: ssl.TLSVersion) -> None:
    clock = Clock()
    tls = server_tls(tmp_path, clock, client_ca=CA.pem + OTHER_CA.pem)
    theirs = client(tmp_path, CLIENT)
    theirs.minimum_version = theirs.maximum_version = version
    async with serving(tls.context) as port, connected(port, theirs) as old:
        assert await old.ask() == "scraper"
        put(tmp_path / "clients.crt", OTHER_CA.pem)
        clock.later()
        with pytest.raises(REFUSED):
            async with connected(port, theirs) as connection:
                await connection.ask()
        async with connected(port, client(tmp_path, FOREIGN)) as other:
            assert await other.ask() == "scraper"
        assert await old.ask() == "scraper"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_does_not_outlive_the_trust_in_its_certificate(tmp_path: Path, version: ssl.TLSVersion) -> None:
    """A client that offers the session of an earlier connection is verified all the same."""
    clock = Clock()
    tls = server_tls(tmp_path, clock, client_ca=CA.pem)
    theirs = client(tmp_path, CLIENT)
    theirs.minimum_version = theirs.maximum_version = version
    common = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    common.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
    common.load_verify_locations(cadata=CA.pem.decode())
    common.verify_mode = ssl.CERT_REQUIRED
    _, session = shake_hands(common, theirs)
    assert shake_hands(common, theirs, session)[0].session_reused  # else this test would say nothing
    _, session = shake_hands(tls.context, theirs)
    assert session is None or not session.has_ticket
    assert shake_hands(tls.context, theirs, session)[0].session_reused is (version == ssl.TLSVersion.TLSv1_2)
    put(tmp_path / "clients.crt", OTHER_CA.pem)
    clock.later()
    with pytest.raises(ssl.SSLError):
        shake_hands(tls.context, theirs, session)


def shake_hands(
    server: ssl.SSLContext, client: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> tuple[ssl.SSLObject, ssl.SSLSession | None]:
    """Both sides in memory, until each has read a message of the other."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(up, down, server_side=True)
    theirs = client.wrap_bio(down, up, server_hostname="localhost", session=session)
    steps = [theirs.do_handshake, ours.do_handshake] * 3
    steps += [
        lambda: ours.write(b"hello"),
        lambda: theirs.read(5),
        lambda: theirs.write(b"hello"),
        lambda: ours.read(5),
    ]
    for step in steps:
        try:
            step()
        except ssl.SSLWantReadError:
            pass
    return ours, theirs.session


@pytest.mark.parametrize(
    ("shown", "why"),
    [
        (None, "none"),
        (FOREIGN, "of another authority"),
        (CA.issue("scraper", client=True, to_seconds=-1), "expired"),
        (CA.issue("scraper", client=True, from_seconds=86_400, to_seconds=90_000), "not valid yet"),
        (CA.issue("scraper"), "that of a server"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_client_without_a_good_certificate_is_turned_away(
    tmp_path: Path, shown: Issued | None, why: str
) -> None:
    tls = server_tls(tmp_path, Clock(), client_ca=CA.pem)
    async with serving(tls.context) as port:
        with pytest.raises(REFUSED):
            async with connected(port, client(tmp_path, shown)) as connection:
                await connection.ask()
        async with connected(port, client(tmp_path, CLIENT)) as connection:
            assert await connection.ask() == "scraper"


async def test_where_certificates_are_optional_a_client_may_show_none_but_no_wrong_one(tmp_path: Path) -> None:
    tls = server_tls(tmp_path, Clock(), client_ca=CA.pem, require_client_certificate=False)
    async with serving(tls.context) as port:
        async with connected(port, client(tmp_path)) as connection:
            assert await connection.ask() == ""
        async with connected(port, client(tmp_path, CLIENT)) as connection:
            assert await connection.ask() == "scraper"
        with pytest.raises(REFUSED):
            async with connected(port, client(tmp_path, FOREIGN)) as connection:
                await connection.ask()


async def test_old_versions_and_ciphers_are_not_spoken(tmp_path: Path) -> None:
    tls = server_tls(tmp_path, Clock())
    assert tls.context.minimum_version == ssl.TLSVersion.TLSv1_2
    old = client(tmp_path)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    async with serving(tls.context) as port:
        async with connected(port, old) as connection:
            assert connection.tls.version() == "TLSv1.2"
            assert connection.tls.cipher()[0].startswith("ECDHE-")
        old.set_ciphers("ECDHE-ECDSA-AES256-SHA384:ECDHE-ECDSA-AES128-SHA256")  # without authentication of the whole
        with pytest.raises(REFUSED):
            async with connected(port, old):
                pass


async def test_a_server_with_threads_follows_the_files_too(tmp_path: Path) -> None:
    """`wrap_socket`: what the servers of the standard library use."""
    clock = Clock()
    tls = server_tls(tmp_path, clock)
    LATER.write(tmp_path)
    clock.later()
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with tls.context.wrap_socket(ours, server_side=True) as connection:
            connection.recv(1)

    async with anyio.create_task_group() as group:
        group.start_soon(anyio.to_thread.run_sync, serve)

        def ask() -> str:
            with client(tmp_path).wrap_socket(theirs, server_hostname="localhost") as connection:
                return certificate_names(connection.getpeercert())[0]

        assert await anyio.to_thread.run_sync(ask) == "second.example"


def encrypted(issued: Issued) -> bytes:
    key = serialization.load_pem_private_key(issued.key, None)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"password"),
    )


BAD: list[tuple[str, Callable[[Path], Any], str]] = [
    ("another key", lambda d: put(d / "tls.key", LATER.key), r"key_file: the key is not that of certificate_file"),
    ("encrypted key", lambda d: put(d / "tls.key", encrypted(SERVER)), r"key_file: the key is encrypted"),
    ("no key", lambda d: put(d / "tls.key", b""), r"key_file: the file must hold the certificate's private key"),
    ("garbage key", lambda d: put(d / "tls.key", b"\x00\xff" * 50), r"key_file: the file must hold the certificate's"),
    ("no certificate", lambda d: put(d / "tls.crt", b""), r"certificate_file: the file must hold at least one"),
    ("half a certificate", lambda d: put(d / "tls.crt", SERVER.certificate[:200]), r"certificate_file: .*only whole"),
    ("the key again", lambda d: put(d / "tls.crt", SERVER.key), r"certificate_file: the file must hold at least one"),
    ("certificate gone", lambda d: (d / "tls.crt").unlink(), r"certificate_file: .* cannot be read: No such file"),
    ("authority empty", lambda d: put(d / "clients.crt", b"\n"), r"client_ca_file: the file must hold at least one"),
    ("authority gone", lambda d: (d / "clients.crt").unlink(), r"client_ca_file: .* cannot be read"),
]


@pytest.mark.parametrize(("case", "spoil", "said"), BAD, ids=[case for case, _, _ in BAD])
async def test_bad_new_files_leave_the_old_ones_in_force(
    tmp_path: Path, case: str, spoil: Callable[[Path], Any], said: str
) -> None:
    clock = Clock()
    tls = server_tls(tmp_path, clock, client_ca=CA.pem)
    async with serving(tls.context) as port:
        with structlog.testing.capture_logs() as logs:
            spoil(tmp_path)
            for _ in range(3):
                clock.later()
                async with connected(port, client(tmp_path, CLIENT)) as connection:
                    assert connection.server_name == "first.example"
                    assert await connection.ask() == "scraper"
        assert [entry["event"] for entry in logs] == ["file_refused"]
        with pytest.raises(AssertionError, match=f"^api.tls.{said}"):
            raise AssertionError(tls.error)
        assert "PRIVATE" not in tls.error + str(logs)
        LATER.write(tmp_path)
        put(tmp_path / "clients.crt", CA.pem)
        clock.later()
        async with connected(port, client(tmp_path, CLIENT)) as connection:
            assert connection.server_name == "second.example"
        assert tls.error == ""


@pytest.mark.parametrize(("case", "spoil", "said"), BAD, ids=[case for case, _, _ in BAD])
def test_bad_files_stop_the_start(tmp_path: Path, case: str, spoil: Callable[[Path], Any], said: str) -> None:
    server_tls(tmp_path, Clock(), client_ca=CA.pem)
    spoil(tmp_path)
    files = {"certificate_file": "tls.crt", "key_file": "tls.key", "client_ca_file": "clients.crt"}
    settings = TlsSettings(**{name: tmp_path / file for name, file in files.items()})
    with pytest.raises(ConfigError, match=f"^api.tls.{said}"):
        ServerTls(settings, key="api.tls", boot_ns=Clock())


def test_without_files_there_is_no_tls() -> None:
    with pytest.raises(ConfigError, match="needs certificate_file and key_file"):
        ServerTls(TlsSettings(), key="api.tls")


def test_the_expiry_is_that_of_the_files_in_force(tmp_path: Path) -> None:
    clock = Clock()
    tls = server_tls(tmp_path, clock)
    CA.issue().write(tmp_path)  # the other one is as old as this test run
    clock.later()
    assert abs(tls.expires_at_ns - unix_ns() - 3600 * NS) < 600 * NS
    CA.issue(to_seconds=-5).write(tmp_path)  # an expired one is shown as it is: the metric tells
    clock.later()
    assert -600 * NS < tls.expires_at_ns - unix_ns() < 0
    short = CA.issue(to_seconds=60)
    put(tmp_path / "tls.crt", short.certificate + make_ca(to_seconds=30).pem)
    put(tmp_path / "tls.key", short.key)
    clock.later()
    assert tls.expires_at_ns - unix_ns() < 31 * NS


async def test_an_expired_server_is_refused_by_clients(tmp_path: Path) -> None:
    clock = Clock()
    tls = server_tls(tmp_path, clock)
    ours = ClientTls(ClientTlsSettings(ca_file=CA.write(tmp_path)), key="sidecar.tls", boot_ns=clock)
    async with serving(tls.context) as port:
        CA.issue(to_seconds=-5).write(tmp_path)
        clock.later()
        with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
            async with connected(port, ours.context):
                pass


async def test_our_side_follows_its_authorities_and_checks_names(tmp_path: Path) -> None:
    clock = Clock()
    tls = server_tls(tmp_path, clock)
    ours = ClientTls(
        ClientTlsSettings(ca_file=put(tmp_path / "ca.crt", OTHER_CA.pem)), key="sidecar.tls", boot_ns=clock
    )
    assert (ours.expires_at_ns, ours.error) == (None, "")
    assert ours.context.check_hostname
    assert ours.context.verify_mode == ssl.CERT_REQUIRED
    async with serving(tls.context) as port:
        with pytest.raises(ssl.SSLCertVerificationError):
            async with connected(port, ours.context):
                pass
        put(tmp_path / "ca.crt", CA.pem)
        clock.later()
        async with connected(port, ours.context) as connection:
            assert connection.server_name == "first.example"
        with pytest.raises(ssl.SSLCertVerificationError, match=r"[Hh]ostname"):
            async with connected(port, ours.context, "elsewhere.example"):
                pass
        put(tmp_path / "ca.crt", OTHER_CA.pem)
        clock.later()
        with pytest.raises(ssl.SSLCertVerificationError):
            async with connected(port, ours.context):
                pass


async def test_our_side_shows_its_newest_certificate(tmp_path: Path) -> None:
    clock = Clock()
    tls = server_tls(tmp_path, clock, client_ca=CA.pem)
    certificate, key = CLIENT.write(tmp_path, "ours")
    settings = ClientTlsSettings(ca_file=CA.write(tmp_path), certificate_file=certificate, key_file=key)
    ours = ClientTls(settings, key="sidecar.tls", boot_ns=clock)
    assert ours.expires_at_ns is not None
    async with serving(tls.context) as port:
        async with connected(port, ours.context) as connection:
            assert await connection.ask() == "scraper"
        CA.issue("another", client=True, uris=("spiffe://a/b",)).write(tmp_path, "ours")
        clock.later()
        async with connected(port, ours.context) as connection:
            assert await connection.ask() == "spiffe://a/b"


def test_our_side_trusts_the_systems_authorities_by_default() -> None:
    tls = ClientTls(ClientTlsSettings(), key="exporters.tls")
    assert (tls.error, tls.expires_at_ns) == ("", None)


UNTIL = {"notAfter": "Jan  1 00:00:00 2050 GMT"}


@pytest.mark.parametrize(
    ("certificate", "names"),
    [
        (None, ()),
        ({}, ()),
        (UNTIL, ()),
        (UNTIL | {"subject": ((("organizationName", "x"),), (("commonName", "scraper"),))}, ("scraper",)),
        (UNTIL | {"subject": ((("commonName", ""),),)}, ()),
        (
            UNTIL
            | {
                "subject": ((("commonName", "admin"),),),
                "subjectAltName": (("DNS", "a.example"), ("IP Address", "10.0.0.1"), ("URI", "spiffe://a/b")),
            },
            ("a.example", "spiffe://a/b"),
        ),
        (UNTIL | {"subject": ((("commonName", "x"),),), "subjectAltName": (("email", "a@example"),)}, ("x",)),
        ({"notAfter": "Jan  1 00:00:00 2020 GMT", "subject": ((("commonName", "scraper"),),)}, ()),
    ],
)
def test_names_of_a_certificate(certificate: dict[str, Any] | None, names: tuple[str, ...]) -> None:
    assert certificate_names(certificate) == names
