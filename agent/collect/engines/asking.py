"""One engine's address and token in, its answers out: every request of a scrape, within the time of one scrape."""

from urllib.parse import urlsplit, urlunsplit

import aiohttp
import anyio

from agent.clock import NS, boot_ns
from agent.collect.engines.diagnosis import Unread
from agent.collect.engines.fetch import MAX_PAGE_BYTES, Answer, get
from agent.collect.engines.targets import EngineTarget
from agent.collect.engines.unanswered import Unanswered
from agent.engines.contract import EngineFile


class Asker:
    """Asks one engine. `begin` starts a scrape: from then on all requests together have `timeout_seconds`.

    Only GET, and only the addresses that are passed in. The token goes to the configured host alone, and never to an
    engine that was found: nobody has said that it may be trusted with one.
    """

    def __init__(self, session: aiohttp.ClientSession, target: EngineTarget) -> None:
        self.target = target
        self.answered = False  # something has answered in this scrape
        self._session = session
        self._token: str | None = None
        self._deadline_ns = 0

    async def begin(self) -> None:
        """Start the time of a scrape and read the token anew, so that a renewed one needs no restart. Raises Unread."""
        self.answered = False
        self._deadline_ns = boot_ns() + int(self.target.timeout_seconds * NS)
        file = self.target.token_file
        if file is None or self.target.found_by != "config":
            return
        try:
            token = (await anyio.Path(file).read_text()).strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Unread("down", f"the token_file {file} of this engine cannot be read: {error}") from None
        if not token.isascii() or not token.isprintable():
            raise Unread("down", f"the token_file {file} of this engine must hold one line of printable ASCII")
        self._token = token

    @property
    def left_seconds(self) -> float:
        """What is left of the time of this scrape."""
        return max(0.0, (self._deadline_ns - boot_ns()) / NS)

    def address(self, path: str) -> str:
        """The whole address of one of the engine's paths."""
        return self.target.url + path

    def pages(self, engine: EngineFile) -> list[tuple[str, str]]:
        """Path and whole address of each place where the engine may show its metrics page."""
        if self.target.metrics_url:
            return [(urlsplit(self.target.metrics_url).path or "/", self.target.metrics_url)]
        if engine.metrics_port is None:
            return [(path, self.address(path)) for path in engine.metrics_paths]
        parts = urlsplit(self.target.url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        place = f"{host}:{engine.metrics_port}"
        return [(path, urlunsplit((parts.scheme, place, path, "", ""))) for path in engine.metrics_paths]

    async def get(self, url: str, *, max_bytes: int = MAX_PAGE_BYTES, at_most_seconds: float | None = None) -> Answer:
        """One GET within the time that is left. Raises Unanswered."""
        left = self.left_seconds
        if left <= 0:
            raise Unanswered(f"{url} was not asked: other answers took all of timeout_seconds", late=True)
        seconds = left if at_most_seconds is None else min(left, at_most_seconds)
        answer = await get(self._session, url, timeout_seconds=seconds, max_bytes=max_bytes, token=self._token_for(url))
        self.answered = True
        return answer

    def _token_for(self, url: str) -> str | None:
        own, asked = urlsplit(self.target.url), urlsplit(url)
        safe = own.hostname == asked.hostname and (asked.scheme == "https" or own.scheme == "http")
        return self._token if safe else None
