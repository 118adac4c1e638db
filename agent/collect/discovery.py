"""Listening ports in, engines to watch out: for the node on which nobody configured any.

Looks only at ports that are the default of an engine we know, asks only for the metrics page, and believes only its
content.
"""

from collections.abc import Callable, Collection
from pathlib import Path

import aiohttp
import anyio.to_thread
import structlog

from agent.collect.diagnosis import Unread, check_status, why_unknown
from agent.collect.engine import THREAD_BYTES
from agent.collect.fetch import get
from agent.collect.ports_of import Address, listeners
from agent.collect.targets import EngineTarget
from agent.core.metrics.exposition import Exposition
from agent.core.ports import TryLater
from agent.engines.contract import EngineFile
from agent.engines.registry import ENGINES, classify

log = structlog.get_logger()

DISCOVER_SECONDS = 30.0  # the interval at which `step` is meant to run


class Discovery:
    """Finds engines on this machine; each is handed to `on_found` once.

    `skip_ports` are our own. `ports` are looked at and no others; by default those the engine files name. An engine
    that goes away stays found: its scraper says that it is down. `refused` says for each other port that listens why it
    was not taken for an engine; `engineroom doctor` shows it.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        on_found: Callable[[EngineTarget], None],
        *,
        skip_ports: Collection[int] = (),
        ports: Collection[int] | None = None,
        proc: Path = Path("/proc"),
        timeout_seconds: float = 4.0,
    ) -> None:
        self._session = session
        self._on_found = on_found
        usual = {port for engine in ENGINES for port in engine.default_ports}
        self._ports = (usual if ports is None else set(ports)) - set(skip_ports)
        self._proc = proc
        self._timeout_seconds = timeout_seconds
        self._found: set[int] = set()
        self.refused: dict[int, str] = {}

    async def step(self) -> None:
        """One look. What does not answer with an engine's page is asked again next time: it may be loading."""
        sockets = await anyio.to_thread.run_sync(listeners, self._proc)
        addresses: dict[int, Address] = {}
        for socket in sockets:
            if socket.port in self._ports and socket.port not in self._found:
                addresses.setdefault(socket.port, socket.address)
        self.refused = {port: reason for port, reason in self.refused.items() if port in addresses}
        for port, address in addresses.items():
            url = f"http://{_reachable(address)}:{port}"
            try:
                engine = await self._probe(url)
            except Unread as failure:
                self._refuse(port, failure.reason)
                continue
            self._found.add(port)
            self.refused.pop(port, None)
            log.info("engine_found", url=url, kind=engine.kind)
            self._on_found(EngineTarget(url=url, kind=engine.kind))

    async def _probe(self, url: str) -> EngineFile:
        """The engine behind an address. Raises Unread when there is none, or none that shows it."""
        first: Unread | None = None
        for path in dict.fromkeys(path for engine in ENGINES for path in engine.metrics_paths):
            try:
                return await self._probe_path(url + path)
            except Unread as failure:
                if failure.state != "unknown_format":
                    raise
                first = first or failure
        assert first is not None
        raise first

    async def _probe_path(self, address: str) -> EngineFile:
        try:
            answer = await get(self._session, address, timeout_seconds=self._timeout_seconds)
        except TryLater as failure:
            raise Unread("down", failure.reason) from None
        check_status(answer, address, ENGINES)
        parse = Exposition().parse
        large = len(answer.body) > THREAD_BYTES
        scrape = await anyio.to_thread.run_sync(parse, answer.body) if large else parse(answer.body)
        engine = classify(scrape)
        if engine is None:
            raise Unread("unknown_format", why_unknown(scrape, address, "auto", ENGINES))
        return engine

    def _refuse(self, port: int, reason: str) -> None:
        if port not in self.refused:
            log.info("port_is_no_engine", port=port, reason=reason)
        self.refused[port] = reason


def _reachable(address: Address) -> str:
    """The host part of a URL for a listening address: loopback for sockets that listen everywhere."""
    if address.is_unspecified:
        return "127.0.0.1" if address.version == 4 else "[::1]"
    return str(address) if address.version == 4 else f"[{address}]"
