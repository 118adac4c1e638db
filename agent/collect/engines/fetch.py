"""An address in, a status and at most so many bytes out: the GET that scraper and discovery share."""

import ssl

import aiohttp
from msgspec import Struct

from agent.collect.engines.unanswered import Unanswered, cut_off, late, not_http, refused_tls, unconnected

MAX_PAGE_BYTES = 16 * 1024 * 1024
_CHUNK_BYTES = 64 * 1024


class Answer(Struct, frozen=True, kw_only=True):
    """What a server said. `location` is set when it points elsewhere."""

    status: int
    body: bytes
    location: str | None = None


def engine_session() -> aiohttp.ClientSession:
    """The session for asking engines: no cookies, no proxy from the environment, a new connection for each request.

    Engines close idle connections after a while (vLLM after 5 s, which is our usual interval): one that is kept would
    now and then be gone when it is used again, and that would look like an engine that breaks off.
    """
    connector = aiohttp.TCPConnector(force_close=True, limit=0)
    return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False)


async def get(
    session: aiohttp.ClientSession,
    url: str,
    *,
    timeout_seconds: float,
    max_bytes: int = MAX_PAGE_BYTES,
    token: str | None = None,
) -> Answer:
    """GET `url` once; redirects are not followed, compressed bodies are unpacked and measured unpacked.

    Raises `Unanswered` (a `TryLater`) with a reason for people when no whole answer came: nobody listens, the time is
    over, the connection broke, it was no HTTP, or the body is larger than `max_bytes`.
    """
    headers = {"Accept": "text/plain, */*;q=0.5"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    timeout = aiohttp.ClientTimeout(total=timeout_seconds)
    body = bytearray()
    connected = False
    try:
        async with session.get(url, headers=headers, timeout=timeout, allow_redirects=False) as response:
            connected = True
            async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                body += chunk
                if len(body) > max_bytes:
                    response.close()
                    raise Unanswered(f"{url} sends more than {max_bytes} bytes: reading was stopped", spoke=True)
            return Answer(status=response.status, body=bytes(body), location=response.headers.get("Location"))
    except TimeoutError:
        raise late(url, timeout_seconds, len(body), spoke=connected) from None
    except aiohttp.ClientConnectorDNSError:
        raise Unanswered(f"the host name in {url} cannot be resolved: check the spelling and the DNS") from None
    except (aiohttp.ClientSSLError, ssl.SSLError) as error:
        raise refused_tls(url, error) from None
    except aiohttp.ClientConnectorError as error:
        raise unconnected(url, error.os_error) from None
    except (aiohttp.ServerDisconnectedError, ConnectionResetError, BrokenPipeError):
        raise cut_off(url) from None
    except aiohttp.ClientPayloadError:
        raise Unanswered(f"the answer of {url} broke off or is damaged ({len(body)} bytes came)", spoke=True) from None
    except aiohttp.ClientResponseError as error:
        raise not_http(url, error.message) from None
    except (aiohttp.ClientError, OSError) as error:
        raise Unanswered(f"no answer from {url}: {str(error) or type(error).__name__}") from None
