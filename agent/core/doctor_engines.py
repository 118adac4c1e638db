"""What is known of the engines in, what each does not tell and what would give it out: the engine part of `doctor`."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from agent.core.advising import WORTH_A_NOTE, open_advice
from agent.core.cost.present import PresentSlot
from agent.core.findings import Finding, Severity
from agent.core.gpu_readings import GpuSnapshot
from agent.core.quantiles import around
from agent.core.readings import EngineSnapshot, EngineStatus
from agent.core.workloads import Attribution, SlotUser

RULE_SECONDS = 2.0  # where the shipped latency rule looks
MOST_NAMES = 3
MOST_REFUSED = 8
SIDECAR = "put the sidecar in front of it"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """What `doctor` is told of engines beside their own snapshots."""

    slots: Collection[PresentSlot] = ()
    refused: Mapping[str, str] = field(default_factory=dict)  # port or process that nobody asks → why
    measured_by_sidecar: Collection[str] = ()  # engines whose request durations are the sidecar's
    bounds_flags: Mapping[str, str] = field(default_factory=dict)  # kind → the option that sets a histogram's bounds


def examine_engines(
    engines: Mapping[str, EngineSnapshot], gpus: GpuSnapshot | None, workloads: Attribution | None, facts: EngineFacts
) -> Iterator[Finding]:
    """Findings about engines, and about GPUs that no engine accounts for."""
    for name, snapshot in sorted(engines.items()):
        yield from _state(name, snapshot.status)
        if snapshot.status.state == "ready":
            if gpus is None or gpus.gpus:
                yield from _place(name, snapshot.status, workloads, facts)
            if name not in facts.measured_by_sidecar:
                yield from _bounds(name, snapshot, facts)
    yield from _advice(engines, facts.measured_by_sidecar)
    yield from _strangers(engines, gpus, workloads, facts)
    yield from _refused(facts.refused)


def _state(name: str, status: EngineStatus) -> Iterator[Finding]:
    subject = f"engine {name}"
    why = f": {status.reason}" if status.reason else ""
    if status.crash_looping:
        text = f"crash looping: it was restarted {status.restarts} times{why}. Its own log says why it ends"
        yield Finding(severity="broken", subject=subject, text=text)
    elif status.state == "ready":
        if status.reason:
            yield Finding(severity="note", subject=subject, text=status.reason)
    else:
        yield Finding(severity=_severity(status), subject=subject, text=status.state.replace("_", " ") + why)


def _severity(status: EngineStatus) -> Severity:
    """An engine that starts is well; one that serves, or that nobody can ask, lacks figures and is not broken."""
    if status.state == "starting":
        return "note"
    return "missing" if status.ready or not status.url else "broken"


def _place(name: str, status: EngineStatus, workloads: Attribution | None, facts: EngineFacts) -> Iterator[Finding]:
    """Where it works: its processes, and the slots that they are on."""
    if status.gpus or any(name in slot.engines for slot in facts.slots):
        return
    if not status.pids:
        if any(one.signal == "processes" for one in status.advice):
            return  # said there, with more knowledge
        text = (
            "its processes are not visible, so its GPUs are not known: name them (engines.targets, gpus), or let "
            "the agent see the host's processes (hostPID: true and the capability SYS_PTRACE)"
        )
        yield Finding(severity="missing", subject=f"engine {name}", text=text)
    elif workloads is not None and workloads.users_known and not _on_a_gpu(status, workloads):
        pids = _some([str(pid) for pid in status.pids])
        text = (
            f"none of its processes ({pids}) is on a GPU of this node, so no GPU time is booked to it. If it does use "
            "one, name it (engines.targets, gpus)"
        )
        yield Finding(severity="note", subject=f"engine {name}", text=text)


def _on_a_gpu(status: EngineStatus, workloads: Attribution) -> bool:
    return any(user.pid in status.pids for user in workloads.users)


def _bounds(name: str, snapshot: EngineSnapshot, facts: EngineFacts) -> Iterator[Finding]:
    """Whether the engine's own buckets can tell what the latency rule asks."""
    for reading in snapshot.readings:
        histogram = reading.request_duration_seconds
        gap = around(histogram.bounds, RULE_SECONDS) if histogram and histogram.bounds else None
        if gap is None:
            continue
        flag = facts.bounds_flags.get(reading.kind, "")
        own = f"give its buckets a bound at {RULE_SECONDS:g} ({flag}), or " if flag else ""
        between = (
            f"p99 is interpolated between {gap[0]:g} and {gap[1]:g} s there"
            if gap[1] is not None
            else f"all it can say is that p99 is above {gap[0]:g} s"
        )
        text = (
            f"its own histogram of request durations has no bound at {RULE_SECONDS:g} s, where the latency rule looks: "
            f"{between}; {own}{SIDECAR}, which has that bound"
        )
        yield Finding(severity="missing", subject=f"engine {name}", text=text)
        return  # the bounds are the engine's, and not each model's


