"""The simulator that judges the tariff, and a short run of the tariff on it."""

import numpy as np
import pytest

from bench.tariff import Bill, Load, by_latency, by_tokens, error_percent, known, measure
from bench.tariff_engine import MOST_SEQUENCES, OVERHEAD_S, arrivals, simulate, step_seconds

NS = 1_000_000_000


def test_the_same_seed_is_the_same_run():
    first, again, other = (simulate(arrivals(20, 1.0, seed), seed) for seed in (1, 1, 2))
    told = [[(s.tenant, s.arrived_ns, s.tokens, s.true_ns) for s in run.sequences] for run in (first, again, other)]
    assert told[0] == told[1] != told[2]


def test_true_costs_sum_to_the_time_the_engine_was_busy():
    run = simulate(arrivals(20, 2.0, 1), 1)
    assert sum(s.true_ns for s in run.sequences) == pytest.approx(run.busy_ns, rel=1e-6)
    for s in run.sequences:
        assert len(s.tokens) == s.output
        assert s.arrived_ns < s.tokens[0]
        assert s.tokens == sorted(set(s.tokens))
        assert 0 < s.true_ns <= s.ended_ns - s.arrived_ns


def test_no_more_sequences_run_than_there_is_room_for():
    run = simulate(arrivals(3, 60.0, 1), 1)
    begun = sorted((s.tokens[0], 1) for s in run.sequences)
    ended = sorted((s.ended_ns, -1) for s in run.sequences)
    writing = np.cumsum([change for _, change in sorted(begun + ended)])
    assert MOST_SEQUENCES // 2 < writing.max() <= MOST_SEQUENCES


def test_a_request_that_is_alone_costs_all_the_time_it_took():
    (alone,) = arrivals(30, 0.05, 3)[:1]
    run = simulate([alone], 1)
    assert alone.true_ns == pytest.approx(alone.ended_ns - alone.arrived_ns, rel=1e-6)
    assert (run.busy_ns, run.concurrency) == (alone.ended_ns - alone.arrived_ns, 1.0)


def test_an_empty_step_takes_no_time():
    nothing, one = np.zeros(1), np.ones(1)
    assert step_seconds(nothing, nothing, nothing) == 0
    assert step_seconds(one, nothing, nothing) > OVERHEAD_S


def test_the_tariff_is_nearer_to_the_truth_than_the_others_and_books_every_nanosecond():
    run = simulate(arrivals(30, 1.5, 1), 1)
    bill = Bill(run, known())
    prices = bill.close()
    assert sum(bill.states.values()) == bill.closed_ns
    assert sum(prices) == bill.states["request"]
    ours = error_percent(run, prices)
    assert ours < 10
    assert 2 * ours < min(error_percent(run, method(run)) for method in (by_tokens(1.0), by_latency))


def test_figures_of_a_load(capsys: pytest.CaptureFixture[str]):
    figures = measure(Load("tiny", 8, 1.0, 50.0))
    assert [figure.name for figure in figures] == [
        "tariff_error_tiny_percent",
        "tariff_tiny_booked_beside_busy_percent",
        "tariff_tiny_identity_off",
    ]
    assert figures[-1].value == 0
    assert "tariff_error_tiny_flat_per_token_percent" in capsys.readouterr().out
