"""An address in, a status and at most so many bytes out: the GET that scraper and discovery share."""

import errno

import aiohttp
from msgspec import Struct

from agent.core.ports import TryLater

MAX_PAGE_BYTES = 16 * 1024 * 1024
_CHUNK_BYTES = 64 * 1024


class Answer(Struct, frozen=True, kw_only=True):
    """What a server said. `location` is set when it points elsewhere."""

    status: int
    body: bytes
    location: str | None = None


async def get(
    session: aiohttp.ClientSession,
    url: str,
    *,
    timeout_seconds: float,
    max_bytes: int = MAX_PAGE_BYTES,
    token: str | None = None,
) -> Answer:
    """GET `url` once; redirects are not followed, compressed bodies are unpacked and measured unpacked.

    Raises `TryLater` with a reason for people when no whole answer came: nobody listens, the time is over, the
    connection broke, or the body is larger than `max_bytes`.
    """
    headers = {"Accept": "text/plain, */*;q=0.5"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    timeout = aiohttp.ClientTimeout(total=timeout_seconds)
    body = bytearray()
    try:
        async with session.get(url, headers=headers, timeout=timeout, allow_redirects=False) as response:
            async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                body += chunk
                if len(body) > max_bytes:
                    response.close()
                    raise TryLater(f"{url} sends more than {max_bytes} bytes: reading was stopped")
            return Answer(status=response.status, body=bytes(body), location=response.headers.get("Location"))
    except TimeoutError:
        raise TryLater(
            f"{url} did not answer in full within {timeout_seconds:g} s ({len(body)} bytes came): the engine hangs, "
            "or is too slow for timeout_seconds"
        ) from None
    except aiohttp.ClientConnectorDNSError:
        raise TryLater(f"the host name in {url} cannot be resolved: check the spelling and the DNS") from None
    except aiohttp.ClientConnectorError as error:
        if error.os_error.errno == errno.ECONNREFUSED:
            raise TryLater(f"nothing listens at {url}: is the engine running, and is the port right?") from None
        raise TryLater(f"no connection to {url}: {error.strerror or error.os_error}") from None
    except aiohttp.ServerDisconnectedError:
        raise TryLater(f"{url} closed the connection without an answer") from None
    except aiohttp.ClientPayloadError:
        raise TryLater(f"the answer of {url} broke off or is damaged ({len(body)} bytes came)") from None
    except aiohttp.ClientResponseError as error:
        raise TryLater(f"{url} does not speak HTTP as expected: {error.message}") from None
    except (aiohttp.ClientError, OSError) as error:
        raise TryLater(f"no answer from {url}: {str(error) or type(error).__name__}") from None
