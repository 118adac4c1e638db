"""What the stations know of themselves in, what is missing and what would open it out: the answers of `doctor`."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

from msgspec import Struct

from agent.core.gpu_readings import GpuReading, GpuSnapshot
from agent.core.readings import EngineSnapshot
from agent.core.workloads import Attribution, Feature

Severity = Literal["broken", "missing", "note"]
ORDER: tuple[Severity, ...] = ("broken", "missing", "note")


class Finding(Struct, frozen=True, kw_only=True):
    """One thing that an operator may want to know. `text` says what is not known or wrong, and what to do about it.

    broken: something does not work that should. missing: a right, a mount or a version is lacking, and with it some
    figures. note: as it is meant to be, and worth knowing.
    """

    severity: Severity
    subject: str  # GPU 0 NVIDIA H100, engine vllm-0, feature kernel_log, ...
    text: str


def examine(
    gpus: GpuSnapshot | None,
    workloads: Attribution | None,
    engines: Mapping[str, EngineSnapshot],
    features: Iterable[Feature] = (),
) -> tuple[Finding, ...]:
    """All findings, the worst first, each kind in the order of its subjects."""
    found = [*_driver(gpus), *_workloads(workloads), *_engines(engines), *map(_feature, features)]
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
    return Finding(severity="missing", subject=feature.name.replace("_", " "), text=feature.reason)


def _engines(engines: Mapping[str, EngineSnapshot]) -> Iterator[Finding]:
    for name, snapshot in sorted(engines.items()):
        status = snapshot.status
        subject = f"engine {name}"
        if status.state != "ready":
            text = f"{status.state.replace('_', ' ')}: {status.reason}"
            yield Finding(severity="broken", subject=subject, text=text)
        elif status.reason:
            yield Finding(severity="note", subject=subject, text=status.reason)
        if status.state == "ready" and not status.pids and not status.gpus:
            text = (
                "its processes are not visible, so its GPUs are not known: name them (engines.targets, gpus), or let "
                "the agent see the host's processes (hostPID: true and the capability SYS_PTRACE)"
            )
            yield Finding(severity="missing", subject=subject, text=text)
