"""GPU readings in, samples out, under the names of the catalogue. What was not reported has no sample."""

from collections.abc import Iterator, Mapping
from functools import partial

from agent.core.gpu_readings import (
    GpuActivity,
    GpuDetails,
    GpuErrors,
    GpuNvlink,
    GpuPcie,
    GpuReading,
    GpuSnapshot,
    MigReading,
)
from agent.core.metrics.published import gauge, labelled, series_key
from agent.core.metrics.samples import Labels, Sample, SeriesKey

_GAUGES = (
    "utilization_ratio",
    "memory_utilization_ratio",
    "memory_used_bytes",
    "memory_free_bytes",
    "memory_reserved_bytes",
    "memory_total_bytes",
    "bar1_used_bytes",
    "bar1_total_bytes",
    "temperature_celsius",
    "memory_temperature_celsius",
    "temperature_slowdown_celsius",
    "fan_speed_ratio",
    "power_watts",
    "power_limit_watts",
    "performance_state",
)
_GAUGE_NAMES = tuple((field, f"engineroom_gpu_{field}") for field in _GAUGES)
_VIDEO = tuple((f"{task}_utilization_ratio", task) for task in ("encoder", "decoder", "jpeg", "ofa"))
_MIG_MEMORY = ("memory_used_bytes", "memory_free_bytes", "memory_reserved_bytes", "memory_total_bytes")
_ACTIVITY = tuple((field, field.removesuffix("_ratio")) for field in GpuActivity.__struct_fields__)

_sample = partial(tuple.__new__, Sample)  # Sample(...) without its Python-level constructor: hundreds in each tick


def gpu_labels(node: str, gpu: GpuReading) -> Labels:
    """Labels that every series of this GPU carries."""
    return (
        ("node", node),
        ("gpu", str(gpu.index)),
        ("uuid", gpu.uuid),
        ("gpu_model", gpu.model),
        ("simulated", "true" if gpu.simulated else ""),
    )


class _Keys(dict[str | tuple[str, str, str], SeriesKey]):
    """Keys of the series of one GPU, made when first asked for: by name, or by name, one more label and its value."""

    def __init__(self, labels: Labels) -> None:
        super().__init__()
        self.labels = labels

    def __missing__(self, what: str | tuple[str, str, str]) -> SeriesKey:
        name, more = (what, ()) if isinstance(what, str) else (what[0], (what[1:],))
        key = self[what] = SeriesKey(name, (*self.labels, *more))
        return key


