"""Report rows of a window in; GPU time that served nobody, or somebody else, and what to do about it, out."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from zoneinfo import ZoneInfo

from agent.core.cost.evidence import (
    ACTIVE_STATES,
    HOUR_NS,
    Facts,
    Figure,
    Finding,
    gpu_seconds,
    grouped,
    hours,
    money,
    most_of,
    percent,
    ratio,
    since,
    time_of,
)
from agent.core.cost.reports import ReportRow

IDLE_RATIO = 0.25  # an engine that has room for a burst is idle for some of its time, and that is no waste
QUIET_RATIO = 0.01  # of an hour: less work than that is a probe, or a straggler
QUIET_DAYS = 2  # an hour of the day is quiet when it was on this many days, and on none it was not
DAY_HOURS = 24


def unused(facts: Facts) -> Iterator[Finding]:
    """Findings about states, each a part of the bill of its own."""
    for engine, rows in facts.engine_rows.items():
        yield from _idle(facts, engine, rows)
        yield from _warmup(facts, engine, rows)
    states = grouped(facts.places, "state")
    free = states.get("unallocated", [])
    stranded = [row for row in free if row.group.get("reason") == "mig_unpartitioned" or "::" in row.group["slot"]]
    yield from _stranded(facts, stranded)
    yield from _unallocated([row for row in free if row not in stranded], facts)
    for rows in _by(states.get("allocated_idle", ()), "namespace", "pod"):
        yield _allocated_idle(facts, rows)
    for rows in _by(states.get("broken", ()), "gpu"):
        yield _broken(facts, rows)
    if gap := states.get("gap"):
        yield _gap(facts, gap)
    for rows in _by(states.get("other_workload", ()), "namespace", "pod"):
        yield _other_workload(facts, rows)


def quiet_hours(rows: Iterable[ReportRow], zone: str) -> tuple[tuple[int, int], ...]:
    """Hours of the local day, as (first, last + 1), in which an engine had nothing to do on any day.

    `rows` are cut at hours. A range over midnight is told as one, such as (22, 6). Rows of more than an hour say
    nothing about hours: none is quiet then.
    """
    times: dict[int, list[int]] = {}  # start of the hour -> [active, all] ns
    for row in rows:
        if row.end_ns - row.start_ns > HOUR_NS:
            return ()
        time = times.setdefault(row.start_ns, [0, 0])
        time[0] += row.gpu_ns if row.group["state"] in ACTIVE_STATES else 0
        time[1] += row.gpu_ns
    local = ZoneInfo(zone)
    days: list[list[bool]] = [[] for _ in range(DAY_HOURS)]
    for start, (active, whole) in times.items():
        hour = datetime.fromtimestamp(start // 1_000_000_000, local).hour
        days[hour].append(active <= QUIET_RATIO * whole)
    quiet = [len(of) >= QUIET_DAYS and all(of) for of in days]
    if all(quiet):
        return ((0, DAY_HOURS),)
    begins = [hour for hour in range(DAY_HOURS) if quiet[hour] and not quiet[hour - 1]]
    found = []
    for begin in begins:
        end = begin + 1
        while quiet[end % DAY_HOURS]:
            end += 1
        found.append((begin, end if end <= DAY_HOURS else end - DAY_HOURS))
    return tuple(found)


def _idle(facts: Facts, engine: str, rows: list[ReportRow]) -> Iterator[Finding]:
    idle = [row for row in rows if row.group["state"] == "loaded_idle"]
    whole, waiting = time_of(rows), time_of(idle)
    if not whole or waiting < IDLE_RATIO * whole:
        return
    requests = sum(row.requests for row in rows)
    quiet = quiet_hours(facts.hours_of.get(engine, ()), facts.zone)
    told = ", ".join(f"{begin:02d}:00 to {end:02d}:00" for begin, end in quiet)
    figures = [
        gpu_seconds("idle", waiting),
        ratio("idle_share", waiting, whole),
        Figure("requests", requests, "requests"),
    ]
    served = f"it served {requests:,} requests in the rest" if requests else "no request came at all"
    summary = f"{engine} waited with its model loaded for {percent(waiting, whole)} of its time; {served}."
    advice = "Let another model share its GPU, run fewer replicas of it, or scale it down while it has little to do."
    if told and quiet != ((0, DAY_HOURS),):
        figures.append(Figure("quiet_hours", told, "text"))
        summary += f" Nothing came from {told} ({facts.zone}) on any day."
        advice = f"Stop it, or scale it to zero, from {told} ({facts.zone})."
    elif not requests and not time_of(rows, *ACTIVE_STATES):
        advice = "Stop it, if nobody is meant to use it."
    elsewhere = time_of(row for row in idle if row.group.get("reason") == "group_idle")
    if 2 * elsewhere > waiting:
        advice = "It works for an engine on other nodes that is idle: look at that engine."
    model = most_of({row.group["model"]: float(row.gpu_ns) for row in idle}, 1).rpartition(" 100 %")[0]
    yield Finding(
        kind="loaded_idle",
        where=_where(engine=engine, model=model),
        summary=summary,
        figures=tuple(figures),
        advice=advice,
        gpu_ns=waiting,
        cost_nano=money(idle),
        since_ns=since(idle),
        covered_ns=facts.covered_ns,
    )


def _warmup(facts: Facts, engine: str, rows: list[ReportRow]) -> Iterator[Finding]:
    warm = [row for row in rows if row.group["state"] == "warmup"]
    spent = time_of(warm)
    if not spent:
        return
    snapshot = facts.engines.get(engine)
    status = snapshot.status if snapshot else None
    figures = [gpu_seconds("warmup", spent), ratio("share", spent, time_of(rows))]
    summary = f"{engine} was starting for {hours(spent)} of GPU time."
    advice = "Restart it less often; keep weights and compiled kernels on a local disk, so that a start is short."
    if status is not None:
        figures.append(Figure("restarts", status.restarts, "count"))
        if status.restarts:
            summary += f" This agent has seen {status.restarts} restarts of it."
        if status.ready_after_seconds is not None:
            figures.append(Figure("ready_after", status.ready_after_seconds, "seconds"))
        if status.crash_looping:
            advice = "It crashes again and again: read its log before anything else."
        elif status.state != "ready":
            advice = "It is not ready now: read its log for what it waits for."
    yield Finding(
        kind="warmup",
        where=_where(engine=engine),
        summary=summary,
        figures=tuple(figures),
        advice=advice,
        gpu_ns=spent,
        cost_nano=money(warm),
        since_ns=since(warm),
        covered_ns=facts.covered_ns,
    )


def _unallocated(rows: list[ReportRow], facts: Facts) -> Iterator[Finding]:
    for gpu_model, free in grouped(rows, "gpu_model").items():
        spent = time_of(free)
        if not spent:
            continue
        gpus = {row.group["gpu"] for row in free}
        mean = spent / facts.covered_ns if facts.covered_ns else 0.0
        yield Finding(
            kind="unallocated",
            where=_where(gpu_model=gpu_model, gpu=gpus.pop() if len(gpus) == 1 else ""),
            summary=f"{_count(mean)} of the model {gpu_model} {'was' if mean <= 1 else 'were'} free on average: "
            f"{hours(spent)} of GPU time.",
            figures=(gpu_seconds("unallocated", spent), Figure("gpus_mean", mean, "count")),
            advice="Give them work, or give them back; a node with fewer GPUs may do.",
            gpu_ns=spent,
            cost_nano=money(free),
            since_ns=since(free),
            covered_ns=facts.covered_ns,
        )


def _stranded(facts: Facts, rows: list[ReportRow]) -> Iterator[Finding]:
    for gpu, free in grouped(rows, "gpu").items():
        spent = time_of(free)
        whole = time_of(row for row in facts.places if row.group["gpu"] == gpu)
        rest = any(row.group.get("reason") == "mig_unpartitioned" for row in free)
        now = [slot for slot in facts.slots if slot.gpu == gpu and slot.stranded_cause == "mig_unpartitioned"]
        figures = [gpu_seconds("stranded", spent), ratio("share_of_gpu", spent, whole)]
        if now:
            figures.append(Figure("memory_now", sum(slot.stranded_bytes or 0 for slot in now), "bytes"))
        yield Finding(
            kind="stranded",
            where=_where(gpu=gpu, gpu_model=free[0].group.get("gpu_model", "")),
            summary=f"{percent(spent, whole)} of {_shown(facts, gpu)} was in no "
            f"{'MIG device' if rest else 'share that is held'}: nobody could use it.",
            figures=tuple(figures),
            advice="Cut it into MIG devices that add up to the whole."
            if rest
            else "Share it into as many parts as are used.",
            gpu_ns=spent,
            cost_nano=money(free),
            since_ns=since(free),
            covered_ns=facts.covered_ns,
        )


def _allocated_idle(facts: Facts, rows: list[ReportRow]) -> Finding:
    group, spent = rows[0].group, time_of(rows)
    namespace, pod = group.get("namespace", ""), group.get("pod", "")
    who = f"{namespace}/{pod}" if namespace else pod or "somebody"
    kept = "no memory" if all(row.group.get("reason") == "held_empty" for row in rows) else "no process"
    return Finding(
        kind="allocated_idle",
        where=_where(namespace=namespace, pod=pod, gpu=_only(rows, "gpu")),
        summary=f"{who} held GPUs for {hours(spent)} of GPU time with {kept} on them.",
        figures=(gpu_seconds("held", spent), Figure("slots", len({row.group["slot"] for row in rows}), "count")),
        advice="Ask its owner; delete the pod, or let it ask for GPUs only while it computes.",
        gpu_ns=spent,
        cost_nano=money(rows),
        since_ns=since(rows),
        covered_ns=facts.covered_ns,
    )


def _broken(facts: Facts, rows: list[ReportRow]) -> Finding:
    spent, gpu = time_of(rows), rows[0].group["gpu"]
    why = most_of({reason: float(time_of(of)) for reason, of in grouped(rows, "reason").items()}).replace("_", " ")
    return Finding(
        kind="broken",
        where=_where(gpu=gpu, gpu_model=rows[0].group.get("gpu_model", "")),
        summary=f"{_shown(facts, gpu)} could not be used for {hours(spent)}: {why or 'it does not answer'}.",
        figures=(gpu_seconds("broken", spent),),
        advice="Look at its Xid errors; reset it, reboot the node, or have it replaced.",
        gpu_ns=spent,
        cost_nano=money(rows),
        since_ns=since(rows),
        covered_ns=facts.covered_ns,
    )


def _gap(facts: Facts, rows: list[ReportRow]) -> Finding:
    spent = time_of(rows)
    return Finding(
        kind="gap",
        where={},
        summary=f"For {hours(spent)} of GPU time nobody was watching: what it was used for is not known.",
        figures=(gpu_seconds("gap", spent), ratio("share", spent, facts.gpu_ns)),
        advice="Keep the agent running; `engineroom doctor` says what it may not read.",
        gpu_ns=spent,
        cost_nano=money(rows),
        since_ns=since(rows),
        covered_ns=facts.covered_ns,
    )


def _other_workload(facts: Facts, rows: list[ReportRow]) -> Finding:
    group, spent = rows[0].group, time_of(rows)
    namespace, pod = group.get("namespace", ""), group.get("pod", "")
    who = f"{namespace}/{pod}" if namespace else pod or "Processes that are no inference engine"
    return Finding(
        kind="other_workload",
        where=_where(namespace=namespace, pod=pod, gpu=_only(rows, "gpu")),
        summary=f"{who} used {hours(spent)} of GPU time for other work than inference.",
        figures=(gpu_seconds("used", spent), ratio("share", spent, facts.gpu_ns)),
        advice="Nothing, if it is meant to be there: it is in nobody's cost of requests.",
        gpu_ns=spent,
        cost_nano=money(rows),
        since_ns=since(rows),
        covered_ns=facts.covered_ns,
        is_waste=False,
    )


def _by(rows: Iterable[ReportRow], *names: str) -> list[list[ReportRow]]:
    """Rows that agree in these dimensions; those of nobody are a group too."""
    found: dict[tuple[str, ...], list[ReportRow]] = {}
    for row in rows:
        found.setdefault(tuple(row.group.get(name, "") for name in names), []).append(row)
    return [of for of in found.values() if time_of(of)]


def _shown(facts: Facts, gpu: str) -> str:
    """A GPU by its index where it is listed now, else by its uuid."""
    index = next((slot.index for slot in facts.slots if slot.gpu == gpu and slot.index is not None), None)
    return gpu if index is None else f"GPU {index}"


def _count(mean: float) -> str:
    return "1 GPU" if round(mean, 1) == 1 else f"{mean:.2g} GPUs"


def _only(rows: Iterable[ReportRow], name: str) -> str:
    """The value of a dimension that all rows share, or ''."""
    values = {row.group.get(name, "") for row in rows}
    return values.pop() if len(values) == 1 else ""


def _where(**names: str) -> dict[str, str]:
    return {name: value for name, value in names.items() if value}
