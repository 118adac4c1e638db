"""The identity: whatever happens to GPUs, engines, requests, prices, meters and the agent, the parts are the whole.

For every GPU: parts == wall time, == bill (prices and wall time alone, a few lines below), == what its meter counted;
and what requests were told they cost == what is booked as `request`.
"""

import random
from collections import Counter
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.cost.closed import IN_FLIGHT, Amount, Closed
from agent.core.cost.live import Booking, Live
from agent.core.cost.prices import Part, PriceBook, PriceRow
from agent.core.cost.tariff import Tariff
from agent.core.cost.work import Constants
from agent.core.gpu_readings import GpuReading, GpuSnapshot
from agent.core.requests import Usage
from tests.support.engine_groups import scraped as scraped_worker
from tests.support.engine_groups import worker
from tests.support.money import NS, UPSTREAM, engine
from tests.support.slots import GIB, cut, device, gpu, held, known, pod, process, user

T0 = 1_800_000_000 * NS
WATERMARK = 5 * NS
UUIDS = ("GPU-0", "GPU-1", "GPU-2")
PODS = [pod(name) for name in "abc"]
QUANTITIES = ("gpu_ns", "nano", "work_ns", "energy_uj", "metered_ns")
OUTCOMES = ("ok", "ok", "ok", "error", "timeout", "client_abort", "rejected", "lost")


def bill(prices: list[tuple[int, Fraction]], from_ns: int, to_ns: int) -> int:
    """The witness: prices per hour from an instant on, and the wall time."""
    ends = [at for at, _ in prices[1:]] + [to_ns]
    spans = [(p, max(0, min(end, to_ns) - max(at, from_ns))) for (at, p), end in zip(prices, ends, strict=True)]
    whole = sum((price * 10**9 * ns / (3600 * NS) for price, ns in spans), Fraction())
    return whole.numerator // whole.denominator


def counted(readings: list[tuple[str, float]]) -> int:
    """The witness of the meter: it only ever counts up, until it begins anew."""
    pairs = pairwise(readings)
    return sum(round(b * 10**6) - round(a * 10**6) for (s, a), (t, b) in pairs if s == t and b >= a)


