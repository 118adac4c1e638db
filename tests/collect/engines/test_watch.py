"""All engines of a node: each in its own cycle, found ones beside configured ones, and gone ones forgotten."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest

from agent.collect.engines.settings import EngineSettings, EnginesSettings
from agent.collect.engines.targets import EngineTarget
from agent.collect.engines.watch import EngineWatch
from agent.core.catalogue import BY_NAME
from agent.core.metrics.samples import Sample
from agent.core.readings import EngineSnapshot
from agent.lifecycle import Health, running
from tests.support.engine_scrape import LLAMA_PAGE, VLLM_PAGE
from tests.support.http import ToldServer, answer, held, told_server


@dataclass
class Heard:
    """What the watch told, and a way to wait for more."""

    last: dict[str, EngineSnapshot] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)
    told: int = 0
    changed: anyio.Event = field(default_factory=anyio.Event)

    def on_snapshot(self, snapshot: EngineSnapshot, _raw: tuple[Sample, ...]) -> None:
        self.told += 1
        self.last[snapshot.status.engine] = snapshot
        self._wake()

    def on_gone(self, name: str) -> None:
        self.gone.append(name)
        self._wake()

    def _wake(self) -> None:
        self.changed.set()
        self.changed = anyio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        with anyio.fail_after(20):
            while not condition():
                await self.changed.wait()


@dataclass
class Watching:
    watch: EngineWatch
    heard: Heard
    health: Health

    def found(self, **how: object) -> None:
        self.watch.found(EngineTarget(found_by="process", interval_seconds=0.5, **how))  # type: ignore[arg-type]


@asynccontextmanager
async def watching(*targets: EngineSettings) -> AsyncIterator[Watching]:
    """A watch that finds nothing by itself."""
    heard, health = Heard(), Health()
    settings = EnginesSettings(targets=targets, discover=False)
    watch = EngineWatch(settings, heard.on_snapshot, health, on_gone=heard.on_gone, proc=Path("/nowhere"))
    async with running() as group:
        await group.start(watch.run)
        yield Watching(watch, heard, health)


def settings_of(server: ToldServer, name: str) -> EngineSettings:
    return EngineSettings(name=name, url=server.url, interval_seconds=0.5)


async def test_each_target_has_its_own_cycle_and_a_dead_one_disturbs_nobody() -> None:
    async with told_server({"/metrics": answer(VLLM_PAGE)}) as server:
        dead = EngineSettings(name="dead", url="http://127.0.0.1:9", interval_seconds=0.5)
        async with watching(settings_of(server, "good"), dead) as w:
            await w.heard.until(lambda: len(w.heard.last) == 2)
    assert w.heard.last["good"].status.state == "ready"
    assert w.heard.last["good"].readings
    assert w.heard.last["dead"].status.state == "down"
    assert w.heard.last["dead"].readings == ()
    assert set(w.health.cycles) == {"engine good", "engine dead"}


async def test_fifty_engines_at_once_of_which_some_hang() -> None:
    async with told_server({"/metrics": answer(VLLM_PAGE)}) as server, told_server({"/metrics": held}) as silent:
        targets = [
            EngineSettings(
                name=f"e{n}", url=silent.url if n % 10 == 0 else server.url, kind="vllm", interval_seconds=1,
                timeout_seconds=0.5,
            )
            for n in range(50)
        ]  # fmt: skip
        async with watching(*targets) as w:
            await w.heard.until(lambda: len(w.heard.last) == 50 and w.heard.told >= 150)
    states = [w.heard.last[f"e{n}"].status.state for n in range(50)]
    assert [n for n, state in enumerate(states) if state == "ready"] == [n for n in range(50) if n % 10]
    assert all(cycle.failures == 0 for cycle in w.health.cycles.values())


async def test_found_beside_configured_and_forgotten_when_gone() -> None:
    async with (
        told_server({"/metrics": answer(VLLM_PAGE)}) as server,
        told_server({"/metrics": answer(LLAMA_PAGE)}) as other,
        watching(settings_of(server, "mine")) as w,
    ):
        w.found(url=server.url, name="10.0.0.1:8000", kind="vllm")  # the configured one: it stands as configured
        w.found(url=other.url, name="theirs", kind="llamacpp")
        await w.heard.until(lambda: len(w.heard.last) == 2)
        assert set(w.heard.last) == {"mine", "theirs"}
        assert w.heard.last["theirs"].status.found_by == "process"

        w.watch.gone("theirs")
        assert w.heard.gone == ["theirs"]
        del w.heard.last["theirs"]
        told = w.heard.told
        await w.heard.until(lambda: w.heard.told >= told + 3)
        assert set(w.heard.last) == {"mine"}
        assert set(w.health.cycles) == {"engine mine"}
        w.watch.gone("10.0.0.1:8000")
        w.watch.gone("mine")  # discovery had it under the name that was configured, too
        assert w.heard.gone == ["theirs"]
        told = w.heard.told
        await w.heard.until(lambda: w.heard.told > told)


async def test_facts_that_change_reach_the_status_and_a_life_goes_on() -> None:
    async with told_server({"/metrics": answer(LLAMA_PAGE)}) as server, watching() as w:

        def told(pid: int, group: str = "") -> bool:
            status = w.heard.last["e"].status if "e" in w.heard.last else None
            return status is not None and (status.pids, status.group) == ((pid,), group)

        w.found(url=server.url, name="e", kind="llamacpp", pids=(1,), started_at_ns=10**9)
        await w.heard.until(lambda: told(1))
        w.found(url=server.url, name="e", kind="llamacpp", pids=(1,), started_at_ns=10**9, group="10.0.0.1:29500")
        await w.heard.until(lambda: told(1, "10.0.0.1:29500"))
        assert w.heard.last["e"].status.restarts == 0
        w.watch.gone("e")
        w.found(url=server.url, name="e", kind="llamacpp", pids=(2,), started_at_ns=90 * 10**9)
        await w.heard.until(lambda: told(2))
        assert w.heard.last["e"].status.restarts == 1


async def test_a_found_engine_with_the_name_of_another_gets_more_words() -> None:
    async with (
        told_server({"/metrics": answer(VLLM_PAGE)}) as server,
        told_server({"/metrics": answer(LLAMA_PAGE)}) as other,
        watching(settings_of(server, "chat")) as w,
    ):
        w.found(url=other.url, name="chat", kind="llamacpp")
        await w.heard.until(lambda: len(w.heard.last) == 2)
        shown = f"chat (127.0.0.1:{other.port})"
        assert w.heard.last[shown].status.kind == "llamacpp"
        assert w.heard.last["chat"].status.kind == "vllm"
        w.watch.gone("chat")
        assert w.heard.gone == [shown]


async def test_how_engines_are_read_is_told_under_the_names_of_the_catalogue() -> None:
    page = answer(LLAMA_PAGE + b"broken line here\n")
    async with told_server({"/metrics": page}) as server, watching(settings_of(server, "e")) as w:
        w.found(name="worker", kind="vllm", part="worker", pids=(1,))
        await w.heard.until(lambda: len(w.heard.last) == 2)
        samples = {repr(sample.key): sample.value for sample in w.watch.samples("n")}
        for sample in w.watch.samples("n"):
            assert {name for name, _ in sample.key.labels} <= set(BY_NAME[sample.key.name].labels)
    assert samples['engineroom_engine_scrapes_total{engine="e",node="n",result="ok"}'] >= 1
    assert samples['engineroom_engine_page_problems{engine="e",node="n"}'] == 1
    assert samples['engineroom_engines{found_by="config",node="n"}'] == 1
    assert samples['engineroom_engines{found_by="process",node="n"}'] == 1
    assert not [key for key in samples if "scrapes_total" in key and "worker" in key]


@pytest.mark.parametrize("discover", [True, False])
async def test_discovery_runs_beside_targets_if_it_is_wanted(discover: bool) -> None:
    heard, health = Heard(), Health()
    async with told_server({"/metrics": answer(VLLM_PAGE)}) as server:
        settings = EnginesSettings(targets=(settings_of(server, "e"),), discover=discover)
        watch = EngineWatch(settings, heard.on_snapshot, health, proc=Path("/nowhere"))
        async with running() as group:
            await group.start(watch.run)
            await heard.until(lambda: bool(heard.last))
            assert ("discovery" in health.cycles) == discover
            assert (watch.discovery is not None) == discover
    assert watch.taken() == {f"127.0.0.1:{server.port}"}
