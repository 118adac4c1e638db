"""Counters of a simulated GPU."""

from hypothesis import given
from hypothesis import strategies as st

from agent.demo.gpus.board import Board, Counters

BOARD = Board(pcie_generation=5, nvlinks=18)


@given(st.lists(st.tuples(st.floats(0.01, 100), st.floats(0, 1)), max_size=20))
def test_bytes_are_the_integral_of_the_load(phases):
    counters = Counters()
    for seconds, load in phases:
        counters.advance(seconds, BOARD, load, 0)
    work = sum(seconds * load for seconds, load in phases)
    assert abs(counters.pcie_received - work * BOARD.full_pcie_bytes_per_second) <= 1e-6 * counters.pcie_received + 1
    assert counters.pcie_received == 4 * counters.pcie_transmitted
    assert abs(counters.nvlink - work * BOARD.full_nvlink_bytes_per_second) <= 1e-6 * counters.nvlink + 1
    assert counters.throttled_ns == {}


def test_throttled_time_by_bit():
    counters = Counters()
    counters.advance(2.0, BOARD, 1.0, 0x44)
    counters.advance(1.0, BOARD, 1.0, 0x40)
    assert counters.throttled_ns == {0x4: 2_000_000_000, 0x40: 3_000_000_000}


def test_a_gpu_without_links_sends_nothing_over_them():
    counters = Counters()
    counters.advance(2.0, Board(), 1.0, 0)
    assert counters.nvlink == 0


def test_energy_counters_that_are_not_right():
    counters = Counters()
    assert counters.energy(1000.0, "right") == 1000
    assert [counters.energy(joules, "stuck") for joules in (1000.0, 2000.0)] == [0.015, 0.015]
    assert [counters.energy(joules, "restarted") for joules in (1000.0, 1500.0)] == [0, 500]
    seen = []
    for second in range(4):
        counters.advance(1.0, BOARD, 1.0, 0)
        seen.append(counters.energy(second, "jumping"))
    assert seen == [1e6, 1, 1e6 + 2, 3]
