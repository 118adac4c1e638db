"""kill -9 of a sidecar under load, through the real processes: every request has exactly one end in the ledger."""

import os
import random
from pathlib import Path

import anyio
import pytest

from tests.support.crash_oracle import Answered, node
from tests.support.lost_oracle import account, noting_engine

CLIENTS = 8
KILLS = 40 if os.environ.get("ENGINEROOM_LONG") else 6


@pytest.mark.parametrize("seed", [3])
async def test_every_request_of_a_killed_sidecar_ends_in_the_ledger_exactly_once(tmp_path: Path, seed: int) -> None:
    answered, dice, seen = Answered(), random.Random(seed), {}
    async with noting_engine(seen) as url, node(tmp_path, url) as here:
        async with anyio.create_task_group() as clients:
            for _ in range(CLIENTS):
                clients.start_soon(answered.ask, here.port)
            for _ in range(KILLS):
                await here.until_answered(answered, len(answered.at_ns) + dice.randint(1, 60))
                await here.sidecar.kill()
                await here.sidecar.start()
            await here.until_answered(answered, len(answered.at_ns) + 20)
            answered.stopped = True
        await here.until_delivered()
        dropped = await here.metric('engineroom_sidecar_events_dropped_total{event="end"}')
        assert await here.sidecar.stop() == 0
        assert await here.agent.stop() == 0
        found = account(here.folder / "data" / "ledger.sqlite", seen)
    print(f"{KILLS} kills, {answered.sent} sent, {len(seen)} reached the engine: {found}")
    assert dropped == 0
    assert (found.missing, found.open, found.wrong, found.made_up) == ([], [], [], [])
    assert found.lost >= KILLS
    assert len(seen) <= found.recorded + found.lost <= answered.sent
