import aiohttp
from msgspec.structs import replace

from agent.core.cost.present import PresentSlot
from agent.core.readings import EngineSnapshot, EngineStatus
from agent.core.workloads import Workload
from tests.support.api import node, served

SLOT = PresentSlot(
    gpu="GPU-1",
    index=0,
    slot="MIG-1",
    kind="mig",
    profile="3g.40gb",
    weight=3,
    weights=7,
    state="allocated_idle",
    reason="held_no_process",
    holders=(Workload(namespace="lab", pod="notebook-0", container="jupyter"),),
    memory_total_bytes=40 * 2**30,
    memory_free_bytes=40 * 2**30,
    stranded_bytes=40 * 2**30,
    stranded_cause="held_free",
)


async def test_what_is_known_of_each_slot() -> None:
    async with (
        served(node(slots=lambda: [SLOT])) as address,
        aiohttp.ClientSession(address) as session,
        session.get("/api/v1/slots") as answer,
    ):
        assert answer.status == 200
        (found,) = await answer.json()
    assert found["share_ratio"] == 3 / 7
    assert found["holders"] == [{"namespace": "lab", "pod": "notebook-0", "container": "jupyter", "job": ""}]
    assert (found["state"], found["reason"], found["stranded_cause"]) == (
        "allocated_idle",
        "held_no_process",
        "held_free",
    )


async def test_a_slot_of_an_engine_that_is_one_of_several() -> None:
    status = EngineStatus(engine="decode", kind="vllm", url="", state="ready", role="decode", service="chat")
    slot = replace(SLOT, state="loaded_idle", reason="process", engines=("decode", "gone"), groups=("10.0.0.1:29500",))
    services = node(slots=lambda: [slot, SLOT])
    services.board.engines["decode"] = EngineSnapshot(status=status)
    async with (
        served(services) as address,
        aiohttp.ClientSession(address) as session,
        session.get("/api/v1/slots") as answer,
    ):
        found = await answer.json()
    names = ("engines", "groups", "roles", "services")
    assert [[one[name] for name in names] for one in found] == [
        [["decode", "gone"], ["10.0.0.1:29500"], ["decode"], ["chat"]],
        [[], [], [], []],
    ]
