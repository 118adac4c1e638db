"""MIG devices of one GPU, from the simulated driver into a reading."""

import pytest

from tests.support.mig_bench import MIB, SEVEN, held, mig_bench, part


@pytest.fixture
def bench():
    with mig_bench() as bench:
        yield bench


def test_the_recorded_layout(bench):
    gpu = bench.read()
    assert gpu.mig_slices == 7
    assert [
        (one.index, one.gpu_instance, one.compute_instance, one.profile, one.multiprocessors, one.placement_start)
        for one in gpu.mig
    ] == [
        (0, 2, 0, "3g.40gb", 60, 4),
        (1, 3, 0, "2g.20gb", 32, 0),
        (2, 9, 0, "1g.10gb", 16, 2),
        (3, 10, 0, "1g.10gb", 16, 3),
    ]
    assert {one.uuid[:4] for one in gpu.mig} == {"MIG-"}


def test_what_the_gpu_itself_no_longer_says_is_absent(bench):
    gpu = bench.read(3)
    assert gpu.state == "ok"
    assert (gpu.utilization_ratio, gpu.encoder_utilization_ratio) == (None, None)
    assert None not in (gpu.power_watts, gpu.energy_joules, gpu.temperature_celsius, gpu.memory_used_bytes)


def test_no_instance_is_not_no_mig(bench):
    bench.control(mig={"0": []})
    assert bench.read().mig == ()
    bench.control(mig={"0": None})
    assert bench.read(60).mig is None


def test_a_gpu_that_cannot_be_divided():
    with mig_bench("rtx4080sx2") as bench:
        gpu = bench.read(70)
        assert (gpu.mig, gpu.mig_slices) == (None, None)
        assert bench.count("Mig") == 2  # once for each GPU


def test_memory_belongs_to_the_gpu_instance(bench):
    parts = [part("1c.3g.40gb", 2, 0, processes=[held(5, 1000)]), part("2c.3g.40gb", 2, 1, processes=[held(6, 2000)])]
    bench.control(mig={"0": parts})
    first, second = bench.read().mig
    assert (first.profile, second.profile) == ("1c.3g.40gb", "2c.3g.40gb")
    assert (first.compute_slices, first.gpu_instance_slices) == (1, 3)
    assert first.memory_used_bytes == second.memory_used_bytes >= 3000 * MIB
    assert first.memory_total_bytes == 40448 * MIB
    assert bench.calls.counts["nvmlDeviceGetMemoryInfo_v2"] == 2  # of the GPU and of the GPU instance


def test_a_destroyed_instance_is_not_read_again(bench):
    bench.control(mig={"0": SEVEN})
    before = bench.read(5).mig
    bench.control(mig={"0": [*SEVEN[:2], part("3g.40gb", 2)]})
    after = bench.read(2).mig
    assert [one.uuid for one in after[:2]] == [one.uuid for one in before[:2]]
    assert [one.profile for one in after] == ["1g.10gb", "1g.10gb", "3g.40gb"]
    assert all(one.memory_total_bytes and one.processes is not None for one in after)


def test_the_same_ids_with_another_profile(bench):
    bench.control(mig={"0": [part("4g.40gb", 1)]})
    (before,) = bench.read(3).mig
    bench.control(mig={"0": [part("3g.40gb", 1)]})
    (after,) = bench.read(3).mig
    assert before.uuid == after.uuid  # they do not depend on the profile
    assert (before.multiprocessors, after.multiprocessors) == (64, 60)


def test_without_gpm_a_reconfiguration_is_seen_with_the_memory(bench):
    bench.control(mig={"0": SEVEN}, returns={"nvmlGpmQueryDeviceSupport": {"0": 13}})
    bench.read(5)
    bench.control(mig={"0": [part("7g.80gb", 0)]}, returns={"nvmlGpmQueryDeviceSupport": {"0": 13}})
    assert [one.profile for one in bench.read(10).mig] == ["7g.80gb"]


def test_the_driver_may_say_that_it_was_reconfigured(bench):
    bench.control(mig={"0": []})
    bench.read(5)
    bench.control(mig={"0": SEVEN})
    assert bench.read().mig == ()
    bench.devices[0].reconfigured()
    assert len(bench.read().mig) == 7


def test_new_instances_are_found_within_a_minute(bench):
    bench.control(mig={"0": []})
    bench.read()
    bench.control(mig={"0": SEVEN})
    assert len(bench.read(60).mig) == 7


