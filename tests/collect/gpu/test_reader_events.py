"""The real reader process hears events of a C library: structs as the driver fills them, waits without the GIL."""

from pathlib import Path

import pytest

from agent.core.gpu_readings import XidEvent
from agent.demo.gpus.control import SimulatedEvent
from tests.support.nvml.watch import watching

pytestmark = pytest.mark.component("cc")


def mapped(pid):
    try:
        return "libnvidia-ml" in Path(f"/proc/{pid}/maps").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_errors_of_gpus(c_library):
    library = c_library()
    async with watching(environment=library.environment) as watch:
        await watch.until(lambda s: bool(s.events_watched))
        told = [
            SimulatedEvent(number=1, gpu=3, xid=79),
            SimulatedEvent(number=2, gpu=3, xid=79),
            SimulatedEvent(number=3, gpu=4, xid=94, gpu_instance=2, compute_instance=1),
            SimulatedEvent(number=4, gpu=0, kind="ecc_double_bit"),
        ]
        library.wants(events=told)
        await watch.until(lambda s: sum(s.events_seen.values()) == 4)
        await watch.until(lambda s: s.events_problem == "")
    gpus = watch.snapshots[-1].gpus
    found = [event for snapshot in watch.snapshots for event in snapshot.xids]
    counts = {}
    for event in found:
        key = (event.uuid, event.xid, event.gpu_instance, event.compute_instance)
        counts[key] = counts.get(key, 0) + event.count
    assert counts == {(gpus[3].uuid, 79, None, None): 2, (gpus[4].uuid, 94, 2, 1): 1}
    assert isinstance(found[0], XidEvent)
    assert all(event.at_ns in {snapshot.read_at_ns for snapshot in watch.snapshots} for event in found)


async def test_a_lost_gpu_does_not_silence_the_others(c_library):
    library = c_library()
    async with watching(environment=library.environment) as watch:
        await watch.until(lambda s: bool(s.events_watched))
        library.wants(lost=[3])
        await watch.states({3: "lost", 2: "ok"})
        await watch.until(lambda s: bool(s.events_watched))
        library.wants(lost=[3], events=[SimulatedEvent(number=1, gpu=2, xid=31)])
        heard = await watch.until(lambda s: bool(s.xids))
        assert heard.xids[0].uuid == heard.gpus[2].uuid


async def test_an_unbind_ends_the_process_that_has_the_library(c_library):
    library = c_library()
    async with watching(environment=library.environment) as watch:
        await watch.until(lambda s: bool(s.events_watched))
        pid = watch.reader.pid
        assert mapped(pid)
        library.wants(events=[SimulatedEvent(number=1, kind="driver_unbind")])
        await watch.until(lambda s: s.driver == "restarting" and watch.reader.pid is None)
        assert not mapped(pid)


@pytest.mark.parametrize(
    ("missing", "watched"),
    [
        (("nvmlSystemEventSetCreate",), True),
        (("nvmlEventSetCreate",), None),
        (("nvmlDeviceGetSupportedEventTypes",), None),
    ],
)
async def test_a_driver_that_lacks_events(c_library, missing, watched):
    library = c_library(missing=missing)
    async with watching(environment=library.environment) as watch:
        found = await watch.until(lambda s: s.driver == "ok" and s.events_watched is watched)
        assert found.gpus[0].state == "ok"
