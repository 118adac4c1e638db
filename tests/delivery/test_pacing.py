"""The gate, the window, the batch size and the row of refusals: tables, and hypothesis for what must always hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.delivery.pacing import NS, TRIES_UNDER_THE_CEILING, BatchSize, Pacing, QueueLimits, Refusals

LIMITS = QueueLimits()


def pacing(jitter: float = 1.0, **limits: object) -> Pacing:
    return Pacing(QueueLimits(**limits), lambda: jitter)


def run(pace: Pacing, answer: str, now: int = 0, after: float | None = None) -> None:
    """One request from its start to its end."""
    token = pace.started()
    if answer == "shut":
        pace.shut(token, now, after, paused=False)
    elif answer == "pause":
        pace.shut(token, now, after, paused=True)
    else:
        getattr(pace, answer)(token)
    pace.ended()


def fill(pace: Pacing, now: int = 0) -> list[int]:
    """Start as many as may be started."""
    tokens = []
    while pace.may_start(now):
        tokens.append(pace.started())
    return tokens


def test_one_more_for_each_full_round_of_successes():
    pace = pacing()
    seen = []
    for _ in range(10):
        tokens = fill(pace)
        seen.append(len(tokens))
        for token in tokens:
            assert pace.worked(token)
        for _ in tokens:
            pace.ended()
    assert seen == [1, 2, 3, 4, 5, 6, 7, 8, 8, 8]


def test_what_is_not_used_does_not_grow():
    pace = pacing()
    for _ in range(100):
        run(pace, "worked")
    assert pace.concurrency == 2  # the second place was never taken


def grown(jitter: float = 1.0, **limits: object) -> Pacing:
    pace = pacing(jitter, **limits)
    for _ in range(10):
        for token in (tokens := fill(pace)):
            pace.worked(token)
        for _ in tokens:
            pace.ended()
    return pace


def test_failures_of_one_round_count_once_and_their_successes_open_nothing():
    pace = grown()
    tokens = fill(pace)
    assert len(tokens) == 8
    for token in tokens[:4]:
        pace.shut(token, 0, None, paused=False)
    assert not any(pace.worked(token) for token in tokens[4:])
    for _ in tokens:
        pace.ended()
    assert pace.wait_ns(0) == NS  # the first wait, not the fourth
    assert pace.concurrency == 1  # the probe
    run(pace, "worked", NS)
    assert pace.concurrency == 4


def test_the_probe_goes_alone_and_the_rest_after_its_answer():
    pace = grown()
    run(pace, "shut")
    assert not pace.may_start(NS - 1)
    assert pace.may_start(NS)
    token = pace.started()
    assert pace.wait_ns(NS) is None
    pace.worked(token)
    pace.ended()
    assert len(fill(pace, NS)) == 4


def test_a_request_from_before_delays_the_probe():
    """Two requests at once is what the destination could not take."""
    pace = grown()
    first, _second = pace.started(), pace.started()
    pace.shut(first, 0, None, paused=False)
    pace.ended()
    assert pace.wait_ns(10 * NS) is None
    pace.ended()
    assert pace.may_start(10 * NS)


@pytest.mark.parametrize(
    ("jitter", "waits"), [(1.0, [1, 2, 4, 8, 16, 32, 60, 60, 60]), (0.5, [0.5, 1, 2, 4, 8, 16, 30]), (0.0, [0, 0, 0])]
)
def test_back_off_doubles_under_full_jitter(jitter, waits):
    pace, now = pacing(jitter), 0
    for seconds in waits:
        run(pace, "shut", now)
        assert pace.wait_ns(now) == int(seconds * NS)
        now += pace.wait_ns(now)
    run(pace, "worked", now)
    run(pace, "shut", now)
    assert pace.wait_ns(now) == int(waits[0] * NS)


@pytest.mark.parametrize(
    ("after", "seconds"), [(5.0, 5), (0.2, 1), (None, 1), (0.0, 1), (-3.0, 1), (9999.0, 300), (float("inf"), 300)]
)
def test_what_is_asked_for_is_the_least_wait(after, seconds):
    pace = pacing()
    run(pace, "shut", 0, after)
    assert pace.wait_ns(0) == seconds * NS


def test_a_late_wish_prolongs_the_wait():
    pace = grown()
    first, second = pace.started(), pace.started()
    pace.shut(first, 0, None, paused=False)
    pace.shut(second, 0, 20.0, paused=False)
    pace.ended()
    pace.ended()
    assert pace.wait_ns(0) == 20 * NS


@pytest.mark.parametrize(
    ("jitter", "after", "seconds"), [(0.5, None, 30), (0, None, 22.5), (1, None, 37.5), (0, 60, 60)]
)
def test_a_pause_is_asked_slowly(jitter, after, seconds):
    pace = pacing(jitter)
    for _ in range(5):
        run(pace, "pause", 0, after)
        assert pace.wait_ns(0) == int(seconds * NS)


def test_busy_halves_and_goes_on():
    pace = grown()
    run(pace, "busy")
    assert (pace.concurrency, pace.wait_ns(0)) == (4, 0)
    for _ in range(5):
        run(pace, "busy")
    assert (pace.concurrency, pace.wait_ns(0)) == (1, 0)


def test_an_answer_that_refuses_ends_the_probe_and_changes_nothing_else():
    pace = grown()
    run(pace, "shut")
    run(pace, "answered", NS)
    assert (pace.concurrency, pace.wait_ns(NS)) == (4, 0)


answers = st.tuples(
    st.sampled_from(["worked", "answered", "busy", "shut", "pause"]),
    st.integers(0, 20),
    st.none() | st.floats(0, 1000),
)
steps = st.lists(st.one_of(st.just("start"), st.integers(0, 40 * NS), answers), max_size=120)


@given(steps, st.integers(1, 9), st.floats(0, 1))
def test_whatever_is_answered_the_bounds_hold(actions, most, jitter):
    pace = pacing(jitter, max_concurrency=most)
    now, tokens, probing, shut_at = 0, [], False, {}
    for action in actions:
        if action == "start":
            allowed = pace.may_start(now)
            assert allowed == (pace.wait_ns(now) == 0)
            if allowed:
                assert len(tokens) < pace.concurrency <= most
                assert not (probing and tokens), "the probe is alone"
                tokens.append(pace.started())
        elif isinstance(action, int):
            now += action
        elif tokens:
            answer, at, after = action
            token = tokens.pop(at % len(tokens))
            if answer in ("shut", "pause"):
                before = pace._opens_ns
                pace.shut(token, now, after, paused=answer == "pause")
                probing = True
                asked = min(after or 0.0, LIMITS.retry_after_max_seconds)
                assert pace._opens_ns >= max(before, now + int(asked * NS))
                least = LIMITS.backoff_max_seconds if answer == "shut" else 1.25 * LIMITS.paused_seconds
                assert pace._opens_ns <= max(before, now + int(max(asked, least) * NS))
                shut_at[token] = now
            elif getattr(pace, answer)(token):
                assert token not in shut_at, "a success from before a gate was shut does not open it"
                probing = False
            pace.ended()
        assert pace.in_flight == len(tokens)
        assert 1 <= pace.concurrency <= most


def test_too_large_falls_to_half_then_to_what_worked():
    size = BatchSize(1000)
    size.too_large(1000)
    assert size.bytes == 500
    size.worked(500)
    for _ in range(40):
        size.worked(size.bytes)
    assert 900 < size.bytes < 1000
    worked = size.bytes
    size.too_large(990)
    assert size.bytes == worked


def test_a_destination_that_becomes_stricter_is_followed_down():
    size = BatchSize(1000)
    size.worked(1000)
    for refused in (1000, 500, 250):
        size.too_large(refused)
        assert size.bytes == refused // 2


def test_small_batches_say_nothing_of_the_border():
    size = BatchSize(1000)
    size.too_large(1000)
    for _ in range(1000):
        size.worked(100)
    assert size.bytes == 500


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_refusals_are_rare_once_the_border_is_known(border, most):
    """A destination with a limit of `border` bytes: after the first search hardly a request is too large."""
    size, refused = BatchSize(most), []
    for turn in range(3000):
        sent = size.bytes
        assert 1 <= sent <= most
        if sent > border:
            size.too_large(sent)
            refused.append(turn)
        else:
            size.worked(sent)
    assert len([turn for turn in refused if turn > 500]) <= 2500 // TRIES_UNDER_THE_CEILING + 1
    if border < most:
        assert size.bytes >= border * 0.8 - 2
    else:
        assert (size.bytes, refused) == (most, [])


def test_refusals_in_a_row_trip_and_one_stored_ends_the_row():
    row = Refusals(100)
    assert [row.refused(n) for n in (1, 50)] == [1, 50]
    row.stored()
    assert row.in_a_row == 0
    assert row.refused(1000) == 100  # the rest is kept
    assert row.tripped
    assert row.refused(1) == 1  # the probe: no bad item blocks for ever
    assert row.refused(8) == 1
    row.stored()
    assert not row.tripped


@given(st.lists(st.none() | st.integers(1, 500), max_size=60), st.integers(1, 200))
def test_never_more_given_up_than_the_limit_and_one_for_each_answer(answers, limit):
    row, given_up, since = Refusals(limit), 0, 0
    for refused in answers:
        if refused is None:
            row.stored()
            given_up = since = 0
        else:
            taken = row.refused(refused)
            assert 1 <= taken <= refused
            given_up, since = given_up + taken, since + 1
            assert given_up <= limit + since
            assert row.tripped == (given_up >= limit)
