"""What the stations know of themselves in, what is missing and what would open it out: the answers of `doctor`."""

from collections.abc import Iterable, Iterator, Mapping

from agent.core.doctor_engines import EngineFacts, examine_engines
from agent.core.findings import ORDER, Finding, Severity
from agent.core.gpu_readings import GpuReading, GpuSnapshot
from agent.core.readings import EngineSnapshot
from agent.core.workloads import Attribution, Feature


def examine(
    gpus: GpuSnapshot | None,
    workloads: Attribution | None,
    engines: Mapping[str, EngineSnapshot],
    features: Iterable[Feature] = (),
    facts: EngineFacts | None = None,
) -> tuple[Finding, ...]:
    """All findings, the worst first, each kind in the order of its subjects. `facts`: more about the engines."""
    about_engines = examine_engines(engines, gpus, workloads, facts or EngineFacts())
    found = [*_driver(gpus), *_workloads(workloads), *about_engines, *map(_feature, features)]
    kept = [finding for finding in found if finding is not None]
    return tuple(sorted(kept, key=lambda finding: ORDER.index(finding.severity)))


def _driver(snapshot: GpuSnapshot | None) -> Iterator[Finding]:
    if snapshot is None:
        yield Finding(severity="broken", subject="GPUs", text="no reading has arrived yet")
        return
    if snapshot.driver == "no_gpu":
        yield Finding(severity="note", subject="GPUs", text=snapshot.message or "this node has none")
    elif snapshot.driver != "ok":
        yield Finding(severity="broken", subject="GPUs", text=snapshot.message or f"the driver is {snapshot.driver}")
    elif snapshot.message:
        yield Finding(severity="missing", subject="GPUs", text=snapshot.message)
    for function, right in sorted(snapshot.nvml_forbidden.items()):
        yield Finding(severity="missing", subject="NVML", text=f"{function} is refused: {right}")
    if snapshot.events_watched is False:
        why = snapshot.events_problem or "the driver gives no reason"
        yield Finding(severity="broken", subject="NVML events", text=f"Xid errors are not heard from NVML: {why}")
    if snapshot.events_watched is None and snapshot.driver == "ok":
        text = "this driver tells no events: Xid errors are known from the kernel log alone"
        yield Finding(severity="missing", subject="NVML events", text=text)
    if snapshot.nvml_missing:
        names = ", ".join(snapshot.nvml_missing)
        yield Finding(severity="note", subject="NVML", text=f"this driver does not have: {names}")
    for gpu in snapshot.gpus:
        yield from _gpu(gpu)


def _gpu(gpu: GpuReading) -> Iterator[Finding]:
    subject = f"GPU {gpu.index} {gpu.model}".rstrip()
    if gpu.state != "ok":
        yield Finding(severity="broken", subject=subject, text=f"{gpu.state.replace('_', ' ')}: {gpu.reason}")
        return
    if gpu.details is not None and gpu.details.persistence_mode is False:
        text = (
            "persistence mode is off: the first call after a pause wakes the GPU, and it may seem busy when it is "
            "not; switch it on (nvidia-smi -pm 1, or nvidia-persistenced)"
        )
        yield Finding(severity="note", subject=subject, text=text)
    if gpu.activity is None and not any(mig.activity for mig in gpu.mig or ()):
        text = "no profiling ratios (SM, tensor, DRAM): NVML has them for Hopper and newer GPUs, on driver 520 or newer"
        yield Finding(severity="note", subject=subject, text=text)
    if gpu.processes is None and gpu.mig is None:
        yield Finding(
            severity="missing", subject=subject, text="its processes are not listed: who uses it is not known"
        )
    if gpu.not_offered:
        yield Finding(severity="note", subject=subject, text=f"does not offer: {', '.join(gpu.not_offered)}")


def _workloads(attribution: Attribution | None) -> Iterator[Finding | None]:
    if attribution is None:
        return
    yield from map(_feature, attribution.features)
    for reason, count in sorted(attribution.unresolved.items()):
        yield Finding(severity="missing", subject="workloads", text=f"{count} without a name: {reason}")


def _feature(feature: Feature) -> Finding | None:
    if feature.enabled:
        return None
    severity: Severity = "missing" if feature.expected else "note"
    return Finding(severity=severity, subject=feature.name.replace("_", " "), text=feature.reason)
