import msgspec

from agent.core.catalogue import BY_NAME
from agent.core.catalogue_gpu import GPUS
from agent.core.gpu_readings import (
    GpuActivity,
    GpuDetails,
    GpuErrors,
    GpuNvlink,
    GpuPcie,
    GpuProcess,
    GpuReading,
    GpuSnapshot,
    MigReading,
)
from agent.core.metrics.published_gpu import GpuSampler, gpu_samples, reader_samples

GPU = GpuReading(
    uuid="GPU-1",
    index=0,
    model="NVIDIA H100 80GB HBM3",
    read_at_ns=1,
    state="ok",
    utilization_ratio=0.0,
    memory_used_bytes=96,
    memory_total_bytes=100,
    temperature_celsius=41,
    clocks_hertz={"sm": 1e9},
    energy_joules=5.0,
    energy_source="counter",
    throttle_seconds={"sw_power_cap": 2.0},
    processes=(GpuProcess(pid=1, kind="compute", memory_used_bytes=90), GpuProcess(pid=2, kind="compute")),
)
LOST = GpuReading(uuid="GPU-2", index=1, model="NVIDIA H100 80GB HBM3", read_at_ns=1, state="lost")
ACTIVITY = GpuActivity(**dict.fromkeys(GpuActivity.__struct_fields__, 0.25))
MEMORY = {"memory_used_bytes": 1, "memory_free_bytes": 2, "memory_reserved_bytes": 3, "memory_total_bytes": 6}
FULL = msgspec.structs.replace(
    GPU,
    uuid="GPU-3",
    **MEMORY,
    memory_utilization_ratio=0.1,
    encoder_utilization_ratio=0.1,
    bar1_used_bytes=1,
    bar1_total_bytes=2,
    memory_temperature_celsius=50,
    temperature_slowdown_celsius=87,
    fan_speed_ratio=0.3,
    power_watts=100,
    power_limit_watts=700,
    performance_state=0,
    throttle_reasons=("gpu_idle", "hw_thermal"),
    activity=ACTIVITY,
    pcie=GpuPcie(generation=4, generation_max=5, width=8, width_max=16, transmitted_bytes=1, received_bytes=2,
                 replays=0, errors={"fatal": 0}),
    nvlink=GpuNvlink(links=18, links_active=17, transmitted_bytes=3, received_bytes=4, errors={"replay": 1}),
    errors=GpuErrors(
        ecc_enabled=True,
        ecc_errors={"corrected_volatile": 0},
        retired_pages={"single_bit": 0},
        retired_pages_pending=False,
        remapped_rows={"corrected": 0},
        row_remap_pending=False,
        row_remap_failed=False,
        row_remap_banks={"max": 640},
        recovery_action="none",
    ),
    details=GpuDetails(minor_number=0, power_limit_default_watts=700, temperature_shutdown_celsius=92,
                       clocks_max_hertz={"sm": 2e9}, persistence_mode=True, compute_mode="default"),
    mig=(
        MigReading(uuid="MIG-a", index=0, gpu_instance=1, compute_instance=0, profile="1c.3g.40gb", compute_slices=1,
                   activity=ACTIVITY, processes=(), **MEMORY),
        MigReading(uuid="MIG-b", index=1, gpu_instance=1, compute_instance=1, profile="2c.3g.40gb", **MEMORY),
    ),
)  # fmt: skip
SNAPSHOT = GpuSnapshot(
    read_at_ns=1,
    driver="ok",
    gpus=(FULL,),
    gpus_expected=8,
    nvml_calls={"f": 1},
    nvml_call_seconds={"f": 1.0},
    nvml_errors={"f: in use (19)": 1},
    nvml_forbidden={"f": "run privileged"},
)


def as_dict(samples: object) -> dict[str, float]:
    return {repr(sample.key): sample.value for sample in samples}  # type: ignore[attr-defined]


def test_what_was_not_reported_is_absent_and_zero_is_zero() -> None:
    got = as_dict(gpu_samples("n", GpuSnapshot(read_at_ns=1, driver="ok", gpus=(GPU, LOST))))
    one = 'gpu="0",gpu_model="NVIDIA H100 80GB HBM3",node="n",uuid="GPU-1"'
    assert got[f"engineroom_gpu_utilization_ratio{{{one}}}"] == 0.0
    assert got[f"engineroom_gpu_memory_used_ratio{{{one}}}"] == 0.96
    assert got[f"engineroom_gpu_processes{{{one}}}"] == 2
    assert not [key for key in got if "power_watts" in key]
    lost = [key for key in got if "GPU-2" in key]
    assert sorted(key.split("{")[0] for key in lost) == [
        "engineroom_gpu_info",
        "engineroom_gpu_state",
        "engineroom_gpu_up",
    ]
    assert got['engineroom_gpu_up{gpu="1",gpu_model="NVIDIA H100 80GB HBM3",node="n",uuid="GPU-2"}'] == 0


def test_every_metric_of_gpus_is_published_with_its_labels() -> None:
    samples = [*gpu_samples("n", SNAPSHOT), *reader_samples("n", SNAPSHOT)]
    for key, _ in samples:
        assert {name for name, _ in key.labels} <= set(BY_NAME[key.name].labels), key
    keys = [key for key, _ in samples]
    assert len(keys) == len(set(keys))
    # The age of the data is the publisher's to tell.
    assert {metric.name for metric in GPUS} - {key.name for key in keys} == {"engineroom_gpu_data_age_seconds"}


def test_memory_and_activity_of_a_gpu_instance_are_told_once() -> None:
    got = as_dict(gpu_samples("n", SNAPSHOT))
    used = [key for key in got if key.startswith("engineroom_gpu_mig_memory_used_bytes")]
    assert len(used) == 1
    assert 'mig_profile="3g.40gb"' in used[0]
    assert len([key for key in got if key.startswith("engineroom_gpu_mig_info")]) == 2


def test_being_idle_is_not_being_throttled() -> None:
    got = as_dict(gpu_samples("n", SNAPSHOT))
    active = [key for key in got if key.startswith("engineroom_gpu_throttled")]
    assert len(active) == 1
    assert 'reason="hw_thermal"' in active[0]


def test_what_lasts_is_made_once_and_what_changed_is_made_anew() -> None:
    sampler = GpuSampler("n")
    hotter = msgspec.structs.replace(FULL, temperature_celsius=80, pcie=GpuPcie(replays=7))
    gone = msgspec.structs.replace(LOST, uuid=FULL.uuid, index=FULL.index)
    for gpu in (FULL, FULL, hotter, gone, FULL):
        snapshot = GpuSnapshot(read_at_ns=1, driver="ok", gpus=(gpu,))
        assert sampler.samples(snapshot) == gpu_samples("n", snapshot)


def test_a_gpu_that_gets_another_index_gets_other_series() -> None:
    sampler = GpuSampler("n")
    moved = msgspec.structs.replace(FULL, index=7)
    before, after, again = (
        sampler.samples(GpuSnapshot(read_at_ns=1, driver="ok", gpus=(gpu,))) for gpu in (FULL, moved, moved)
    )
    assert {key.get("gpu") for key, _ in before} == {str(FULL.index)}
    assert {key.get("gpu") for key, _ in after} == {"7"}
    assert all(one.key is another.key for one, another in zip(after, again, strict=True) if "_mig_" not in one.key.name)
