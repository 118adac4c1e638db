"""Windows of a made-up node: report rows written as a few words, the facts around them."""

from collections.abc import Iterable
from typing import Any

from agent.core.cost.evidence import Facts, Finding
from agent.core.cost.reports import GpuPrice, ReportRow
from agent.core.cost.savings import savings

NS = 1_000_000_000
HOUR_NS = 3600 * NS
DAY_NS = 24 * HOUR_NS
T0 = 1_793_491_200 * NS  # 2026-11-01T00:00:00Z
PER_HOUR_NANO = 10_000_000_000
H100 = "NVIDIA H100 80GB HBM3"
PLACE = {
    "state": "request", "reason": "process", "engine": "chat", "model": "qwen", "gpu": "GPU-0", "gpu_model": H100,
    "slot": "GPU-0", "namespace": "", "pod": "",
}  # fmt: skip
REQUEST = {"state": "request", "outcome": "ok", "engine": "chat", "model": "qwen", "tenant": "acme"}
EMPTY = {"engine": "", "model": ""}


def row(group: dict[str, str], hours: float, *, priced: bool = True, **fields: Any) -> ReportRow:
    """A row of so many GPU hours at 10 an hour."""
    gpu_ns = round(hours * HOUR_NS)
    nano = gpu_ns * PER_HOUR_NANO // HOUR_NS if priced else None
    return ReportRow(
        **{"start_ns": T0, "end_ns": T0 + 30 * DAY_NS, "cost_nano": nano, **fields}, group=group, gpu_ns=gpu_ns
    )


def place(state: str, hours: float, *, priced: bool = True, requests: int = 0, **names: str) -> ReportRow:
    """A row of `savings.PLACES`. What no engine has names none."""
    owned = state in ("request", "unattributed", "loaded_idle", "warmup")
    base = PLACE if owned else PLACE | EMPTY
    names = {"slot": names["gpu"], **names} if "gpu" in names else names
    return row(base | {"state": state} | names, hours, priced=priced, requests=requests)


def outcome(of: str, hours: float, requests: int, tokens: tuple[int, int, int] = (0, 0, 0), **names: str) -> ReportRow:
    """A row of `savings.REQUESTS`; `tokens`: of the prompt, the cached ones of these, of the answer."""
    read, cached, wrote = tokens
    counts = {"requests": requests, "input_tokens": read, "input_cached_tokens": cached, "output_tokens": wrote}
    return row(REQUEST | {"outcome": of} | names, hours, **counts)


def hour(at: int, state: str, part: float = 1.0, *, tokens: tuple[int, int] = (0, 0), requests: int = 0) -> ReportRow:
    """A row of `savings.HOURS`: the engine was so for a part of the hour `at` hours after `T0`."""
    start = T0 + at * HOUR_NS
    group = {"state": state, "engine": "chat", "model": "qwen"}
    more = {"requests": requests, "input_tokens": tokens[0], "input_cached_tokens": tokens[1]}
    return row(group, part, start_ns=start, end_ns=start + HOUR_NS, **more)


def facts(places: Iterable[ReportRow], days: float = 30, **changes: Any) -> Facts:
    """Facts of a window that begins at `T0`."""
    end = T0 + round(days * DAY_NS)
    return Facts(**{"start_ns": T0, "end_ns": end, "places": tuple(places), "currency": "CNY", **changes})


def found(of: Facts) -> dict[str, Finding]:
    """The findings worth telling, by kind; fails where a kind is there twice."""
    told = savings(of).findings
    by_kind = {finding.kind: finding for finding in told}
    assert len(by_kind) == len(told), [finding.summary for finding in told]
    return dict(by_kind)


def figure(finding: Finding, name: str) -> Any:
    """One figure of the evidence."""
    (value,) = [each.value for each in finding.figures if each.name == name]
    return value


def priced(**per_hour: float) -> Any:
    """A price book by the last word of a GPU's name; `H100` also stands for "80GB HBM3"."""

    def price_of(gpu_model: str) -> GpuPrice | None:
        for name, price in per_hour.items():
            if gpu_model.endswith(name) or (name == "H100" and gpu_model == H100):
                return GpuPrice(
                    gpu_model=gpu_model, currency="CNY", nano_per_hour=round(price * 1e9), effective_from="always"
                )
        return None

    return price_of
