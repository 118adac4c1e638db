"""The records path under kill -9 and outages, through the real processes: nothing missing, wrong, made up or twice."""

import os
import random
from pathlib import Path

import anyio
import pytest

from tests.support.crash_oracle import Answered, engine, judge, node, strike

CLIENTS = 4
SEEDS = (1,) if not os.environ.get("ENGINEROOM_LONG") else tuple(range(1, 11))
KILLS = 20


@pytest.mark.parametrize("seed", SEEDS)
async def test_fault_16_kill_9_at_random_instants_loses_nothing(tmp_path: Path, seed: int) -> None:
    answered = Answered()
    async with engine() as url, node(tmp_path, url) as here:
        async with anyio.create_task_group() as clients:
            for _ in range(CLIENTS):
                clients.start_soon(answered.ask, here.port)
            await strike(here, random.Random(seed), KILLS)
            await here.until_answered(answered, len(answered.at_ns) + 20)  # fresh ones arrive after the last fault
            answered.stopped = True
        await here.until_delivered()
        accepted, accounted = await here.identity() or (0, 1)
        assert accepted == accounted > 0
        assert await here.sidecar.stop() == 0
        assert await here.agent.stop() == 0
        verdict = judge(here, answered)
    print(f"seed {seed}: {len(here.sidecar.kills)} + {len(here.agent.kills)} kills, {answered.sent} sent, {verdict}")
    assert verdict.obliged > 100
    assert (verdict.missing, verdict.corrupted, verdict.spurious, verdict.twice) == ([], [], [], [])


async def test_an_agent_that_was_away_for_long_gets_everything_in_order_and_once(tmp_path: Path) -> None:
    """An hour of traffic at one request a second, made in less time: what counts is the number of events."""
    answered = Answered()
    async with engine() as url, node(tmp_path, url) as here:
        await here.agent.kill()
        async with anyio.create_task_group() as clients:
            for _ in range(CLIENTS):
                clients.start_soon(answered.ask, here.port)
            await here.until_answered(answered, 3600)
            answered.stopped = True
        assert await here.metric('engineroom_delivery_up{destination="agent",stream="records"}') == 0
        # The newest of them may not be durable yet.
        assert (await here.metric('engineroom_delivery_waiting_items{stream="records"}') or 0) > 3500
        await here.agent.start()
        await here.until_delivered()
        assert await here.metric('engineroom_sidecar_events_dropped_total{event="end"}') == 0
        assert await here.agent.stop() == 0
        assert await here.sidecar.stop() == 0
        verdict = judge(here, answered)
    assert verdict.obliged >= 3600
    assert (verdict.missing, verdict.corrupted, verdict.spurious, verdict.twice) == ([], [], [], [])