@dataclass
class World:
    """A node told second by second, closed five seconds later, now and then started anew."""

    seed: int
    seconds: int
    constants: bool
    prices: list[tuple[int, Fraction]] = field(init=False)
    meters: dict[str, list[tuple[str, float]]] = field(default_factory=lambda: {uuid: [] for uuid in UUIDS})
    steps: list[Closed] = field(default_factory=list)
    requests: dict[str, Live] = field(default_factory=dict)
    had_restart: bool = False
    unseen: set[str] = field(default_factory=set)  # GPUs whose meter was not read since the agent began

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)
        self.prices = [(0, self._some_price())]
        self.tariff = self._new_tariff()
        self.joules = {uuid: self.dice.random() * 1e6 for uuid in UUIDS}
        self.layout = self._some_layout()
        self.ends: dict[str, int] = {}

    def _some_price(self) -> Fraction:
        return Fraction(self.dice.randrange(10**10), self.dice.randrange(1, 10**9))

    def _new_tariff(self) -> Tariff:
        rows = [PriceRow("*", (Part("rent", price),), at) for at, price in self.prices]
        known_shapes = {"m": Constants(3e6, 5e3), "n": Constants(2e5, 40.0)} if self.constants else {}
        return Tariff(PriceBook("CNY", rows), constants_of=lambda _engine, model: known_shapes.get(model))

    def _some_layout(self) -> dict[str, Any]:
        return {"mig": self.dice.choice((None, None, (3, 2), (1,) * 7)), "replicas": self.dice.choice((1, 1, 3))}

    def run(self) -> None:
        dice, at = self.dice, T0
        while at < T0 + self.seconds * NS:
            self._see(at)
            for number in range(dice.choice((0, 0, 1, 2, 6))):
                self._start(f"{at}-{number}", at - dice.randrange(NS))
            self._progress(at)
            self._close(at - WATERMARK)
            if dice.random() < 0.04:
                self._change(at)
            at += dice.choice((NS, NS, NS, NS, NS + 1, 777_777_777, 20 * NS if dice.random() < 0.2 else NS))
        shown: dict[str, Any] = {"energy_source": "counter"}
        here = [(i, uuid) for i, uuid in enumerate(UUIDS) if uuid in self.tariff.accounts]
        last = [gpu(at, uuid, i, energy_joules=self.joules[uuid], **shown) for i, uuid in here]
        for one in last:
            self.meters[one.uuid].append(("counter", self.joules[one.uuid]))
        self.tariff.see_gpus(at, GpuSnapshot(read_at_ns=at, driver="ok", gpus=tuple(last)))
        for live in list(self.tariff.live.values()):
            if live.ended_ns is None:
                live.ended_ns, live.outcome = at, dice.choice(OUTCOMES)
        while self.tariff.through_ns is not None and self.tariff.through_ns < at + NS:
            self._close(at + NS)

    def _see(self, at: int) -> None:
        dice, tariff = self.dice, self.tariff
        if dice.random() < 0.05:
            self.layout = self._some_layout()
        driver = "ok" if tariff.through_ns is None else dice.choice(("ok",) * 12 + ("no_driver", "hung"))
        found = [self._gpu(at, i) for i in range(3) if not i or dice.random() < 0.95] if driver == "ok" else []
        tariff.see_gpus(at, GpuSnapshot(read_at_ns=at, driver=driver, gpus=tuple(found)))
        if dice.random() < 0.5:
            said = [held("GPU-0", one, str(i)) for i, one in enumerate(PODS[: dice.randrange(4)])]
            said += [held(f"MIG-{i}", PODS[i]) for i in range(2)]
            replicas = {"GPU-0": self.layout["replicas"]} if self.layout["replicas"] > 1 else {}
            tariff.see_workloads(at, known(at, *said, user("GPU-0", 7, PODS[0]), replicas=replicas))
        for name, owns, pid in (("x", ("1", "2"), 6), ("y", (), 7), ("z", (), 8)):
            if dice.random() < 0.7:
                state = dice.choice(("ready",) * 6 + ("starting", "down"))
                output = float((at - T0) // NS * dice.choice((10, 40)))
                tariff.see_engine(at, engine(at, name=name, owns=owns, pids=(pid,), state=state, output=output))
        if dice.random() < 0.2:
            tariff.see_engine(at, scraped_worker(worker(9, name="w", group="g")))

    def _gpu(self, at: int, index: int) -> GpuReading:
        dice, uuid = self.dice, UUIDS[index]
        state = dice.choice(("ok",) * 20 + ("lost", "error"))
        is_shown = dice.random() < 0.9 and state == "ok"
        # A meter that begins anew while the agent is away takes along what was not closed: not in this world.
        begins_anew = dice.random() < 0.02 and is_shown and uuid not in self.unseen
        self.joules[uuid] = 0.0 if begins_anew else self.joules[uuid] + dice.random() * 700
        shown = self.joules[uuid] if is_shown else None
        fields: dict[str, Any] = {"energy_joules": shown, "energy_source": "counter"}
        if shown is not None:
            self.meters[uuid].append(("counter", shown))
            self.unseen.discard(uuid)
        pids = (7, 8) if index == 0 else dice.choice(((6,), (6, 9), (9,)))
        if index == 0 and self.layout["mig"] is not None:
            devices = [device(f"MIG-{i}", n, (7,) if i < 2 else (8,)) for i, n in enumerate(self.layout["mig"])]
            return cut(at, *devices, uuid=uuid, index=0, state=state, **fields)
        listed = tuple(process(pid, GIB) for pid in pids)
        return gpu(at, uuid, index, processes=listed, state=state, utilization_ratio=0.5, **fields)

    def _start(self, id_: str, at: int) -> None:
        dice = self.dice
        live = Live(id_, UPSTREAM, dice.choice("xyz"), at, model=dice.choice("mmno"), tenant=dice.choice("stu"))
        live.input_estimate = dice.choice((None, 500))
        length = dice.choice((1, dice.randrange(3 * NS), dice.randrange(3 * NS), dice.randrange(200 * NS)))
        self.ends[id_] = at + length
        self.requests[id_] = live
        self.tariff.add(live)

    def _progress(self, now: int) -> None:
        """Progress, and ends that come up to eight seconds late: then their last time was taken for in flight."""
        dice = self.dice
        for live in self.tariff.live.values():
            if live.ended_ns is not None:
                continue
            end = self.ends[live.id]
            if end <= now and dice.random() < 0.5:
                through = self.tariff.through_ns or 0
                live.ended_ns, live.outcome = max(end, live.started_ns), dice.choice(OUTCOMES)
                if live.ended_ns < through - 8 * NS:
                    live.ended_ns = through
                live.usage = Usage(
                    input_tokens=dice.choice((None, 100)), input_cached_tokens=9, output_tokens=dice.choice((None, 70))
                )
            elif dice.random() < 0.6:
                tokens = live.points[-1][1] if live.points else 0
                live.first_token_ns = live.first_token_ns or live.started_ns + dice.randrange(NS)
                live.points.append((now, tokens + dice.randrange(50)))

    def _close(self, until: int) -> None:
        closed = self.tariff.close(until)
        if closed is not None:
            self.steps.append(closed)

    def _change(self, at: int) -> None:
        """Another price from now on, an engine found under another name, or a new start of the agent."""
        dice, old = self.dice, self.tariff
        what = dice.choice(("price", "restart", "rename"))
        if what == "rename":
            first, second = dice.sample("xyz", 2)
            chosen = {live.id for live in old.live.values() if live.engine == first and dice.random() < 0.5}
            for live in old.live.values():
                live.upstream = second if live.id in chosen else live.engine
            old.rename_engine(lambda upstream: upstream)
            return
        if old.through_ns is None or not self.steps:
            return  # nothing is in the ledger yet
        if what == "price":
            self.prices.append((old.through_ns, self._some_price()))
        self.had_restart = True
        self.unseen = set(UUIDS)
        last = self.steps[-1]
        written = [a for a in old.accounts.values() if (a.gpu, a.from_ns) in last.accounts_through]
        for uuid in old.accounts.keys() - {account.gpu for account in written}:
            self.meters[uuid] = []  # seen, but in no step yet: its bill begins when it is seen again
        self.tariff = self._new_tariff()
        self.tariff.restore(written, old.through_ns, old.number, last.meters)
        for live in old.live.values():  # as the ledger has them: of what is in flight nobody knows where it is booked
            again = replace(live, row=-1, provisional={}, last_booking=None)
            self.requests[live.id] = again
            self.tariff.add(again)


def total(entries: dict[Booking, Amount], *names: str) -> dict[tuple[Any, ...], Counter[str]]:
    found: dict[tuple[Any, ...], Counter[str]] = {}
    for booking, amount in entries.items():
        of = found.setdefault(tuple(getattr(booking, name) for name in names), Counter())
        for quantity in (*QUANTITIES, "requests", "input_tokens", "input_cached_tokens", "output_tokens"):
            of[quantity] += getattr(amount, quantity)
    return found


def all_entries(steps: list[Closed]) -> dict[Booking, Amount]:
    found: dict[Booking, Amount] = {}
    for closed in steps:
        for booking, amount in closed.entries.items():
            of = found.setdefault(booking, Amount())
            for name in (*QUANTITIES, "requests", "input_tokens", "input_cached_tokens", "output_tokens"):
                setattr(of, name, getattr(of, name) + getattr(amount, name))
    return found


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 60), st.booleans())
def test_the_parts_are_the_whole(seed: int, seconds: int, constants: bool) -> None:
    world = World(seed, seconds, constants)
    world.run()
    entries = all_entries(world.steps)
    gpus = total(entries, "gpu", "account_ns")
    through = {key: to for closed in world.steps for key, to in closed.accounts_through.items()}
    for (uuid, from_ns), to_ns in through.items():
        parts = gpus[uuid, from_ns]
        assert parts["gpu_ns"] == to_ns - from_ns
        assert parts["nano"] == bill(world.prices, from_ns, to_ns)
        assert parts["energy_uj"] == sum(closed.energy.get((uuid, from_ns), 0) for closed in world.steps)
        assert parts["energy_uj"] == counted(world.meters[uuid])
        assert 0 <= parts["work_ns"] <= parts["gpu_ns"]
        assert 0 <= parts["metered_ns"] <= parts["gpu_ns"]
    for amount in entries.values():
        assert min(getattr(amount, name) for name in QUANTITIES) >= 0
        assert amount.work_ns <= amount.gpu_ns
        assert amount.metered_ns <= amount.gpu_ns
        assert amount.metered_ns or not amount.energy_uj
    booked = total({b: a for b, a in entries.items() if b.state == "request"}).get((), Counter())
    assert not world.tariff.live
    for name in QUANTITIES:
        assert booked[name] == sum(getattr(live, name) for live in world.requests.values())
    assert booked["requests"] == len(world.requests) == sum(len(closed.settled) for closed in world.steps)
    usages = [live.usage for live in world.requests.values()]
    assert booked["output_tokens"] == sum(usage.output_tokens or 0 for usage in usages)
    assert booked["input_cached_tokens"] == sum(usage.input_cached_tokens or 0 for usage in usages)
    if not world.had_restart:
        by_outcome = total({b: a for b, a in entries.items() if b.state == "request"}, "tenant", "outcome")
        for (tenant, outcome), amounts in by_outcome.items():
            mine = [r for r in world.requests.values() if (r.tenant, r.outcome) == (tenant, outcome)]
            assert amounts["gpu_ns"] == (0 if outcome == IN_FLIGHT else sum(live.gpu_ns for live in mine))
    if not constants:
        assert booked["work_ns"] == 0


def test_such_a_world_has_all_that_it_is_about() -> None:
    """The property above is not empty: in a few worlds together everything occurs that it speaks of."""
    states: Counter[str] = Counter()
    sums: Counter[str] = Counter()
    for seed in range(12):
        world = World(seed, 90, constants=True)
        world.run()
        for booking, amount in all_entries(world.steps).items():
            states[booking.state] += amount.gpu_ns
            states[booking.outcome] += amount.gpu_ns
            states[booking.pod] += amount.gpu_ns
            for name in QUANTITIES:
                sums[name] += getattr(amount, name)
        states["restart"] += world.had_restart
        states["cut"] += any(b.slot.startswith("MIG") for b in all_entries(world.steps))
        states["share"] += any("::" in b.slot for b in all_entries(world.steps))
    wanted = ("request", "unattributed", "loaded_idle", "warmup", "gap", "broken", "allocated_idle", "unallocated")
    assert all(states[one] for one in (*wanted, "restart", "cut", "share", "ok", "timeout", "lost", "a", "b", ""))
    assert all(sums[name] for name in QUANTITIES)
