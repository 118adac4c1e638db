"""The engines behind one sidecar: which of them gets a request, and the connections to each."""

from collections.abc import Collection

import anyio

from agent.clock import BillClock
from agent.sidecar.gateway.balance import Balance, Engine
from agent.sidecar.gateway.checks import Door
from agent.sidecar.gateway.settings import EngineEntry
from agent.sidecar.gateway.upstream import UpstreamPool
from agent.sidecar.settings import SidecarSettings
from agent.sidecar.sockets.addresses import host_for_engine, parse_listen, parse_upstream
from agent.sidecar.sockets.dialling import dialler


class Upstreams:
    """One pool of connections for each engine. Raises `ConfigError` for TLS files that cannot be used."""

    def __init__(self, settings: SidecarSettings, clock: BillClock) -> None:
        entries = settings.upstreams or (EngineEntry(url=settings.upstream),)
        addresses = [parse_upstream(entry.url) for entry in entries]
        listen = parse_listen(settings.listen)
        dial = dialler(settings.dial, addresses, key="sidecar.dial")
        self.engines = [
            Engine(address.name, frozenset(entry.models)) for address, entry in zip(addresses, entries, strict=True)
        ]
        self.balance = Balance(self.engines, settings.balance)
        self.pools = [
            UpstreamPool(address, dial, settings, clock, host_for_engine(settings.dial.host, address, listen))
            for address in addresses
        ]
        self.dialler = dial
        self.doors = {
            engine: Door(pool.address, pool.host or pool.authority)
            for engine, pool in zip(self.engines, self.pools, strict=True)
        }
        self.by_model = any(entry.models for entry in entries)
        header = settings.balance.sticky_header
        self.sticky_header = None if header is None else header.encode()

    @property
    def name(self) -> str:
        """What records say of requests that no engine got."""
        return self.pools[0].name

    @property
    def idle(self) -> int:
        """Number of unused open connections."""
        return sum(pool.idle for pool in self.pools)

    @property
    def error(self) -> str:
        """Why connections could not be made last; empty when they could."""
        return "; ".join(pool.error for pool in self.pools if pool.error)

    def choose(
        self, now_ns: int, exclude: Collection[Engine] = (), *, model: str | None = None, key: bytes | None = None
    ) -> Engine | None:
        """An engine, which counts as having begun a request: `balance.ended` must follow. None: there is no other."""
        return self.balance.choose(now_ns, exclude, model=model, key=key)

    async def any_reachable(self, seconds: float) -> bool:
        """Whether at least one engine takes connections now."""
        found: list[bool] = []

        async def ask(pool: UpstreamPool) -> None:
            found.append(await pool.is_reachable(seconds))

        async with anyio.create_task_group() as group:
            for pool in self.pools:
                group.start_soon(ask, pool)
        return any(found)

    def sweep(self) -> None:
        """Close what has been unused for too long."""
        for pool in self.pools:
            pool.sweep()

    def close(self) -> None:
        """Close every unused connection and keep none from now on."""
        for pool in self.pools:
            pool.close()
