"""Where the sidecar listens and where the engine is: configured text → addresses; and which Host the engine gets.

Pure.
"""

import ipaddress
import re
from typing import NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from agent.settings import split_address

MAX_PATH_BYTES = 107  # sockaddr_un, unix(7): 108 with the zero byte at the end
UNIX = "unix:"
_HTTP_UNIX = "http+unix"
_HOST_VALUE = re.compile(r"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_EXPECTED = "expected http://host:port without a path, such as http://127.0.0.1:8000, or unix:/path/of/a/socket"


class Place(NamedTuple):
    """Where to listen: `host` and `port`, or the `path` of a unix socket."""

    host: str = ""
    port: int = 0
    path: str | None = None

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches it."""
        return self.path is not None or _is_loopback(self.host)


class Address(NamedTuple):
    """Where an engine is: `host` and `port`, or the `path` of a unix socket."""

    host: str = "localhost"
    port: int = 0
    path: str | None = None
    tls: bool = False

    @property
    def authority(self) -> str:
        """What a client that talked to the engine itself would send as Host: host:port, or localhost."""
        if self.path is not None:
            return self.host
        host = self.host.partition("%")[0]  # the zone of an address means something on this machine only
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    @property
    def name(self) -> str:
        """What tells this engine from others, in records and logs."""
        return self.authority if self.path is None else f"{UNIX}{self.path}"

    @property
    def is_local(self) -> bool:
        """Whether the engine is on this machine and only reached from here."""
        return self.path is not None or _is_loopback(self.host)


def parse_listen(text: str) -> Place:
    """`host:port`, `[v6]:port` or `unix:/path`. Raises ValueError with what was expected."""
    if text.startswith(UNIX):
        return Place(path=_socket_path(text, text[len(UNIX) :]))
    return Place(*split_address(text))


def parse_upstream(text: str) -> Address:
    """`http://host:port`, `https://host:port`, `unix:/path`, `http+unix://%2Fpath`. Raises ValueError."""
    if text.startswith(UNIX):
        return Address(path=_socket_path(text, text[len(UNIX) :]))
    url = urlsplit(text)
    if url.scheme == _HTTP_UNIX:
        if url.query or url.fragment:
            raise ValueError(f"{_EXPECTED}, got {text!r}")
        return Address(path=_socket_path(text, unquote(url.netloc) + url.path.rstrip("/")))
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError(f"{_EXPECTED}, got {text!r}")
    if url.username is not None:
        raise ValueError("a URL with a user name or a password in it is not taken: it would show in logs")
    if url.path not in ("", "/") or url.query or url.fragment:
        raise ValueError(f"{_EXPECTED}, got {text!r}")
    tls = url.scheme == "https"
    return Address(_host(url.hostname), _port(url, text) or (443 if tls else 80), tls=tls)


def host_value(text: str) -> str:
    """A choice of `host_for_engine`, checked. Raises ValueError with what was expected."""
    if text in ("auto", "keep", "engine") or _HOST_VALUE.fullmatch(text):
        return text
    raise ValueError(f"expected auto, keep, engine, or a host such as localhost:11434, got {text!r}")


def host_for_engine(choice: str, address: Address, listen: Place) -> bytes | None:
    """The Host that the engine gets in place of the client's; None: the client's stays.

    `auto` keeps it, with two exceptions. An engine behind https is found by its name by whatever stands before it.
    And an engine that listens on loopback may refuse a foreign Host (Ollama: 403), although no client from elsewhere
    could know its own. Where the sidecar itself is reached from this machine only, the client's Host stays: then the
    refusal is the engine's protection against pages that point a name of their own at 127.0.0.1, as without us.
    """
    if choice == "auto":
        choice = "engine" if address.tls or (address.is_local and not listen.is_local) else "keep"
    if choice == "keep":
        return None
    return (address.authority if choice == "engine" else choice).encode("ascii")


def _host(name: str) -> str:
    if ":" in name:
        return name.replace("%25", "%", 1)  # RFC 6874
    try:
        return name.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise ValueError(f"{name!r} cannot be the name of a host: {error}") from error


def _port(url: SplitResult, text: str) -> int | None:
    try:
        port = url.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError(f"expected a port from 1 to 65535, got {text!r}")
    return port


def _socket_path(text: str, path: str) -> str:
    path = path.removeprefix("//")  # unix:///path is meant as unix:/path
    if not path.startswith("/") or path.endswith("/") or "\0" in path:
        raise ValueError(f"expected unix: and the whole path of a socket, such as unix:/run/engine.sock, got {text!r}")
    if len(path.encode()) > MAX_PATH_BYTES:
        raise ValueError(f"the path of a unix socket may have {MAX_PATH_BYTES} bytes, got {len(path.encode())}: {path}")
    return path


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host.lower() == "localhost" or host.lower().endswith(".localhost")
