"""One HTTP POST, once: bytes in; status, headers and the beginning of the answer out. For exporters of any kind."""

import os
from collections.abc import Mapping
from typing import NamedTuple

import aiohttp

from agent.core.ports import TryLater

READ_BYTES = 64 << 10  # of an answer; the rest stays unread and the connection is closed


class Answer(NamedTuple):
    """What the destination said. `text` is as much of the body as was read, with what is no text replaced."""

    status: int
    headers: Mapping[str, str]
    text: str


def open_session(*, keep: bool = False) -> aiohttp.ClientSession:
    """A session for exporters: no cookies, and a new connection for each request. To be closed by the caller.

    `keep` keeps connections for later requests. Only for answers that name what they are about: one answer too many
    that comes late is taken for that of the next request otherwise, and items count as stored that nobody has seen.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(force_close=not keep), cookie_jar=aiohttp.DummyCookieJar()
    )


async def post(
    session: aiohttp.ClientSession, url: str, body: bytes, headers: Mapping[str, str], timeout_seconds: float
) -> Answer:
    """POST `body` and wait for the whole answer. Never sent twice, redirects are not followed.

    Raises `TryLater` when no whole answer came in time: what became of the body is unknown then. Its reason names
    neither the address nor anything else of the request: both may hold secrets.
    """
    timeout = aiohttp.ClientTimeout(total=timeout_seconds)
    read = bytearray()
    try:
        async with session.post(url, data=body, headers=headers, timeout=timeout, allow_redirects=False) as answer:
            async for chunk in answer.content.iter_any():
                read += chunk
                if len(read) > READ_BYTES:
                    answer.close()
                    break
            return Answer(answer.status, answer.headers, bytes(read[:READ_BYTES]).decode(errors="replace"))
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise TryLater(_reason(error)) from None


def _reason(error: Exception) -> str:
    """The class and what the operating system says; messages of the HTTP library repeat the address."""
    code = getattr(error, "errno", None)
    detail = f": {os.strerror(code)}" if isinstance(code, int) and code > 0 else ""
    return type(error).__name__ + detail
