"""GPU snapshot and attribution in, samples out: what each workload was given of a GPU and what it uses of it. Pure."""

from collections.abc import Iterable, Iterator, Mapping

from agent.core.attribution.power import Slot, split_power
from agent.core.attribution.shares import Share, Use, Who, allocation_shares, sm_weights, uses
from agent.core.gpu_readings import GpuReading, GpuSnapshot, MigReading
from agent.core.metrics.published import gauge, labelled
from agent.core.metrics.published_gpu import gpu_labels
from agent.core.metrics.samples import Labels, Sample
from agent.core.workloads import Attribution, Feature


def attribution_samples(
    node: str, snapshot: GpuSnapshot, attribution: Attribution, idle_watts: Mapping[str, float] | None = None
) -> Iterator[Sample]:
    """All series of `catalogue_workloads`. `idle_watts`: uuid -> power with nobody on it, where it is known."""
    base: Labels = (("node", node),)
    yield from labelled("engineroom_gpu_unresolved", attribution.unresolved, "reason", base)
    yield from feature_samples(node, attribution.features)
    shares, used = allocation_shares(attribution), uses(snapshot, attribution)
    slots = {uuid: Slot(shares.get(uuid, []), used.get(uuid, {})) for uuid in shares.keys() | used.keys()}
    for gpu in snapshot.gpus:
        labels = gpu_labels(node, gpu)
        for uuid, mig in ((gpu.uuid, None), *((mig.uuid, mig) for mig in gpu.mig or ())):
            if uuid in slots:
                slot_labels = (*labels, ("mig_uuid", mig.uuid if mig else ""))
                yield from _allocation(slots[uuid].shares, slot_labels)
                yield from _use(slots[uuid].used, _utilization(gpu, mig), slot_labels)
        idle = (idle_watts or {}).get(gpu.uuid)
        for part in split_power(gpu, slots, idle, holders_known=attribution.holders_known):
            labelling = (*labels, ("mig_uuid", part.mig), *_names(part.who), ("split", part.split))
            yield from gauge("engineroom_gpu_workload_power_watts", part.watts, labelling)


def feature_samples(node: str, features: Iterable[Feature]) -> Iterator[Sample]:
    """What the agent has the rights, mounts and versions for. For features of other parts as well."""
    for feature in features:
        labels = (("node", node), ("feature", feature.name), ("reason", feature.reason))
        yield from gauge("engineroom_feature_enabled", feature.enabled, labels)


def _names(who: Who) -> Labels:
    return (
        ("workload_namespace", who.namespace),
        ("workload_pod", who.pod),
        ("workload_container", who.container),
        ("workload_job", who.job),
    )


def _allocation(shares: list[Share], labels: Labels) -> Iterator[Sample]:
    for share in shares:
        more = (*_names(share.who), ("resource", share.resource), ("split", share.split))
        yield from gauge("engineroom_gpu_allocation_ratio", share.ratio, (*labels, *more))


def _use(used: dict[Who, Use], utilization: float | None, labels: Labels) -> Iterator[Sample]:
    weights = {next(iter(used)): 1.0} if len(used) == 1 else sm_weights(used)
    for one, use in used.items():
        more = (*labels, *_names(one))
        yield from gauge("engineroom_gpu_workload_processes", use.processes, more)
        yield from gauge("engineroom_gpu_workload_memory_bytes", use.memory_bytes, more)
        if weights is not None and utilization is not None:
            split = (("split", "whole" if len(used) == 1 else "sm"),)
            yield from gauge("engineroom_gpu_workload_sm_ratio", weights[one] * utilization, (*more, *split))


def _utilization(gpu: GpuReading, mig: MigReading | None) -> float | None:
    """What the workloads' parts add up to: the driver's utilisation, on a MIG device the SM activity of GPM."""
    if mig is not None:
        return mig.activity.sm_ratio if mig.activity else None
    return gpu.utilization_ratio
