"""How far prices of requests are from what the requests truly cost, at three loads: our tariff beside six others.

A simulated engine (`bench.tariff_engine`) says when each request ran and what it cost: the Shapley value of each step's
time. Our tariff is the real one. It is told what an agent is told, when it is told: GPU and engine snapshots and the
progress of streams once a second, usage at the end of a request, before that an estimate of its prompt from the length
of its body; and it closes each second five seconds later. What it knows of the model is right, or wrong by two; what
its fit learns, it learns on the way. The error is the mean over requests of |price - cost| / cost.

The bars are what `reference/cost-tracing.md` section 3.2 measured for this method. The others' errors are after scaling
their prices to the true total; `..._billed_percent` says what they would have billed of it without.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from agent.core.cost.constants import WorkConstants
from agent.core.cost.shapes import Efficiency, ModelShape
from agent.core.cost.tariff import Tariff
from bench.figures import Figure
from bench.tariff_engine import (
    ACTIVE_PARAMETERS,
    KV_BYTES,
    MEMORY_EFFICIENCY,
    MFU,
    Run,
    arrivals,
    simulate,
)
from bench.tariff_told import Telling
from tests.support.money import MODEL, book, engine, gpus

NS = 1_000_000_000
T0 = 1_800_000_000 * NS
WATERMARK_NS = 5 * NS
BAR_BOOKED_PERCENT = 0.05  # noise of the counters adds a little traffic past the sidecar that was not there
ENGINE, SERVED = "vllm", "llama"


@dataclass(frozen=True, slots=True)
class Load:
    """How much arrives for how long, and how far prices may be off, in percent."""

    name: str
    seconds: float
    per_second: float
    bar: float


LOADS = (Load("light", 400, 0.38, 6.0), Load("medium", 200, 1.45, 5.0), Load("heavy", 120, 3.8, 7.0))


class Bill:
    """Our tariff over a run: what it booked to each request, in ns of the GPU."""

    def __init__(self, run: Run, known: WorkConstants) -> None:
        self.known = known
        self.tariff = Tariff(book(), constants_of=known.constants_of, observe=known.observe)
        self.telling = Telling(run.sequences, ENGINE, SERVED, T0)
        self.states: dict[str, int] = {}  # state -> ns
        self.closed_ns = 0

    def close(self) -> list[int]:
        """Live through all of it, second by second."""
        end = self.telling.ended_ns + WATERMARK_NS + NS
        now = T0
        self.known.tell_gpus(ENGINE, [(MODEL, 1.0)])
        while now <= end:
            for live in self.telling.until(now):
                self.tariff.add(live)
            output, running = self.telling.counted(now)
            self.tariff.see_gpus(now, gpus(now))
            self.tariff.see_engine(now, engine(now, output=float(output), running=float(running)))
            self._settle(now - WATERMARK_NS)
            now += NS
        return [live.gpu_ns for live in self.telling.lives]

    def _settle(self, until_ns: int) -> None:
        through = self.tariff.through_ns
        if through is None or until_ns <= through:
            return
        closed = self.tariff.close(until_ns)
        if closed is None:
            return
        self.closed_ns += closed.through_ns - closed.from_ns
        for place, amount in closed.entries.items():
            self.states[place.state] = self.states.get(place.state, 0) + amount.gpu_ns


def known(factor: float = 1.0, *, fit: bool = False) -> WorkConstants:
    """The shape of the simulated model, its constants wrong by `factor`."""
    shape = ModelShape(active_parameters=ACTIVE_PARAMETERS, kv_bytes_per_token=KV_BYTES, source="config")
    efficiency = Efficiency(MFU / factor, MEMORY_EFFICIENCY / factor)
    return WorkConstants([("*", shape)], efficiency=efficiency, fit=fit)


def error_percent(run: Run, prices: Iterable[float]) -> float:
    """Mean over requests, prices scaled to the true total."""
    prices = list(prices)
    scale = run.busy_ns / sum(prices)
    apart = [abs(p * scale - s.true_ns) / s.true_ns for p, s in zip(prices, run.sequences, strict=True)]
    return 100 * sum(apart) / len(apart)


def by_tokens(weight: float) -> Callable[[Run], list[float]]:
    """So much for an output token, 1 for a token of a prompt, cached or not."""
    return lambda run: [s.cached + s.fresh + weight * s.output for s in run.sequences]


def by_residence(run: Run) -> list[float]:
    """Time on the engine is divided into that before and after first tokens; each pool goes by its tokens."""
    before = sum(s.tokens[0] - s.arrived_ns for s in run.sequences)
    after = sum(s.ended_ns - s.tokens[0] for s in run.sequences)
    read, written = sum(s.fresh for s in run.sequences), sum(s.output for s in run.sequences)
    rates = before / read, after / written
    return [rates[0] * s.fresh + rates[1] * s.output for s in run.sequences]


def by_latency(run: Run) -> list[float]:
    """The rate of the GPU times how long it took: everybody pays for the whole of it."""
    return [float(s.ended_ns - s.arrived_ns) for s in run.sequences]


OTHERS: dict[str, Callable[[Run], list[float]]] = {
    "flat_per_token": by_tokens(1.0),
    "tokens_1_to_2.5": by_tokens(2.5),
    "residence": by_residence,
    "latency": by_latency,
}


def variants() -> dict[str, WorkConstants]:
    """Ours, in other settings than by default."""
    return {
        "equal_share": WorkConstants(),
        "shape_only": known(),
        "shape_twice": known(2.0),
        "shape_half": known(0.5),
        "fit_from_twice": known(2.0, fit=True),
        "fit_from_half": known(0.5, fit=True),
    }


def _tell(name: str, value: float, unit: str = "%") -> None:
    print(f"{name} {value:.4g} {unit}", flush=True)


def measure(load: Load, seed: int = 1) -> list[Figure]:
    """The figures of one load; the others' are printed."""
    run = simulate(arrivals(load.seconds, load.per_second, seed), seed)
    name = f"tariff_error_{load.name}"
    _tell(f"tariff_{load.name}_requests", len(run.sequences), "requests")
    _tell(f"tariff_{load.name}_concurrency", run.concurrency, "requests")
    for other, method in OTHERS.items():
        _tell(f"{name}_{other}_percent", error_percent(run, method(run)))
    _tell(f"tariff_{load.name}_latency_billed_percent", 100 * sum(by_latency(run)) / run.busy_ns)
    for other, constants in variants().items():
        _tell(f"{name}_{other}_percent", error_percent(run, Bill(run, constants).close()))
    bill = Bill(run, known(fit=True))
    prices = bill.close()
    booked = sum(prices) + bill.states.get("unattributed", 0)
    off = abs(sum(bill.states.values()) - bill.closed_ns) + abs(sum(prices) - bill.states["request"])
    return [
        Figure(name=f"{name}_percent", value=error_percent(run, prices), unit="%", bar=load.bar, better="lower"),
        Figure(
            name=f"tariff_{load.name}_booked_beside_busy_percent",
            value=100 * abs(booked / run.busy_ns - 1),
            unit="%",
            bar=BAR_BOOKED_PERCENT,
            better="lower",
        ),
        Figure(name=f"tariff_{load.name}_identity_off", value=off, unit="ns", bar=0, better="lower"),
    ]


def run() -> list[Figure]:
    """All three loads."""
    return [figure for load in LOADS for figure in measure(load)]
