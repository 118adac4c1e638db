"""A GET that got no whole answer in, the reason for people out: what was wrong, where, and what to do."""

import ast
import errno
import re
from urllib.parse import urlsplit

from agent.core.ports import TryLater

_QUOTED = re.compile(r"b(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")")
_TLS_RECORDS = (b"\x15\x03", b"\x16\x03")  # alert, handshake (RFC 8446 section 5.1)
_HTTP2_SETTINGS = 4  # type of the frame with which every HTTP/2 server begins (RFC 9113 section 3.4)


class Unanswered(TryLater):
    """No whole answer came. `spoke`: HTTP is spoken there, an answer had begun. `late`: the time was over.

    `silent`: not one byte came, as from a server that loads its model: nobody listens, or nobody answers in time.
    """

    def __init__(self, reason: str, *, spoke: bool = False, late: bool = False, refused: bool = False) -> None:
        super().__init__(reason)
        self.spoke = spoke
        self.late = late
        self.silent = refused or (late and not spoke)


def unconnected(url: str, error: OSError) -> Unanswered:
    """No connection came about."""
    if error.errno == errno.ECONNREFUSED:
        return Unanswered(f"nothing listens at {url}: is the engine running, and is the port right?", refused=True)
    return Unanswered(f"no connection to {url}: {error.strerror or error}")


def late(url: str, seconds: float, came_bytes: int, *, spoke: bool) -> Unanswered:
    """The time was over. `spoke`: the head of the answer had come."""
    tls = ". If it speaks plain HTTP, write http:// in its url" if url.startswith("https:") and not spoke else ""
    return Unanswered(
        f"{url} did not answer in full within {round(seconds, 1):g} s ({came_bytes} bytes came): the engine hangs, or "
        f"is too slow for timeout_seconds{tls}",
        spoke=spoke,
        late=True,
    )


def cut_off(url: str) -> Unanswered:
    """The connection came about and ended before anything was said."""
    tls = " If it wants TLS, write https:// in its url" if url.startswith("http:") else ""
    return Unanswered(
        f"{url} closed the connection without an answer: it is stopping, or no HTTP/1.1 is spoken there (a gRPC port "
        f"has HTTP/2 only).{tls}"
    )


def refused_tls(url: str, error: Exception) -> Unanswered:
    """The TLS handshake failed."""
    text = str(error)
    host = urlsplit(url).hostname
    if "CERTIFICATE_VERIFY_FAILED" in text or "certificate" in text.lower():
        why = text.partition("certificate verify failed: ")[2].partition(" (_ssl")[0] or "its names or its issuer"
        return Unanswered(
            f"the certificate of {url} is not trusted ({why}): use one for {host} whose issuer this machine trusts "
            "(SSL_CERT_FILE names a file with further issuers), or the engine's http:// address"
        )
    if any(mark in text for mark in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER", "UNKNOWN_PROTOCOL")):
        return Unanswered(f"{url} does not speak TLS: write http:// in its url")
    return Unanswered(f"no TLS connection to {url}: {text}. If it speaks plain HTTP, write http:// in its url")


def not_http(url: str, message: str) -> Unanswered:
    """What came is no HTTP/1 answer. `message` is aiohttp's, with the first bytes as Python writes them."""
    if "more than" in message or "Too many headers" in message:
        return Unanswered(f"{url} does not speak HTTP as expected: the head of its answer is too large", spoke=True)
    start = _first_bytes(message)
    if start.startswith(_TLS_RECORDS):
        return Unanswered(f"{url} wants TLS: write https:// in its url")
    if len(start) > 3 and start[3] == _HTTP2_SETTINGS and start[0] == 0:
        return Unanswered(
            f"{url} speaks HTTP/2 only, so this is its gRPC port: give the port of its HTTP/1.1 address instead"
        )
    if start.startswith(b"SSH-"):
        return Unanswered(f"{url} does not speak HTTP, it is an SSH server: is the port right?")
    shown = f", its first bytes are {start[:40]!r}" if start else ""
    return Unanswered(f"{url} does not speak HTTP as expected{shown}: is the port right?")


def _first_bytes(message: str) -> bytes:
    quoted = _QUOTED.search(message)
    if quoted is None:
        return b""
    try:
        found = ast.literal_eval(quoted.group())
    except (SyntaxError, ValueError):
        return b""  # cut in the middle of an escape
    return found if isinstance(found, bytes) else b""
