"""A ledger file that is opened at a known instant, filled by hand or lived through, and looked into."""

import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

from sqlalchemy import Table, select

from agent.ledger.ids import to_key
from agent.ledger.ledger import Ledger
from agent.ledger.schema import Where, connect, migrate
from agent.ledger.settled import Figures, unpack
from agent.ledger.tables import MINUTE, entries, places, settled_requests
from agent.runners.settlement import Settlement
from tests.support.money import NS, HandClock, Sidecar, book, engine, gpus, record

T0 = 1_800_000_000 * NS  # a full minute


async def opened(
    path: Where, *, unix: int = T0, boot: int = 1000, boot_name: str = "boot-1", time_zone: str = "UTC"
) -> Ledger:
    clocks = {"unix": lambda: unix, "boot": lambda: boot, "boot_name": lambda: boot_name}
    return await Ledger.open(path, "node-a", time_zone=time_zone, **clocks)


@functools.cache
def _migrated() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite"
        made = connect(path)
        migrate(made, path)
        made.dispose()
        return path.read_bytes()


async def fresh(folder: Path) -> Ledger:
    """An empty ledger in a folder made for it, quickly: for properties that need one for each example."""
    return await opened(_place(folder))


def _place(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    path = folder / "ledger.sqlite"
    path.write_bytes(_migrated())
    return path


def rows(ledger: Ledger, table: Table) -> list[dict[str, Any]]:
    """Every row of a table, as it is on disk, in the order of its key."""
    with ledger._reader.begin() as connection:
        found = connection.execute(select(table).order_by(*table.primary_key.columns))
        return [dict(row) for row in found.mappings()]


def booked(ledger: Ledger, grain: int = MINUTE) -> list[dict[str, Any]]:
    """Entries of a grain with the names of their places, in the order of time and place."""
    with ledger._reader.begin() as connection:
        question = select(entries, places).join_from(entries, places, entries.c.place == places.c.id)
        found = connection.execute(question.where(entries.c.grain == grain).order_by(entries.c.minute, entries.c.place))
        return [dict(row) for row in found.mappings()]


def settled(ledger: Ledger, request_id: str) -> Figures | None:
    """What is kept of a settled request."""
    row = next((row for row in rows(ledger, settled_requests) if row["id"] == request_id), None)
    return None if row is None else unpack(to_key(request_id), row["gpu_ns"], row["figures"])


async def lived(ledger: Ledger, clock: HandClock, seconds: int, sidecar: Sidecar | None = None) -> Settlement:
    """Two GPUs, an engine on the first; a request of half a second at each second, if there is a sidecar."""
    settlement = Settlement(ledger, book(), "node-a", clock)
    for second in range(seconds):
        now = clock.at_ns
        settlement.observe_gpus(gpus(now, 2))
        settlement.observe_engine(engine(now))
        if sidecar is not None:
            tenant = ("acme", "zeta")[second % 2]
            ended = record(f"{sidecar.epoch}-{second}", now - NS // 2, now, tenant=tenant)
            await settlement.accept(sidecar.batch(now, sidecar.end(ended)))
        await settlement.step()
        clock.at_ns += NS
    await settlement.drain()
    return settlement
