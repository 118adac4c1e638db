from pathlib import Path

import anyio

from agent.collect.engines import EngineWatch
from agent.collect.settings import EngineSettings, EnginesSettings
from agent.core.metrics.samples import Sample
from agent.core.readings import EngineSnapshot
from agent.lifecycle import Health, running
from tests.support.http import answer, told_server

PAGE = (Path(__file__).parents[1] / "engines/vllm/0.33.0/metrics.prom").read_bytes()


async def test_each_target_has_its_own_cycle_and_a_dead_one_disturbs_nobody() -> None:
    seen: dict[str, EngineSnapshot] = {}
    both = anyio.Event()

    def on_snapshot(snapshot: EngineSnapshot, _raw: tuple[Sample, ...]) -> None:
        seen[snapshot.status.engine] = snapshot
        if len(seen) == 2:
            both.set()

    health = Health()
    async with told_server({"/metrics": answer(PAGE)}) as server:
        targets = (
            EngineSettings(name="good", url=server.url, interval_seconds=0.5),
            EngineSettings(name="dead", url="http://127.0.0.1:9", interval_seconds=0.5),
        )
        with anyio.fail_after(10):
            async with running() as group:
                group.start_soon(EngineWatch(EnginesSettings(targets=targets), on_snapshot, health).run)
                await both.wait()
    assert seen["good"].status.state == "ready"
    assert seen["good"].readings
    assert seen["dead"].status.state == "down"
    assert seen["dead"].readings == ()
    assert "discovery" not in health.cycles
