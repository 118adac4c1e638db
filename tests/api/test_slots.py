import aiohttp

from agent.core.cost.present import PresentSlot
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
