"""Errors of GPUs from NVML and the kernel log in; one log line per burst and the samples of catalogue_xids out."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import structlog

from agent.clock import NS, unix_ns
from agent.core.gpu_readings import GpuSnapshot, XidEvent
from agent.core.metrics.samples import Sample
from agent.core.workloads import Attribution, Feature, Workload
from agent.core.xid_ledger import WINDOW_NS, Burst, XidLedger
from agent.core.xid_samples import watcher_samples, xid_samples
from agent.core.xids import fact

log = structlog.get_logger()


class XidDesk:
    """Brings both sources together. `seen` gives who is on the GPUs now.

    `gpu_interval_seconds` is the time between two ticks of the GPU reader: NVML's errors carry no better instant.
    """

    def __init__(self, gpu_interval_seconds: float, seen: Callable[[], Attribution | None]) -> None:
        self.ledger = XidLedger(max(WINDOW_NS, int(2.5 * gpu_interval_seconds * NS)))
        self._seen = seen
        self._snapshot: GpuSnapshot | None = None

    def on_gpus(self, snapshot: GpuSnapshot) -> None:
        """A tick of the GPU reader."""
        self._snapshot = snapshot
        self._tell(self.ledger.observe_gpus(snapshot, self._seen()))

    def on_kernel(self, events: Sequence[XidEvent]) -> None:
        """News of the kernel log."""
        self._tell(self.ledger.observe(events, self._seen()))

    def on_history(self, events: Sequence[XidEvent]) -> None:
        """What the kernel log remembers of before our start."""
        self.ledger.recall(events)

    def samples(self, node: str, kernel_log: Feature | None, lost_lines: int = 0) -> Iterator[Sample]:
        """`kernel_log` and `lost_lines` are of the `KernelLog`; None where it is switched off."""
        yield from xid_samples(node, self.ledger, unix_ns())
        yield from watcher_samples(node, self.ledger, self._snapshot, kernel_log, lost_lines)

    def _tell(self, bursts: Iterable[Burst]) -> None:
        for burst in bursts:
            about, event, gpu = fact(burst.event.xid), burst.event, burst.gpu
            write = log.error if about.critical else log.warning
            write(
                "gpu_xid",
                xid=about.xid,
                what=about.meaning,
                kind=about.kind,
                gpu=None if gpu is None else gpu.index,
                uuid=event.uuid or None,
                pci_bus_id=event.pci_bus_id or (gpu.pci_bus_id if gpu is not None else None),
                pid=event.pid,
                process=event.process,
                hit=[place_of(workload) for workload in burst.workloads],
                do=about.remedy,
                nvidia_action=about.action,
                source=event.source,
                text=event.text or None,
            )


def place_of(workload: Workload) -> str:
    """`namespace/pod/container`, `job 4711` or a container's id."""
    if workload.pod:
        return "/".join(part for part in (workload.namespace, workload.pod, workload.container) if part)
    return f"job {workload.job}" if workload.job else workload.container or workload.container_id
