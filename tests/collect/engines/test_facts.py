"""What is known of an engine's processes: from discovery, or from who listens at a configured address."""

import os
from pathlib import Path

import pytest

from agent.clock import NS, unix_ns
from agent.collect.engines.facts import EngineFacts
from agent.collect.engines.ports_of import PortOwners
from agent.collect.engines.targets import EngineTarget
from agent.core.workloads import Workload
from tests.support.child import child
from tests.support.http import told_server

POD = Workload(namespace="n", pod="p")


async def test_of_a_found_engine_the_target_says_it() -> None:
    with child() as process:
        target = EngineTarget(
            url="http://127.0.0.1:1",
            found_by="process",
            pids=(process.pid,),
            workload=POD,
            group="10.0.0.1:29500",
            nodes=2,
            node_rank=1,
            role="decode",
        )
        facts = EngineFacts(PortOwners(Path("/nowhere")))
        found = await facts.of(target, answers=True)
        assert (found.pids, found.workload, found.group) == ((process.pid,), POD, "10.0.0.1:29500")
        assert (found.nodes, found.node_rank, found.role, found.part) == (2, 1, "decode", "server")
        assert found.started_at_ns is not None
        assert 0 <= unix_ns() - found.started_at_ns < 60 * NS
        process.kill()
        process.wait()
        gone = await facts.of(target, answers=False)
        assert (gone.pids, gone.started_at_ns, gone.group) == ((), None, "10.0.0.1:29500")


async def test_of_a_configured_one_who_listens_does() -> None:
    facts = EngineFacts(PortOwners())
    async with told_server() as server:
        target = EngineTarget(url=server.url)
        found = await facts.of(target, answers=True)
        assert os.getpid() in found.pids
        assert found.started_at_ns is not None
        assert await facts.kind(target) == ""  # pytest is no engine
    # Nobody listens any more, and the process is still there.
    assert os.getpid() in (await facts.of(target, answers=False)).pids


async def test_one_that_works_for_another_engine_has_none() -> None:
    async with told_server() as server:
        target = EngineTarget(url=server.url, found_by="process")
        assert (await EngineFacts(PortOwners()).of(target, answers=True)).pids == ()


@pytest.mark.parametrize("seconds", [-5, 5])
async def test_a_start_that_is_told_is_not_looked_up(seconds: int) -> None:
    at = unix_ns() + seconds * NS
    target = EngineTarget(pids=(os.getpid(),), started_at_ns=at)
    found = await EngineFacts(PortOwners(Path("/nowhere"))).of(target, answers=False)
    assert found.started_at_ns == at
