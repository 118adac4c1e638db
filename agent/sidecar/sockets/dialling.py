"""Address of an engine → a connection to it: TCP or a unix socket, with TLS where asked for. Raises OSError if not."""

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import anyio

from agent.doors.tls import ClientTls
from agent.sidecar.sockets.addresses import Address
from agent.sidecar.sockets.alpn import offering
from agent.sidecar.sockets.listening import keep_alive
from agent.sidecar.sockets.settings import DialSettings

P = TypeVar("P", bound=asyncio.Protocol)

_KEEP_INTERVAL_SECONDS, _KEEP_PROBES = 10, 3
_QUEUE_FULL_SECONDS = 0.01
_Where = tuple[int, tuple[Any, ...]]  # family, socket address


class Dialler:
    """Connects to engines. Names are resolved anew for every connection, and the addresses tried one after another.

    `tls` is needed when an engine is behind https; it follows its files, so that certificates rotate without a restart.
    """

    def __init__(self, settings: DialSettings, tls: ClientTls | None = None, protocols: tuple[str, ...] = ()) -> None:
        self._settings = settings
        self.tls = tls
        self._context: ssl.SSLContext | None = tls.context if tls is not None else None
        if self._context is not None and protocols:
            self._context = offering(self._context, protocols)

    async def connect(
        self, loop: asyncio.AbstractEventLoop, address: Address, factory: Callable[[], P]
    ) -> tuple[asyncio.Transport, P]:
        """A new connection with a protocol of `factory`.

        Raises TimeoutError after `connect_timeout_seconds`, else OSError: of the last address that was tried.
        """
        seconds = self._settings.connect_timeout_seconds
        with anyio.fail_after(seconds):
            if address.path is not None:
                return await self._over(loop, await _unix_socket(address.path), address, factory)
            found = await _resolved(loop, address.host, address.port)
            for where in found[:-1]:
                # Equal shares: an address that does not answer must not use up the time of the others.
                with anyio.move_on_after(seconds / len(found)):
                    try:
                        return await self._over(loop, await self._tcp_socket(loop, where), address, factory)
                    except ssl.SSLError:
                        raise
                    except OSError:
                        continue
            return await self._over(loop, await self._tcp_socket(loop, found[-1]), address, factory)

    async def _over(
        self, loop: asyncio.AbstractEventLoop, connected: socket.socket, address: Address, factory: Callable[[], P]
    ) -> tuple[asyncio.Transport, P]:
        """Hand a connected socket to the loop, after the handshake of TLS where there is one."""
        make = loop.create_connection if address.path is None else loop.create_unix_connection
        if not address.tls:
            return await make(factory, sock=connected)
        if self._context is None:
            connected.close()
            raise OSError(errno.EINVAL, "TLS is not set up for this engine")
        name = self._settings.server_name or address.host.partition("%")[0]
        return await make(factory, sock=connected, ssl=self._context, server_hostname=name)

    async def _tcp_socket(self, loop: asyncio.AbstractEventLoop, where: _Where) -> socket.socket:
        family, socket_address = where
        made = socket.socket(family, socket.SOCK_STREAM)
        connected = False
        try:
            made.setblocking(False)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            keep_alive(made, self._settings.keepalive_seconds, _KEEP_INTERVAL_SECONDS, _KEEP_PROBES)
            await loop.sock_connect(made, socket_address)
            connected = True
        finally:
            if not connected:
                made.close()
        return made


def dialler(
    settings: DialSettings, addresses: Iterable[Address], *, key: str = "sidecar.dial", protocols: tuple[str, ...] = ()
) -> Dialler:
    """A dialler for these engines. `key`: the dotted path of `settings`. Raises `ConfigError` for unusable files."""
    tls = ClientTls(settings.tls, key=f"{key}.tls") if any(address.tls for address in addresses) else None
    return Dialler(settings, tls, protocols)


async def _resolved(loop: asyncio.AbstractEventLoop, host: str, port: int) -> list[_Where]:
    """Where a name leads now: at least one. Raises OSError. Addresses need no thread, names do."""
    for family in (socket.AF_INET, socket.AF_INET6):
        if "%" in host:
            break  # the zone is looked up as names are
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return [(family, (host, port) if family == socket.AF_INET else (host, port, 0, 0))]
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    if not found:
        raise OSError(errno.EADDRNOTAVAIL, f"{host} has no address")
    return list(dict.fromkeys((each[0], each[4]) for each in found))


async def _unix_socket(path: str) -> socket.socket:
    """Connecting to one never takes time; when more wait there to be accepted than may, it is tried again."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connected = False
    try:
        made.setblocking(False)
        while not connected:
            try:
                made.connect(path)
                connected = True
            except BlockingIOError:
                await anyio.sleep(_QUEUE_FULL_SECONDS)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror or os.strerror(error.errno or 0)}: {path}") from error
    finally:
        if not connected:
            made.close()
    return made