def _advice(engines: Mapping[str, EngineSnapshot], measured_by_sidecar: Collection[str]) -> Iterator[Finding]:
    """One finding for each text: several signals and several engines often need the same."""
    found: dict[str, tuple[list[str], list[str]]] = {}
    for name, snapshot in sorted(engines.items()):
        for signal, text in open_advice(snapshot.status, has_sidecar=name in measured_by_sidecar):
            names, signals = found.setdefault(text, ([], []))
            names += [name] if name not in names else []
            signals += [signal] if signal not in signals else []
    for text, (names, signals) in found.items():
        subject = f"engine {names[0]}" if len(names) == 1 else f"engines {_some(names)}"
        needed = not WORTH_A_NOTE.issuperset(signals)
        yield Finding(
            severity="missing" if needed else "note", subject=subject, text=f"no {', '.join(signals)}: {text}"
        )


def _strangers(
    engines: Mapping[str, EngineSnapshot], gpus: GpuSnapshot | None, workloads: Attribution | None, facts: EngineFacts
) -> Iterator[Finding]:
    """GPUs with processes that belong to no engine."""
    if workloads is None or not workloads.users_known:
        return
    ours = {pid for snapshot in engines.values() for pid in snapshot.status.pids}
    ours_too = {slot.slot.partition("::")[0] for slot in facts.slots if slot.engines}  # the bill says so
    ours_too |= {slot for snapshot in engines.values() for slot in snapshot.status.gpus}
    strangers: dict[str, list[str]] = {}
    for user in workloads.users:
        if user.pid not in ours and user.slot not in ours_too:
            strangers.setdefault(user.slot, []).append(_named(user))
    subjects = _subjects(gpus)
    for slot, names in strangers.items():
        text = (
            f"used by {_some(list(dict.fromkeys(names)))}, which no engine that we know accounts for: its time is "
            "booked as other_workload. If that serves a model, name it (engines.targets, with its url and gpus)"
        )
        yield Finding(severity="note", subject=subjects.get(slot, f"slot {slot}"), text=text)


def _subjects(gpus: GpuSnapshot | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for gpu in gpus.gpus if gpus else ():
        name = f"GPU {gpu.index} {gpu.model}".rstrip()
        found[gpu.uuid] = name
        found |= {mig.uuid: f"{name}, {mig.profile}" for mig in gpu.mig or ()}
    return found


def _named(user: SlotUser) -> str:
    work, place = user.workload, ""
    if work is not None and work.pod:
        place = f" of {work.namespace}/{work.pod}"
    elif work is not None and work.job:
        place = f" of job {work.job}"
    return f"{user.name or 'process'} {user.pid}{place}"


def _refused(refused: Mapping[str, str]) -> Iterator[Finding]:
    for place, why in sorted(refused.items())[:MOST_REFUSED]:
        yield Finding(severity="note", subject=f"not asked: {place}", text=why)
    more = len(refused) - MOST_REFUSED
    if more > 0:
        yield Finding(severity="note", subject="not asked", text=f"{more} more ports and processes that are no engines")


def _some(names: Iterable[str]) -> str:
    """The first few, and how many there are besides."""
    every = list(names)
    more = len(every) - MOST_NAMES
    return ", ".join(every[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