def test_mig_mode_switched_off_and_on(bench):
    bench.control(mig={"0": SEVEN})
    bench.read(3)
    bench.control(mig={"0": None}, load={"0": 0.5})
    gpu = bench.read(3)
    assert (gpu.mig, gpu.utilization_ratio) == (None, 0.5)
    bench.control(mig={"0": SEVEN})
    gpu = bench.read(60)
    assert (len(gpu.mig), gpu.utilization_ratio) == (7, None)


def test_without_the_right_to_list_the_devices(bench):
    bench.control(returns={"nvmlDeviceGetMigDeviceHandleByIndex": {"0": 4}})
    gpu = bench.read(3)
    assert (gpu.state, gpu.mig) == ("ok", None)
    assert "nvmlDeviceGetMigDeviceHandleByIndex" in bench.calls.forbidden


@pytest.mark.parametrize("code", [2, 3, 4, 6, 13, 15, 17, 25, 27, 999])
@pytest.mark.parametrize(
    "function",
    [
        "nvmlDeviceGetMigMode",
        "nvmlDeviceGetMaxMigDeviceCount",
        "nvmlDeviceGetMigDeviceHandleByIndex",
        "nvmlDeviceGetUUID",
        "nvmlDeviceGetGpuInstanceId",
        "nvmlDeviceGetComputeInstanceId",
        "nvmlDeviceGetAttributes_v2",
        "nvmlDeviceGetName",
        "nvmlDeviceGetGpuInstanceById",
        "nvmlDeviceGetGpuInstanceProfileInfoV",
        "nvmlGpuInstanceGetInfo",
        "nvmlGpmQueryDeviceSupport",
        "nvmlGpmMigSampleGet",
    ],
)
def test_every_code_of_every_call_leaves_the_rest(bench, function, code):
    bench.control(mig={"0": SEVEN}, returns={function: {"0": code, "*": code}})
    gpu = bench.read(25)
    if code == 15 and function not in ("nvmlDeviceGetMigMode", "nvmlGpmQueryDeviceSupport"):
        assert gpu.state in ("ok", "lost")
    elif code != 15:
        assert gpu.state == "ok"
        assert gpu.power_watts is not None
        assert gpu.mig is None or len(gpu.mig) in (0, 7)


def test_a_call_that_is_always_refused_does_not_list_the_devices_each_tick(bench):
    bench.control(mig={"0": SEVEN}, returns={"nvmlGpmMigSampleGet": {"0": 2}})
    bench.read(12)
    listed = bench.calls.counts["nvmlDeviceGetMaxMigDeviceCount"]
    bench.read(20)
    assert bench.calls.counts["nvmlDeviceGetMaxMigDeviceCount"] == listed
    assert bench.read().mig[0].memory_used_bytes is not None


def test_profiles_of_a_driver_that_does_not_name_them(bench):
    genuine = bench.library.nvmlDeviceGetName

    def nameless(handle, out, size):
        code = genuine(handle, out, size)
        out.value = out.value.partition(b" MIG ")[0]
        return code

    bench.library.nvmlDeviceGetName = nameless
    assert [one.profile for one in bench.read().mig] == ["3g.40gb", "2g.20gb", "1g.10gb", "1g.10gb"]


def test_slices_come_from_the_profile_of_the_whole_gpu(bench):
    bench.control(returns={"nvmlDeviceGetGpuInstanceProfileInfoV": {"0": 3}})
    gpu = bench.read()
    assert (gpu.mig_slices, len(gpu.mig)) == (None, 4)


def test_calls_in_a_minute(bench):
    """Seven slices: about 90 calls a minute to list and fill them, besides those for their profiling ratios."""
    bench.control(mig={"0": SEVEN})
    bench.read(70)
    before = dict(bench.calls.counts)
    bench.read(60)
    calls = {name: times - before.get(name, 0) for name, times in bench.calls.counts.items()}
    # Every two seconds; less often where a call takes long, as on a machine that is busy with other tests.
    assert 7 * 6 <= calls["nvmlGpmMigSampleGet"] == calls["nvmlGpmMetricsGet"] <= 7 * 30
    assert calls["nvmlDeviceGetUUID"] == calls["nvmlDeviceGetAttributes_v2"] == 7
    assert calls["nvmlDeviceGetComputeRunningProcesses_v3"] == 6
    assert calls["nvmlDeviceGetMemoryInfo_v2"] == 60 + 7 * 6
    assert calls["nvmlDeviceGetName"] == calls["nvmlDeviceGetGpuInstanceById"] == 0
