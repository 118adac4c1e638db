"""Processes of a GPU and of its MIG devices in a reading."""

import ctypes

import pytest

from tests.support.mig_bench import MIB, SEVEN, held, mig_bench, part


@pytest.fixture
def bench():
    with mig_bench() as bench:
        yield bench


@pytest.fixture
def whole():
    with mig_bench("h100x8") as bench:
        yield bench


def test_the_busy_process_and_those_that_idle(whole):
    idle = [held(21, 2296, sm_ratio=0.0), held(22, 1272, sm_ratio=0.0)]
    whole.control(load={"0": 0.99}, processes={"0": [*idle, held(23, 7484, sm_ratio=0.99)]})
    found = whole.read(11).processes
    assert [(one.pid, one.sm_utilization_ratio) for one in found] == [(21, None), (22, None), (23, 0.99)]
    assert found[2].memory_used_bytes == 7484 * MIB


def test_work_in_bursts_is_its_mean_over_the_time(whole):
    whole.read()
    for second in range(10):
        whole.control(load={"0": float(second % 2)}, processes={"0": [held(7)]})
        gpu = whole.read()
    assert gpu.processes[0].sm_utilization_ratio == pytest.approx(0.5, abs=0.06)


def test_processes_that_share_a_gpu(whole):
    whole.control(load={"0": 0.6}, processes={"0": [held(1, sm_ratio=0.4), held(2), held(3, kind="mps")]})
    found = whole.read(11).processes
    assert [one.kind for one in found] == ["compute", "compute", "mps"]
    assert [one.sm_utilization_ratio for one in found] == pytest.approx([0.4, 0.1, 0.1])


def test_a_gpu_with_nothing_on_it_is_not_asked_for_samples(whole):
    assert whole.read(11).processes == ()
    assert whole.count("ProcessUtilization") == 0


def test_a_driver_without_samples(whole):
    whole.control(load={"0": 1.0}, processes={"0": [held(1)]}, returns={"nvmlDeviceGetProcessUtilization": {"0": 3}})
    (process,) = whole.read(30).processes
    assert process.sm_utilization_ratio is None
    assert whole.count("ProcessUtilization") == 1


def test_a_process_cannot_hold_more_than_there_is(whole):
    whole.control(processes={"0": [held(1, 100_000)], "1": []})
    (process,) = whole.read().processes
    assert process.memory_used_bytes is None


def test_the_parent_lists_them_for_all_its_devices(bench):
    bench.control(mig={"0": SEVEN})
    gpu = bench.read()
    assert [[one.pid for one in device.processes] for device in gpu.mig] == [[100 + n] for n in range(7)]
    assert gpu.processes == ()  # none is outside of the devices, and none is counted twice
    assert gpu.processes_read_at_ns == gpu.read_at_ns
    assert bench.count("RunningProcesses") == 3


def test_compute_instances_have_their_own(bench):
    parts = [part("1c.3g.40gb", 2, 0), part("2c.3g.40gb", 2, 1, processes=[held(5), held(6)])]
    bench.control(mig={"0": parts})
    first, second = bench.read().mig
    assert (first.processes, [one.pid for one in second.processes]) == ((), [5, 6])


def test_no_sm_utilisation_inside_a_device(bench):
    bench.control(mig={"0": SEVEN})
    assert bench.read(11).mig[3].processes[0].sm_utilization_ratio is None
    assert bench.count("ProcessUtilization") == 0


def test_where_the_parent_refuses_the_devices_are_asked(bench):
    genuine = bench.library.nvmlDeviceGetComputeRunningProcesses_v3
    gpu_handle = 1

    def only_devices(handle, count, out):
        return 4 if ctypes.cast(handle, ctypes.c_void_p).value == gpu_handle else genuine(handle, count, out)

    for kind in ("Compute", "Graphics", "MPSCompute"):
        setattr(bench.library, f"nvmlDeviceGet{kind}RunningProcesses_v3", only_devices)
        setattr(bench.library, f"nvmlDeviceGet{kind}RunningProcesses_v2", only_devices)
    bench.control(mig={"0": [*SEVEN[:2], part("1g.10gb", 9)]})
    gpu = bench.read()
    assert gpu.processes is None
    assert [[one.pid for one in device.processes] for device in gpu.mig] == [[100], [101], []]


def test_without_rights_they_are_not_known(bench):
    bench.control(mig={"0": SEVEN}, mig_rights=False)
    gpu = bench.read(12)
    assert gpu.processes is None
    assert {device.processes for device in gpu.mig} == {None}
    assert None not in {device.memory_used_bytes for device in gpu.mig}
    assert "nvmlDeviceGetComputeRunningProcesses_v3" in bench.calls.forbidden


def test_a_process_in_an_instance_that_is_not_shown(bench):
    bench.control(mig={"0": SEVEN})
    genuine = bench.library.nvmlDeviceGetMigDeviceHandleByIndex
    bench.library.nvmlDeviceGetMigDeviceHandleByIndex = lambda handle, index, out: (
        6 if index.value else genuine(handle, index, out)
    )
    gpu = bench.read()
    assert [one.pid for one in gpu.mig[0].processes] == [100]
    assert [one.pid for one in gpu.processes] == [101, 102, 103, 104, 105, 106]


def test_lists_on_which_nobody_is_are_asked_for_each_minute(bench):
    bench.control(mig={"0": [part("3g.40gb", 2, processes=[held(1), held(2, kind="mps")])]})
    bench.read(60)
    asked = {kind: bench.calls.counts[f"nvmlDeviceGet{kind}RunningProcesses_v3"] for kind in ("Compute", "MPSCompute")}
    assert asked == {"Compute": 6, "MPSCompute": 6}
    assert bench.calls.counts["nvmlDeviceGetGraphicsRunningProcesses_v3"] == 1
    assert [one.kind for one in bench.read().mig[0].processes] == ["compute", "mps"]
