"""Whose money it was, through the real processes: a real engine, four tenants, traffic past the sidecar, kill -9."""

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from tests.support.money_node import PRICE_PER_HOUR, TENANTS, MoneyNode, identity, money_node, witness

BYPASS_ERROR = 0.02
KILLS = 50 if os.environ.get("ENGINEROOM_LONG") else 10


async def traffic(node: MoneyNode, rounds: int) -> None:
    """Each tenant asks `rounds` times, with lengths of its own; who has no tenant goes past the sidecar."""

    async def client(tenant: str, tokens: int) -> None:
        for _ in range(rounds):
            await node.ask(tenant, tokens, f"{tenant or 'nobody'} asks")

    async with anyio.create_task_group() as clients:
        for place, tenant in enumerate((*TENANTS, "")):
            clients.start_soon(client, tenant, 20 + 15 * place)


@pytest.fixture
def training() -> "Iterator[subprocess.Popen[bytes]]":
    """A process that is no engine; the simulated driver shows it on a GPU."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


async def test_four_tenants_and_somebody_past_the_sidecar_pay_the_whole_bill(
    tmp_path: Path, training: "subprocess.Popen[bytes]"
) -> None:
    async with money_node(tmp_path, training=training.pid) as node:
        await traffic(node, 12)
        prices = await node.settled()

        async def bypass_is_booked() -> bool:
            rows = await node.rows("state")
            found: int = rows.get(("unattributed",), {}).get("output_tokens", 0)
            return found >= (1 - BYPASS_ERROR) * past

        past = node.told.output_tokens[""]
        await node.until(bypass_is_booked, f"{past} tokens that went past the sidecar are found")
        await identity(node)

        rows = await node.rows("tenant,state")
        for tenant in TENANTS:
            row = rows[tenant, "request"]
            assert row["requests"] == node.told.requests[tenant]
            assert row["output_tokens"] == node.told.output_tokens[tenant]
            assert row["input_tokens"] == node.told.input_tokens[tenant]
        found = rows["", "unattributed"]["output_tokens"]
        assert abs(found - past) <= BYPASS_ERROR * past

        for tenant in TENANTS:
            own = sum(nano or 0 for request, nano in prices.items() if node.told.ids[request] == tenant)
            assert own == rows[tenant, "request"]["cost_nano"] > 0

        of_gpus = await node.rows("gpu,state,tenant")
        busy = {gpu for gpu, state, _ in of_gpus if state == "request"}
        trained = {gpu for gpu, state, _ in of_gpus if state == "other_workload"}
        assert len(busy) == len(trained) == 1
        assert busy.isdisjoint(trained)
        window = await node.closed()
        usage, spread = [
            {key: row["cost_nano"] for key, row in (await node.rows("tenant,state", window=window, **more)).items()}
            for more in ({}, {"basis": "allocation", "idlePolicy": "node"})
        ]
        assert sum(usage.values()) == sum(spread.values())
        assert usage["", "other_workload"] == spread["", "other_workload"], "training is nobody's waste"
        assert {state for _, state in spread} == {"request", "unattributed", "other_workload"}


async def test_kill_9_under_load_loses_no_request_charges_none_twice_and_shows_the_gap(tmp_path: Path) -> None:
    async with money_node(tmp_path) as node:
        stopped = anyio.Event()

        async def client(tenant: str) -> None:
            while not stopped.is_set():
                await node.ask(tenant, 150)

        async with anyio.create_task_group() as clients:
            for tenant in TENANTS:
                clients.start_soon(client, tenant)
            await node.booked()
            await node.strike(random.Random(7), KILLS)
            await node.ready()
            stopped.set()
        prices = await node.settled()
        await identity(node)
        rows = await node.rows("tenant,state")
        for tenant in TENANTS:
            assert rows[tenant, "request"]["requests"] == node.told.requests[tenant]
            assert rows[tenant, "request"]["output_tokens"] == node.told.output_tokens[tenant]
            # What ran while nobody watched has no price: its time is in the gap.
            own = sum(nano or 0 for request, nano in prices.items() if node.told.ids[request] == tenant)
            assert own == rows[tenant, "request"]["cost_nano"]
        assert rows["", "gap"]["gpu_ns"] > 0, rows
        assert len(node.agent.kills) == KILLS


def test_the_witness_knows_a_price_and_a_time() -> None:
    hour = 3600 * 10**9
    assert witness(PRICE_PER_HOUR, 5, 5 + hour) == 13_370_000_000