class GpuSampler:
    """Makes the samples of tick after tick. Most of what a GPU says changes seldom: that is not made anew."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._kept: dict[str, tuple[tuple[object, ...], list[Sample]]] = {}  # uuid -> what they were made of, and they
        self._keys: dict[str, _Keys] = {}

    def samples(self, snapshot: GpuSnapshot) -> list[Sample]:
        """All series of all GPUs of one tick."""
        found: list[Sample] = []
        kept, self._kept = self._kept, {}
        known, self._keys = self._keys, {}
        for gpu in snapshot.gpus:
            labels = gpu_labels(self._node, gpu)
            keys = known.get(gpu.uuid)
            if keys is None or keys.labels != labels:
                keys = _Keys(labels)
            self._keys[gpu.uuid] = keys
            found += _now(gpu, keys)
            made_of = _lasting_values(gpu)
            before = kept.get(gpu.uuid)
            if before is None or before[0] != made_of:
                before = (made_of, list(_lasting(gpu, labels)))
            self._kept[gpu.uuid] = before
            found += before[1]
        return found


def gpu_samples(node: str, snapshot: GpuSnapshot) -> list[Sample]:
    """All series of all GPUs of one tick, without what was before."""
    return GpuSampler(node).samples(snapshot)


def reader_samples(node: str, snapshot: GpuSnapshot) -> Iterator[Sample]:
    """How the reader that looked is doing."""
    base: Labels = (("node", node),)
    yield from gauge("engineroom_gpu_reader_restarts_total", snapshot.reader_restarts, base)
    yield from gauge("engineroom_gpus_expected", snapshot.gpus_expected, base)
    yield from gauge("engineroom_nvml_tier_stretch_ratio", snapshot.tier_stretch, base)
    yield from labelled("engineroom_nvml_call_seconds_total", snapshot.nvml_call_seconds, "call", base)
    yield from labelled("engineroom_nvml_calls_total", snapshot.nvml_calls, "call", base)
    yield from labelled("engineroom_nvml_errors_total", snapshot.nvml_errors, "error", base)
    yield from labelled("engineroom_nvml_forbidden", dict.fromkeys(snapshot.nvml_forbidden, 1), "call", base)


def _now(gpu: GpuReading, keys: _Keys) -> list[Sample]:
    found: list[Sample] = [
        _sample((keys["engineroom_gpu_up"], 1.0 if gpu.state == "ok" else 0.0)),
        _sample((keys["engineroom_gpu_state", "state", gpu.state], 1.0)),
    ]
    if gpu.state == "ok":
        _add_values(found, gpu, keys)
        _add_totals(found, gpu, keys)
        found += _mig(gpu, keys.labels)
    return found


def _lasting_values(gpu: GpuReading) -> tuple[object, ...]:
    """All that `_lasting` reads."""
    return (
        (gpu.state, gpu.index, gpu.model, gpu.pci_bus_id, gpu.driver_version, gpu.cuda_version),
        (gpu.simulated, gpu.power_scope, gpu.memory_source),
        (gpu.details, gpu.pcie, gpu.nvlink, gpu.errors),
    )


def _lasting(gpu: GpuReading, labels: Labels) -> Iterator[Sample]:
    about = (
        ("pci_bus_id", gpu.pci_bus_id or ""),
        ("driver_version", gpu.driver_version or ""),
        ("cuda_version", gpu.cuda_version or ""),
    )
    yield Sample(series_key("engineroom_gpu_info", labels + about), 1.0)
    if gpu.state != "ok":
        return
    if gpu.details is not None:
        yield from _details(gpu, gpu.details, labels)
    if gpu.pcie is not None:
        yield from _pcie(gpu.pcie, labels)
    if gpu.nvlink is not None:
        yield from _nvlink(gpu.nvlink, labels)
    if gpu.errors is not None:
        yield from _errors(gpu.errors, labels)


def _add_values(found: list[Sample], gpu: GpuReading, keys: _Keys) -> None:
    add = found.append
    for field, name in _GAUGE_NAMES:
        if (value := getattr(gpu, field)) is not None:
            add(_sample((keys[name], float(value))))
    if gpu.utilization_ratio is not None:
        add(_sample((keys["engineroom_gpu_utilization_doubtful"], float(gpu.utilization_doubtful))))
    if gpu.memory_used_bytes is not None and gpu.memory_total_bytes:
        add(_sample((keys["engineroom_gpu_memory_used_ratio"], gpu.memory_used_bytes / gpu.memory_total_bytes)))
    for field, task in _VIDEO:
        if (value := getattr(gpu, field)) is not None:
            add(_sample((keys["engineroom_gpu_video_utilization_ratio", "task", task], float(value))))
    if gpu.activity is not None:
        for field, task in _ACTIVITY:
            if (value := getattr(gpu.activity, field)) is not None:
                add(_sample((keys["engineroom_gpu_activity_ratio", "task", task], float(value))))
    for domain, hertz in (gpu.clocks_hertz or {}).items():
        add(_sample((keys["engineroom_gpu_clock_hertz", "domain", domain], float(hertz))))
    for reason in gpu.throttle_reasons or ():
        if reason != "gpu_idle":
            add(_sample((keys["engineroom_gpu_throttled", "reason", reason], 1.0)))


def _add_totals(found: list[Sample], gpu: GpuReading, keys: _Keys) -> None:
    add = found.append
    if gpu.energy_joules is not None:
        key = keys["engineroom_gpu_energy_joules_total", "source", gpu.energy_source or ""]
        add(_sample((key, float(gpu.energy_joules))))
    for reason, seconds in (gpu.throttle_seconds or {}).items():
        add(_sample((keys["engineroom_gpu_throttle_seconds_total", "reason", reason], float(seconds))))
    if gpu.processes is None:
        return
    held: dict[str, int] = {}
    for process in gpu.processes:
        if process.memory_used_bytes is not None:
            held[process.kind] = held.get(process.kind, 0) + process.memory_used_bytes
    add(_sample((keys["engineroom_gpu_processes"], float(len(gpu.processes)))))
    for kind, size in held.items():
        add(_sample((keys["engineroom_gpu_process_memory_bytes", "kind", kind], float(size))))


def _activity(name: str, activity: GpuActivity | None, labels: Labels) -> Iterator[Sample]:
    if activity is not None:
        for field, task in _ACTIVITY:
            yield from gauge(name, getattr(activity, field), (*labels, ("task", task)))


def _details(gpu: GpuReading, details: GpuDetails, labels: Labels) -> Iterator[Sample]:
    for limit in ("default", "requested", "min", "max"):
        watts = getattr(details, f"power_limit_{limit}_watts")
        yield from gauge("engineroom_gpu_power_setting_watts", watts, (*labels, ("limit", limit)))
    yield from gauge("engineroom_gpu_temperature_shutdown_celsius", details.temperature_shutdown_celsius, labels)
    yield from labelled("engineroom_gpu_clock_max_hertz", details.clocks_max_hertz or {}, "domain", labels)
    yield from gauge("engineroom_gpu_persistence_mode", details.persistence_mode, labels)
    about = (
        ("minor_number", "" if details.minor_number is None else str(details.minor_number)),
        ("brand", details.brand or ""),
        ("architecture", details.architecture or ""),
        ("compute_capability", details.compute_capability or ""),
        ("vbios_version", details.vbios_version or ""),
        ("compute_mode", details.compute_mode or ""),
        ("power_scope", gpu.power_scope or ""),
        ("memory_source", gpu.memory_source or ""),
    )
    yield from gauge("engineroom_gpu_details_info", 1, labels + about)


def _pcie(pcie: GpuPcie, labels: Labels) -> Iterator[Sample]:
    current, most = (*labels, ("link", "current")), (*labels, ("link", "max"))
    yield from gauge("engineroom_gpu_pcie_generation", pcie.generation, current)
    yield from gauge("engineroom_gpu_pcie_generation", pcie.generation_max, most)
    yield from gauge("engineroom_gpu_pcie_lanes", pcie.width, current)
    yield from gauge("engineroom_gpu_pcie_lanes", pcie.width_max, most)
    yield from _moved("engineroom_gpu_pcie_bytes_total", pcie, labels)
    yield from gauge("engineroom_gpu_pcie_replays_total", pcie.replays, labels)
    yield from labelled("engineroom_gpu_pcie_errors_total", pcie.errors or {}, "kind", labels)


def _nvlink(nvlink: GpuNvlink, labels: Labels) -> Iterator[Sample]:
    yield from gauge("engineroom_gpu_nvlink_links", nvlink.links_active, (*labels, ("link", "active")))
    yield from gauge("engineroom_gpu_nvlink_links", nvlink.links, (*labels, ("link", "all")))
    yield from _moved("engineroom_gpu_nvlink_bytes_total", nvlink, labels)
    yield from labelled("engineroom_gpu_nvlink_errors_total", nvlink.errors or {}, "kind", labels)


def _moved(name: str, link: GpuPcie | GpuNvlink, labels: Labels) -> Iterator[Sample]:
    yield from gauge(name, link.transmitted_bytes, (*labels, ("direction", "transmitted")))
    yield from gauge(name, link.received_bytes, (*labels, ("direction", "received")))


def _errors(errors: GpuErrors, labels: Labels) -> Iterator[Sample]:
    yield from gauge("engineroom_gpu_ecc_enabled", errors.ecc_enabled, labels)
    for name, counts in (
        ("engineroom_gpu_ecc_errors_total", errors.ecc_errors),
        ("engineroom_gpu_retired_pages", errors.retired_pages),
        ("engineroom_gpu_remapped_rows", errors.remapped_rows),
    ):
        yield from labelled(name, counts or {}, "kind", labels)
    yield from gauge("engineroom_gpu_retired_pages_pending", errors.retired_pages_pending, labels)
    yield from gauge("engineroom_gpu_row_remap_pending", errors.row_remap_pending, labels)
    yield from gauge("engineroom_gpu_row_remap_failed", errors.row_remap_failed, labels)
    yield from labelled("engineroom_gpu_row_remap_banks", errors.row_remap_banks or {}, "spare", labels)
    if errors.recovery_action is not None:
        yield from gauge("engineroom_gpu_recovery_action", 1, (*labels, ("action", errors.recovery_action)))


def _mig(gpu: GpuReading, labels: Labels) -> Iterator[Sample]:
    mode: Mapping[bool, int] = {True: 1, False: 0}
    on = gpu.mig is not None or (gpu.details.mig_mode if gpu.details else None)
    if on is not None:
        yield from gauge("engineroom_gpu_mig_mode", mode[bool(on)], labels)
    told: set[int] = set()
    for mig in gpu.mig or ():
        yield from _mig_device(mig, labels)
        if mig.gpu_instance not in told:
            told.add(mig.gpu_instance)
            yield from _gpu_instance(mig, labels)


def _mig_device(mig: MigReading, labels: Labels) -> Iterator[Sample]:
    own = (
        *labels,
        ("mig_uuid", mig.uuid),
        ("mig_profile", mig.profile),
        ("gpu_instance", str(mig.gpu_instance)),
        ("compute_instance", str(mig.compute_instance)),
    )
    yield from gauge("engineroom_gpu_mig_info", 1, own)
    yield from gauge("engineroom_gpu_mig_compute_slices", mig.compute_slices, own)
    yield from gauge("engineroom_gpu_mig_processes", None if mig.processes is None else len(mig.processes), own)


def _gpu_instance(mig: MigReading, labels: Labels) -> Iterator[Sample]:
    # 1c.3g.40gb is a part of 3g.40gb, and what follows is about the whole of it.
    profile = mig.profile.split("c.", 1)[-1]
    own = (*labels, ("gpu_instance", str(mig.gpu_instance)), ("mig_profile", profile))
    for field in _MIG_MEMORY:
        yield from gauge(f"engineroom_gpu_mig_{field}", getattr(mig, field), own)
    yield from _activity("engineroom_gpu_mig_activity_ratio", mig.activity, own)
