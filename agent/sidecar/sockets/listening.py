"""Settings → listening sockets for clients: TCP or a unix socket, with TLS where asked for; closed in order."""

import asyncio
import errno
import fcntl
import os
import socket
import ssl
import stat
from collections.abc import Callable
from pathlib import Path

import structlog

from agent.core.ports import ConfigError
from agent.sidecar.sockets.addresses import Place, parse_listen
from agent.sidecar.sockets.settings import ListenSettings

log = structlog.get_logger()

Factory = Callable[[], asyncio.Protocol]

_KEEP_IDLE_SECONDS, _KEEP_INTERVAL_SECONDS, _KEEP_PROBES = 60, 15, 4
_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # a name has an address of a kind that this machine lacks


class Listening:
    """The sockets of one listening address, bound. `prepare` once, then `start`; `close` as often as you like."""

    def __init__(
        self, place: Place, sockets: tuple[socket.socket, ...], settings: ListenSettings, lock: int | None = None
    ) -> None:
        self.place = place
        self.sockets = sockets
        self.port = 0 if place.path is not None else int(sockets[0].getsockname()[1])  # the real one
        self._settings = settings
        self._servers: list[asyncio.Server] = []
        self._lock = lock
        self._file = _identity(place.path) if place.path is not None else None

    @property
    def shown(self) -> str:
        """The address, with the real port."""
        place = self.place
        if place.path is not None:
            return f"unix:{place.path}"
        return f"[{place.host}]:{self.port}" if ":" in place.host else f"{place.host}:{self.port}"

    @property
    def is_serving(self) -> bool:
        """Whether clients are taken."""
        return bool(self._servers) and all(server.is_serving() for server in self._servers)

    def queue(self) -> None:
        """Let clients connect from now on; they wait, as many as the backlog, until `start`."""
        for each in self.sockets:
            each.listen(self._settings.backlog)

    async def prepare(self, factory: Factory, tls: ssl.SSLContext | None = None) -> None:
        """Say who serves: `factory` makes a protocol for each connection."""
        loop = asyncio.get_running_loop()
        make = loop.create_server if self.place.path is None else loop.create_unix_server
        settings = self._settings
        for each in self.sockets:
            server = await make(
                factory,
                sock=each,
                ssl=tls,
                backlog=settings.backlog,
                ssl_handshake_timeout=settings.handshake_timeout_seconds if tls is not None else None,
                start_serving=False,
            )
            self._servers.append(server)

    async def start(self) -> None:
        """Take clients from now on."""
        for server in self._servers:
            await server.start_serving()

    def close(self) -> None:
        """Take no more clients; those that are connected stay. The file of a unix socket goes, if it is still ours."""
        for server in self._servers:
            server.close()
        for each in self.sockets:
            each.close()
        if self._lock is not None and self.place.path is not None:
            _remove(self.place.path, self._file)
            os.close(self._lock)
            self._lock = None


def open_listening(listen: str, settings: ListenSettings, *, key: str = "sidecar.listen") -> Listening:
    """Bind what `listen` says. Raises `ConfigError` about `key` when that cannot be.

    The sockets of a name with several addresses, such as localhost, have the same port. A unix socket's file that a
    process left behind is replaced, but never one on which somebody listens; `<path>.lock`, which stays, is locked for
    as long as the socket is open, so that two of us cannot take each other's for such a one.
    """
    try:
        place = parse_listen(listen)
        if place.path is not None:
            return _bind_unix(place, place.path, settings)
        return _bind_tcp(place, settings)
    except ValueError as error:
        raise ConfigError(key, str(error)) from None
    except OSError as error:
        expected = f"cannot listen on {listen}: {error.strerror or error}; choose a free address"
        raise ConfigError(key, expected) from error


def _bind_tcp(place: Place, settings: ListenSettings) -> Listening:
    found = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    port = place.port
    absent: OSError | None = None
    try:
        for family, where in dict.fromkeys((each[0], each[4]) for each in found):
            try:
                sockets.append(_bound_tcp(family, (where[0], port, *where[2:]), settings))
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
                absent = error
            else:
                port = int(sockets[-1].getsockname()[1])
        if not sockets and absent is not None:
            raise absent
        made, sockets = tuple(sockets), []
        return Listening(place, made, settings)
    finally:
        for each in sockets:
            each.close()


def _bound_tcp(family: int, where: tuple[str | int, ...], settings: ListenSettings) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if settings.reuse_port:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            only = not (settings.dual_stack and where[0] == "::")
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(only))
        keep_alive(made, _KEEP_IDLE_SECONDS, _KEEP_INTERVAL_SECONDS, _KEEP_PROBES)  # accepted ones inherit it, tcp(7)
        made.bind(where)
    except OSError:
        made.close()
        raise
    return made


def keep_alive(made: socket.socket, idle_seconds: int, interval_seconds: int, probes: int) -> None:
    """Let the kernel find out when a TCP peer's machine is gone without a word."""
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle_seconds)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval_seconds)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, probes)


def _bind_unix(place: Place, path: str, settings: ListenSettings) -> Listening:
    lock = _locked(f"{path}.lock")
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _make_way(path)
        made.setblocking(False)
        made.bind(path)
        Path(path).chmod(settings.mode)  # before `listen`: until then nobody can connect
        made.listen(settings.backlog)
        return Listening(place, (made,), settings, lock)
    except (OSError, ValueError):
        made.close()
        os.close(lock)
        raise


def _locked(path: str) -> int:
    number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(number)
        raise OSError(errno.EADDRINUSE, "another sidecar listens there") from None
    return number


def _make_way(path: str) -> None:
    """Remove a socket's file on which nobody listens. Raises OSError, or ValueError for what is no such file."""
    try:
        mode = Path(path).lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ValueError(f"{path} is there and is no socket; remove it, or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()
            log.info("stale_socket_removed", path=path)
            return
        except BlockingIOError:
            pass  # more wait to be accepted than may: so somebody listens
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _remove(path: str, ours: tuple[int, int] | None) -> None:
    try:
        if ours is not None and _identity(path) == ours:  # else somebody has put another in its place
            Path(path).unlink()
    except OSError as error:
        log.warning("socket_file_left", path=path, reason=error.strerror or str(error))


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = Path(path).lstat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
