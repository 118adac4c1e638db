"""What an engine needs of its GPUs, and the price book, in; the cheaper GPU that it would run on, and the saving, out.

Nothing is proposed unless memory and load are known, for long enough. Memory of a GPU is what `nvidia-smi` shows as its
total with error correction on (MiB), which is less than the name says; other peaks are those of `shapes.power_of`.
"""

from collections.abc import Iterator
from typing import NamedTuple

from agent.core.cost.engine_days import Observed
from agent.core.cost.evidence import (
    ACTIVE_STATES,
    HOUR_NS,
    Facts,
    Figure,
    Finding,
    hours,
    money,
    percent,
    time_of,
)
from agent.core.cost.reports import ReportRow
from agent.core.cost.shapes import power_of

MIB = 1 << 20
MEMORY_MIB = {
    "NVIDIA B200": 183359,
    "NVIDIA H200": 143771,
    "NVIDIA H20": 97871,
    "NVIDIA H100 NVL": 95830,
    "NVIDIA H100 80GB HBM3": 81559,
    "NVIDIA H100 PCIe": 81559,
    "NVIDIA A100-SXM4-80GB": 81920,
    "NVIDIA A100 80GB PCIe": 81920,
    "NVIDIA A100-SXM4-40GB": 40960,
    "NVIDIA A100-PCIE-40GB": 40960,
    "NVIDIA L40S": 46068,
    "NVIDIA L40": 46068,
    "NVIDIA L20": 46068,
    "NVIDIA A40": 46068,
    "NVIDIA RTX A6000": 46068,
    "NVIDIA RTX 6000 Ada Generation": 46068,
    "NVIDIA GeForce RTX 5090": 32607,
    "Tesla V100-SXM2-32GB": 32768,
    "NVIDIA A30": 24576,
    "NVIDIA GeForce RTX 4090": 24564,
    "NVIDIA GeForce RTX 3090": 24576,
    "NVIDIA L4": 23034,
    "NVIDIA A10": 23028,
    "NVIDIA A10G": 23028,
    "Tesla V100-SXM2-16GB": 16384,
    "Tesla T4": 15360,
}
"""By the names that NVML gives: the price book's patterns are asked for them as for a GPU that is there."""

LEAST_SEEN_NS = 24 * HOUR_NS  # a day has its peak in it
MOST_BUSY = 0.8  # part of its busiest hour that the engine may be at work on the smaller GPU
MOST_SLOWDOWN = 4.0  # answers that take longer than that are another service
ROOM = 1.1  # of the memory that is needed: fragments, and what a graph or a longer prompt takes
OWN_BYTES = 2 << 30  # a process has besides weights and cache: contexts, kernels, activations
KV_ROOM = 1.25  # of the most that was in the cache


class Need(NamedTuple):
    """What an engine needs of each of its `gpus`. `how`: for people."""

    memory_bytes: int
    gpus: int
    busy: float  # part of its busiest hour with at least one request
    how: str


class Fit(NamedTuple):
    """A cheaper GPU on which it would run, `slowdown` times as slow at most."""

    gpu_model: str
    nano_per_hour: int
    memory_bytes: int
    slowdown: float


def fitting_hardware(facts: Facts) -> Iterator[Finding]:
    """One finding for each engine that would run on something cheaper: the cheapest that fits."""
    for engine, rows in facts.engine_rows.items():
        gpu_model = _whole_gpus_of(rows)
        now = facts.price_of(gpu_model) if gpu_model else None
        need = need_of(facts, engine, rows)
        cost = money(rows)
        if now is None or need is None or not cost:
            continue
        fit = cheapest_fit(facts, need, gpu_model, now.nano_per_hour)
        if fit is None:
            continue
        seen = facts.observed[engine]
        models = sorted({row.group["model"] for row in rows if row.group["model"]})
        saved = cost - cost * fit.nano_per_hour // now.nano_per_hour
        yield Finding(
            kind="smaller_hardware",
            where={"engine": engine, "gpu_model": gpu_model, **({"model": models[0]} if len(models) == 1 else {})},
            summary=f"{engine} needs {need.memory_bytes / 2**30:.0f} GiB on each of {need.gpus} "
            f"{'GPU' if need.gpus == 1 else 'GPUs'} and works for {percent(need.busy, 1)} of its busiest hour: "
            f"{fit.gpu_model} ({fit.memory_bytes / 2**30:.0f} GiB) would do in place of {gpu_model}.",
            figures=(
                Figure("memory_needed", need.memory_bytes, "bytes"),
                Figure("memory_of_smaller", fit.memory_bytes, "bytes"),
                Figure("gpus", need.gpus, "count"),
                Figure("busiest_hour", need.busy, "ratio"),
                Figure("slowdown_at_most", fit.slowdown, "ratio"),
                Figure("price_now", now.nano_per_hour, "nano_per_hour"),
                Figure("price_smaller", fit.nano_per_hour, "nano_per_hour"),
                Figure("seen_for", seen.seen_ns / 1e9, "seconds"),
            ),
            advice=f"Try it on {fit.gpu_model} with a copy of the load, and look at latencies before you move it.",
            gpu_ns=time_of(rows),
            cost_nano=saved,
            covered_ns=facts.covered_ns,
            is_part=False,
            limits=f"Memory: {need.how}, seen for {hours(seen.seen_ns)}. Answers take up to {fit.slowdown:.1f} times "
            "as long (peaks of arithmetic and memory bandwidth compared; other limits, such as links between GPUs, "
            "are not). A GPU that is owned saves money only once something else uses it.",
        )


