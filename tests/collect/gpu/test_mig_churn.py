"""Layouts, processes and faults that change at random while a GPU is read: never a crash, never a dead instance."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.demo.gpus import machine
from agent.demo.gpus.mig import placement_start
from tests.support.mig_bench import SEVEN, held, mig_bench, part

# GPU instance ids that go with each profile of the simulated H100.
PLACES = {
    "1g.10gb": range(7, 14),
    "1g.20gb": range(3, 7),
    "2g.20gb": range(3, 6),
    "3g.40gb": (1, 2),
    "4g.40gb": (1,),
    "7g.80gb": (0,),
}
FUNCTIONS = [
    "nvmlDeviceGetMigMode",
    "nvmlDeviceGetMigDeviceHandleByIndex",
    "nvmlDeviceGetUUID",
    "nvmlDeviceGetAttributes_v2",
    "nvmlDeviceGetMemoryInfo_v2",
    "nvmlDeviceGetComputeRunningProcesses_v3",
    "nvmlDeviceGetProcessUtilization",
    "nvmlGpmSampleGet",
    "nvmlGpmMigSampleGet",
    "nvmlGpmMetricsGet",
    "nvmlGpmSampleAlloc",
    "nvmlGpmSampleFree",
]
CODES = [2, 3, 4, 6, 7, 13, 15, 17, 19, 25, 999]

processes = st.lists(
    st.builds(held, st.integers(1, 9), st.integers(0, 50_000), kind=st.sampled_from(["compute", "graphics", "mps"])),
    max_size=3,
    unique_by=lambda process: process.pid,
)


@st.composite
def layouts(draw):
    """MIG off, or GPU instances that do not overlap, some of them in two compute instances."""
    if draw(st.integers(0, 9)) == 0:
        return None
    taken, wanted = set(), []
    for _ in range(draw(st.integers(0, 7))):
        profile = draw(st.sampled_from(sorted(PLACES)))
        number = draw(st.sampled_from(list(PLACES[profile])))
        size = 8 if number == 0 else 4 if number < 3 else 2 if number < 7 else 1
        room = set(range(placement_start(number), placement_start(number) + size))
        if room & taken:
            continue
        taken |= room
        load = draw(st.floats(0, 1))
        if profile[0] == "3" and draw(st.booleans()):
            wanted.append(part(f"1c.{profile}", number, 0, load=load, processes=draw(processes)))
            wanted.append(part(f"2c.{profile}", number, 1, load=load, processes=draw(processes)))
        else:
            wanted.append(part(profile, number, load=load, processes=draw(processes)))
    return draw(st.permutations(wanted))


faults = st.dictionaries(
    st.sampled_from(FUNCTIONS), st.builds(lambda code: {"*": code}, st.sampled_from(CODES)), max_size=2
)
settled = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


def check(gpu, bench, buffers=2 * (1 + 7)):
    assert gpu.state in ("ok", "error", "lost")
    activities = [gpu.activity, *(one.activity for one in gpu.mig or ())]
    for activity in filter(None, activities):
        ratios = [getattr(activity, name) for name in activity.__struct_fields__]
        assert all(ratio is None or 0 <= ratio <= 1 for ratio in ratios)
    places = [(one.gpu_instance, one.compute_instance) for one in gpu.mig or ()]
    assert len(set(places)) == len(places)
    inside = {process.pid for one in gpu.mig or () for process in one.processes or ()}
    assert gpu.mig is None or not {process.pid for process in gpu.processes or ()} & inside
    for one in gpu.mig or ():
        assert one.memory_used_bytes is None or one.memory_used_bytes <= one.memory_total_bytes
    assert len(bench.node.gpm_samples) <= buffers


def shown(gpu):
    return [(one.uuid, one.profile, one.index) for one in gpu.mig] if gpu.mig is not None else None


def there(bench):
    devices = bench.node.gpus[0].mig.devices
    return None if devices is None else [(one.uuid, one.name, index) for index, one in enumerate(devices)]


@settled
@given(st.lists(st.tuples(layouts(), st.integers(1, 14)), min_size=1, max_size=6))
def test_the_driver_says_when_it_changes(steps):
    with mig_bench() as bench:
        for layout, seconds in steps:
            bench.control(mig={"0": layout}, load={"0": 0.5})
            bench.devices[0].reconfigured()
            for _ in range(seconds):
                gpu = bench.read()
                check(gpu, bench)
                assert shown(gpu) == there(bench)
                assert all(one.memory_total_bytes for one in gpu.mig or ())


@pytest.mark.parametrize("architecture", [8, 9])
@settled
@given(steps=st.lists(layouts(), min_size=1, max_size=6))
def test_nobody_says_when_it_changes(architecture, steps):
    recorded = machine.load("h100mig")
    recorded = replace(recorded, gpus=(replace(recorded.gpus[0], architecture=architecture),))
    with mig_bench(recorded) as bench:
        for layout in steps:
            bench.control(mig={"0": layout})
            gpu = bench.read(11)  # one second more than the slow tier
            check(gpu, bench)
            assert {name[:2] for name in shown(gpu) or ()} <= {name[:2] for name in there(bench) or ()}
        gpu = bench.read(60)
        assert shown(gpu) == there(bench)


@settled
@given(st.lists(st.tuples(layouts(), faults, st.integers(1, 14), st.booleans()), min_size=1, max_size=6))
def test_while_calls_fail(steps):
    # What cannot be given back stays with the driver.
    leaking = any("nvmlGpmSampleFree" in returns for _, returns, *_ in steps)
    buffers = 10_000 if leaking else 2 * (1 + 7)
    with mig_bench() as bench:
        for layout, returns, seconds, lost in steps:
            bench.control(mig={"0": layout}, returns=returns, lost=[0] if lost else [])
            for _ in range(seconds):
                check(bench.read(), bench, buffers)
        bench.control(mig={"0": SEVEN})
        bench.devices[0].reconfigured()
        bench.read(75)
        gpu = bench.read()
        check(gpu, bench, buffers)
        assert gpu.state == "ok"
        for device in bench.devices:
            device.close()
        assert leaking or len(bench.node.gpm_samples) == 0
