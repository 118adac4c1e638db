"""Holdings and processes in, what part of each slot is whose out. Pure.

The rules (each is named in the label `split` of what is published): a device given whole is its holder's; one of N
replicas is 1/N; containers that share a DRA claim have equal parts. SM time is divided as the driver's samples of the
processes say.
"""

from collections.abc import Iterable
from typing import NamedTuple

from agent.core.attribution.users import processes_on_slots
from agent.core.gpu_readings import GpuProcess, GpuSnapshot
from agent.core.workloads import Attribution, Holding, SplitRule, Workload

_SHORT_ID = 12  # characters of a container id that people see elsewhere


class Who(NamedTuple):
    """A workload as it is named in labels; all empty: nobody, or not known."""

    namespace: str = ""
    pod: str = ""
    container: str = ""
    job: str = ""


NOBODY = Who()


def who(workload: Workload | None) -> Who:
    """The names of a workload; its uid and the beginning of its container's id where there is no name."""
    if workload is None:
        return NOBODY
    return Who(
        workload.namespace,
        workload.pod or workload.pod_uid,
        workload.container or workload.container_id[:_SHORT_ID],
        workload.job,
    )


class Share(NamedTuple):
    """How much of a slot somebody was given; None: into how many parts the slot is divided was not said."""

    who: Who
    resource: str
    ratio: float | None
    split: SplitRule


def allocation_shares(attribution: Attribution) -> dict[str, list[Share]]:
    """Slot -> the parts of it that were given away."""
    held: dict[str, list[Holding]] = {}
    for holding in attribution.holdings:
        held.setdefault(holding.slot, []).append(holding)
    found: dict[str, list[Share]] = {}
    for slot, holdings in held.items():
        whole = [one for one in holdings if one.replica is None]
        parts = attribution.replicas.get(slot)
        sums: dict[tuple[Who, str, SplitRule], float | None] = {}
        for one in holdings:
            divisor = len(whole) if one.replica is None else parts
            split: SplitRule = "whole" if one.replica is None and len(whole) == 1 else "equal"
            key = (who(one.workload), one.resource, split)
            before = sums.get(key, 0.0)
            sums[key] = None if divisor is None or before is None else before + 1 / divisor
        found[slot] = [Share(key[0], key[1], ratio, key[2]) for key, ratio in sums.items()]
    return found


class Use(NamedTuple):
    """The processes of one workload on one slot."""

    processes: int
    memory_bytes: int | None  # None: not told of each of them
    sm_ratio: float | None  # sum of the driver's samples; None: none that could be believed
    mps: bool


def uses(snapshot: GpuSnapshot, attribution: Attribution) -> dict[str, dict[Who, Use]]:
    """Slot -> workload -> what its processes use there. Processes of unknown workloads stand under `NOBODY`."""
    owners = {(user.slot, user.pid): who(user.workload) for user in attribution.users}
    grouped: dict[str, dict[Who, list[GpuProcess]]] = {}
    for slot, process in processes_on_slots(snapshot):
        owner = owners.get((slot, process.pid), NOBODY)
        grouped.setdefault(slot, {}).setdefault(owner, []).append(process)
    found: dict[str, dict[Who, Use]] = {}
    for slot, owned in grouped.items():
        everyone = [process for processes in owned.values() for process in processes]
        sampled = any(process.sm_utilization_ratio is not None for process in everyone)
        found[slot] = {one: _use(processes, sampled=sampled) for one, processes in owned.items()}
    return found


def _use(processes: list[GpuProcess], *, sampled: bool) -> Use:
    memory = [process.memory_used_bytes for process in processes]
    # A process without a sample beside others that have one did nothing in that window.
    busy = sum(process.sm_utilization_ratio or 0.0 for process in processes)
    return Use(
        processes=len(processes),
        memory_bytes=None if None in memory else sum(size for size in memory if size is not None),
        sm_ratio=busy if sampled else None,
        mps=any(process.kind == "mps" for process in processes),
    )


def sm_weights(used: dict[Who, Use]) -> dict[Who, float] | None:
    """The parts (sum 1) of a slot's SM time by workload; None where processes cannot be told apart.

    Under MPS the driver may book every client's time to the server's process, so its samples divide nothing.
    """
    if len(used) > 1 and any(use.mps for use in used.values()):
        return None
    total = sum(use.sm_ratio or 0.0 for use in used.values())
    if total <= 0:
        return None
    return {one: (use.sm_ratio or 0.0) / total for one, use in used.items()}


def normalised(weights: Iterable[tuple[Who, float]]) -> dict[Who, float]:
    """Weights by workload that add up to 1; what is missing is nobody's, what is too much is scaled away."""
    summed: dict[Who, float] = {}
    for one, weight in weights:
        summed[one] = summed.get(one, 0.0) + weight
    total = sum(summed.values())
    if total >= 1:
        return {one: weight / total for one, weight in summed.items()}
    summed[NOBODY] = summed.get(NOBODY, 0.0) + 1 - total
    return summed
