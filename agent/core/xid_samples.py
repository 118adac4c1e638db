"""The ledger of errors and the health of its sources in, samples under the names of catalogue_xids out. Pure."""

from collections.abc import Iterator

from agent.core.gpu_readings import GpuReading, GpuSnapshot
from agent.core.metrics.published import gauge, labelled, series_key
from agent.core.metrics.published_gpu import gpu_labels
from agent.core.metrics.samples import Labels, Sample
from agent.core.workloads import Feature, Workload
from agent.core.xid_ledger import NS, Burst, XidLedger
from agent.core.xids import fact

_NOBODY = Workload()


def xid_samples(node: str, ledger: XidLedger, now_ns: int) -> Iterator[Sample]:
    """Counters, last instants and recent errors. An error of a GPU that is not ours carries no labels of a GPU."""
    about = {uuid: _gpu(node, gpu) for uuid, gpu in ledger.gpus.items()}
    for (uuid, xid), count in ledger.counts.items():
        labels = (*about.get(uuid, (("node", node),)), ("xid", str(xid)))
        yield Sample(series_key("engineroom_gpu_xid_errors_total", labels), float(count))
        last_ns = ledger.last_ns.get((uuid, xid))
        yield from gauge("engineroom_gpu_xid_last_seconds", None if last_ns is None else last_ns / NS, labels)
    for key in dict.fromkeys(key for burst in ledger.recent(now_ns) for key in _hits(node, burst)):
        yield Sample(series_key("engineroom_gpu_xid_info", key), 1.0)


def _gpu(node: str, gpu: GpuReading | None) -> Labels:
    return (("node", node),) if gpu is None else gpu_labels(node, gpu)


def _hits(node: str, burst: Burst) -> Iterator[Labels]:
    about = fact(burst.event.xid)
    for workload in burst.workloads or (_NOBODY,):
        yield (
            *_gpu(node, burst.gpu),
            ("xid", str(about.xid)),
            ("class", about.kind),
            ("action", about.action),
            ("workload_namespace", workload.namespace),
            ("workload_pod", workload.pod or workload.job),
            ("workload_container", workload.container),
        )


def watcher_samples(
    node: str, ledger: XidLedger, snapshot: GpuSnapshot | None, kernel_log: Feature | None, lost_lines: int = 0
) -> Iterator[Sample]:
    """Whether both sources are heard. `kernel_log` None: nobody asked for it; `lost_lines`: overwritten unread."""
    base = (("node", node),)
    dropped = ledger.dropped + lost_lines
    if snapshot is not None:
        dropped += snapshot.events_dropped
        watched = snapshot.events_watched
        yield from gauge("engineroom_gpu_events_watched", None if watched is None else float(watched), base)
        yield from labelled("engineroom_gpu_events_total", snapshot.events_seen, "event", base)
    yield Sample(series_key("engineroom_gpu_xid_dropped_total", base), float(dropped))
    if kernel_log is not None:
        yield Sample(series_key("engineroom_gpu_kernel_log_watched", base), float(kernel_log.enabled))
