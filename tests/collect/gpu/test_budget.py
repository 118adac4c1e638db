"""The budget of NVML calls; and what the reader's own calls cost at prices that others have measured."""

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.collect.gpu.budget import NS, SHARE, STRETCH_MOST, WINDOW_NS, Budget
from agent.demo.gpus import nvml
from agent.demo.gpus.calls import KNOWN_SECONDS
from agent.demo.gpus.control import Control, SimulatedProcess
from tests.support.gpu_bench import GpuBench, PricedCalls

PROCESS_LISTS = "RunningProcesses"
# A driver that asks the GPU's firmware for everything but utilisation and memory, at the middle of 370 to 700 us.
ALL_FIRMWARE = {
    **{name: max(seconds, 535e-6) for name, seconds in KNOWN_SECONDS.items()},
    "*": 535e-6,
    "nvmlGpmMetricsGet": 0.0,  # computes in the library
    **{name: KNOWN_SECONDS[name] for name in ("nvmlDeviceGetUtilizationRates", "nvmlDeviceGetMemoryInfo_v2")},
}


def run(budget, seconds, fast, slow):
    """A reader whose share is `fast` + `slow` / stretch. Returns the stretch after each second."""
    total, stretches, stretch = 0.0, [], budget.stretch
    for second in range(seconds):
        stretch = budget.observe(second * NS, total)
        stretches.append(stretch)
        total += fast + slow / stretch
    return stretches


def test_within_the_budget_nothing_is_stretched():
    assert set(run(Budget(), 600, 0.004, 0.004)) == {1.0}


def test_what_is_dear_is_stretched_until_the_share_is_kept():
    budget = Budget()
    run(budget, 3000, 0.004, 0.02)
    assert budget.share <= SHARE
    assert 3 <= budget.stretch <= 8


def test_there_is_a_bound():
    budget = Budget()
    assert max(run(budget, 5000, 0.05, 0.05)) == STRETCH_MOST == budget.stretch


def test_it_comes_back():
    budget = Budget()
    stretches = run(budget, 2000, 0.004, 0.05)
    assert stretches[-1] > 5
    total, start = 0.0, 5000
    for second in range(start, start + 8000):
        budget.observe(second * NS, 1e6 + total)
        total += 0.001
    assert budget.stretch == 1.0


@given(st.floats(0, 0.0079), st.floats(0, 0.2))
def test_it_settles(fast, slow):
    budget = Budget()
    stretches = run(budget, 20_000, fast, slow)
    assert len(set(stretches[-3000:])) == 1
    assert all(1 <= stretch <= STRETCH_MOST for stretch in stretches)


def test_the_first_contact_and_a_new_process_are_not_held_against_it():
    budget = Budget()
    assert budget.observe(0, 30.0) == 1.0
    assert budget.observe(WINDOW_NS, 30.1) == 1.0
    assert budget.share == pytest.approx(0.1 / 30)
    assert budget.observe(WINDOW_NS + NS, 0.0) == 1.0
    assert budget.observe(NS, 50.0) == 1.0
    assert budget.share == pytest.approx(0.1 / 30)


class Node:
    """All GPUs of a machine at a tick of a second."""

    def __init__(self, prices, gpus=8, processes=5):
        self.bench = GpuBench(calls=PricedCalls(prices))
        node = self.bench.node
        facts = node.gpus[0].facts
        node.gpus = [node._gpu(facts, index, index) for index in range(gpus)]
        listed = [SimulatedProcess(pid=100 + number, memory_bytes=10**9) for number in range(processes)]
        keys = [str(index) for index in range(gpus)]
        node.apply(Control(load=dict.fromkeys(keys, 0.8), processes=dict.fromkeys(keys, listed)))
        self.devices = [self.bench.attach(index, (index % 8 + 1) / 8) for index in range(gpus)]
        self.budget = Budget()
        self.stretch = 1.0

    @property
    def seconds(self):
        return sum(self.bench.calls.seconds.values())

    def tick(self, budgeted=False):
        before = self.seconds
        self.bench.now += NS
        self.bench.node.advance(self.bench.now)
        for device in self.devices:
            device.stretch = self.stretch
            device.read(self.bench.now, self.bench.now)
        if budgeted:
            self.stretch = self.budget.observe(self.bench.now, self.seconds)
        return self.seconds - before

    def minutes(self, number, budgeted=False):
        """Share of wall time, and calls of one GPU in a minute."""
        counts, before = Counter(self.bench.calls.counts), self.seconds
        for _ in range(60 * number):
            self.tick(budgeted)
        calls = Counter(self.bench.calls.counts) - counts
        each = {name: round(count / number / len(self.devices), 1) for name, count in calls.items()}
        return (self.seconds - before) / 60 / number, each


@pytest.fixture
def node():
    made = []

    def make(*arguments, **options):
        made.append(Node(*arguments, **options))
        for _ in range(40):
            made[-1].tick()
        return made[-1]

    yield make
    nvml.uninstall()


def without_lists(prices):
    return {name: 0.0 if PROCESS_LISTS in name else seconds for name, seconds in prices.items()}


def test_eight_gpus_at_the_prices_that_were_measured(node):
    share, _ = node(without_lists(KNOWN_SECONDS)).minutes(2)
    assert share < 0.009  # what is left is for the lists of processes


def test_eight_gpus_where_the_firmware_is_asked_for_everything(node):
    share, each = node(without_lists(ALL_FIRMWARE)).minutes(2)
    assert share < 0.0145
    assert each["nvmlDeviceGetClockInfo"] < 30  # every second on a driver that answers at once


@pytest.mark.parametrize("prices", [KNOWN_SECONDS, ALL_FIRMWARE])
def test_with_the_budget_kept_the_share_is_within_it(node, prices):
    eight = node(prices)
    eight.minutes(12, budgeted=True)
    share, _ = eight.minutes(3, budgeted=True)
    assert share < 1.15 * SHARE
    assert eight.stretch <= 8


def test_a_driver_that_answers_at_once_is_asked_for_clocks_each_second(node):
    _, each = node({}, gpus=1).minutes(2)
    assert each["nvmlDeviceGetClockInfo"] > 120
    assert each["nvmlDeviceGetTemperatureV"] >= 60


@pytest.mark.parametrize("gpus", [8, 16])
def test_the_gpus_take_turns(node, gpus):
    many = node({}, gpus=gpus)
    per_tick = []
    name = "nvmlDeviceGetComputeRunningProcesses_v3"
    for _ in range(60):
        before = many.bench.calls.counts[name]
        many.tick()
        per_tick.append(many.bench.calls.counts[name] - before)
    assert sum(per_tick) >= 5 * gpus
    assert max(per_tick) <= gpus // 4
    assert all(sum(two) > 0 for two in itertools.pairwise(per_tick))