def need_of(facts: Facts, engine: str, rows: list[ReportRow]) -> Need | None:
    """What an engine needs; None when its memory or its load is not known, or not for long enough."""
    seen = facts.observed.get(engine)
    busy = _busiest_hour(facts, engine)
    gpus = facts.gpus_of(engine)
    if seen is None or seen.seen_ns < LEAST_SEEN_NS or busy is None:
        return None
    if seen.gpu_memory_bytes is None or seen.gpus != gpus:
        return None
    taken = round(ROOM * seen.gpu_memory_bytes)
    used = _used_bytes(facts, engine, rows, seen)
    if used is not None and used < taken:
        return Need(used, gpus, busy, "weights by the model's shape, and a quarter more cache than was ever in use")
    return Need(taken, gpus, busy, "the most that its processes ever had, of which a part may be spare")


def cheapest_fit(facts: Facts, need: Need, gpu_model: str, nano_per_hour: int) -> Fit | None:
    """The cheapest GPU of the price book with enough memory that is fast enough; None when there is none."""
    power = power_of(gpu_model)
    if power is None:
        return None
    found = []
    for name, mib in MEMORY_MIB.items():
        price, other = facts.price_of(name), power_of(name)
        if price is None or other is None or not 0 < price.nano_per_hour < nano_per_hour:
            continue
        slowdown = max(1.0, power.flops / other.flops, power.bandwidth / other.bandwidth)
        fast = slowdown <= MOST_SLOWDOWN and need.busy * slowdown <= MOST_BUSY
        if fast and mib * MIB >= need.memory_bytes:
            found.append(Fit(name, price.nano_per_hour, mib * MIB, slowdown))
    return min(found, key=lambda fit: (fit.nano_per_hour, fit.slowdown, fit.gpu_model), default=None)


def _used_bytes(facts: Facts, engine: str, rows: list[ReportRow], seen: Observed) -> int | None:
    """Memory on each GPU that is used of what was taken: engines such as vLLM take nearly all there is, for cache."""
    models = {row.group["model"] for row in rows if row.group["model"]}
    if len(models) != 1 or seen.kv_cache_usage_ratio is None or seen.gpu_memory_bytes is None:
        return None
    shape = facts.shape_of(engine, models.pop())
    if shape is None or shape.total_parameters is None or shape.bytes_per_parameter is None:
        return None
    weights = shape.total_parameters * shape.bytes_per_parameter / max(1, seen.gpus)
    cache = max(0.0, seen.gpu_memory_bytes - weights)
    return round(ROOM * (weights + min(1.0, KV_ROOM * seen.kv_cache_usage_ratio) * cache + OWN_BYTES))


def _busiest_hour(facts: Facts, engine: str) -> float | None:
    active: dict[int, int] = {}
    whole: dict[int, int] = {}
    for row in facts.hours_of.get(engine, ()):
        if row.end_ns - row.start_ns > HOUR_NS:
            return None
        whole[row.start_ns] = whole.get(row.start_ns, 0) + row.gpu_ns
        if row.group["state"] in ACTIVE_STATES:
            active[row.start_ns] = active.get(row.start_ns, 0) + row.gpu_ns
    return max((active.get(start, 0) / ns for start, ns in whole.items() if ns > 0), default=None)


def _whole_gpus_of(rows: list[ReportRow]) -> str:
    """The model of an engine's GPUs where it has whole ones, all of a kind; else ''."""
    if any(row.group["slot"] not in ("", row.group["gpu"]) for row in rows):
        return ""
    models = {row.group["gpu_model"] for row in rows}
    return models.pop() if len(models) == 1 else ""
