import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.clock import NS
from agent.doors.limits import RateLimiter, source_key

rates = st.floats(0.01, 10_000)
bursts = st.integers(1, 50)
steps = st.lists(st.tuples(st.integers(0, 3 * NS), st.sampled_from("abcdefgh")), max_size=200)


def test_a_burst_then_the_rate() -> None:
    limiter = RateLimiter(10, 3)
    assert [limiter.admit("a", 0) for _ in range(4)] == [None, None, None, 0.1]
    assert limiter.admit("b", 0) is None
    assert limiter.admit("a", NS // 20) == 0.05
    assert limiter.admit("a", NS // 10) is None
    assert limiter.admit("a", NS // 10) == 0.1
    assert [limiter.admit("a", 60 * NS) for _ in range(4)] == [None, None, None, 0.1]


def test_to_ask_takes_nothing() -> None:
    limiter = RateLimiter(1, 1)
    assert [limiter.wait("a", 0) for _ in range(3)] == [None] * 3
    assert len(limiter) == 0
    assert limiter.admit("a", 0) is None
    assert limiter.wait("a", NS // 4) == 0.75


@given(rates, bursts, st.integers(1, 4), steps)
def test_no_key_ever_has_more_than_burst_and_rate(rate: float, burst: int, room: int, asked: list) -> None:
    """Over every stretch of time, with fewer places than keys."""
    limiter = RateLimiter(rate, burst, max_keys=room)
    now, admitted = 0, dict.fromkeys("abcdefgh", ())
    for pause, key in asked:
        now += pause
        if limiter.admit(key, now) is None:
            admitted[key] = (*admitted[key], now)
        assert len(limiter) <= room
    for instants in admitted.values():
        for first in range(len(instants)):
            for last in range(first, len(instants)):
                length = (instants[last] - instants[first]) / NS
                assert last - first + 1 <= burst + length * rate + 1e-6


@given(rates, bursts, steps)
def test_a_promised_wait_is_true_and_not_too_long(rate: float, burst: int, asked: list) -> None:
    limiter = RateLimiter(rate, burst)
    now = 0
    for pause, key in asked:
        now += pause
        wait = limiter.admit(key, now)
        if wait is None:
            continue
        assert 0 < wait <= 1 / rate + 1e-8
        almost = now + math.floor(wait * NS) - 2
        if almost > now:
            assert limiter.wait(key, almost) is not None
        now += math.ceil(wait * NS)
        assert limiter.admit(key, now) is None


@given(rates, bursts, steps)
def test_with_room_enough_keys_do_not_touch_each_other(rate: float, burst: int, asked: list) -> None:
    together = RateLimiter(rate, burst)
    alone = {key: RateLimiter(rate, burst) for key in "abcdefgh"}
    now = 0
    for pause, key in asked:
        now += pause
        assert together.admit(key, now) == alone[key].admit(key, now)


def test_a_crowd_of_new_keys_wins_nobody_a_fresh_bucket() -> None:
    limiter = RateLimiter(1, 5, max_keys=100)
    assert [limiter.admit("attacker", 0) for _ in range(6)][-1] == 1.0
    for number in range(100_000):
        limiter.admit(f"new-{number}", 0)
    assert len(limiter) == 100
    assert limiter.admit("attacker", 0) == 1.0


def test_a_crowd_of_new_keys_takes_nothing_from_old_ones() -> None:
    limiter = RateLimiter(1, 5, max_keys=100)
    limiter.admit("regular", 0)
    crowd = [limiter.admit(f"new-{number}", 0) for number in range(1000)]
    assert crowd.count(None) == 99 + 5  # their own places, and one burst for all the others together
    assert [limiter.admit("regular", 0) for _ in range(4)] == [None] * 4


def test_full_buckets_are_forgotten_and_their_places_used_again() -> None:
    limiter = RateLimiter(1, 5, max_keys=3)
    for second in range(1000):
        for number in range(3):
            assert limiter.admit(f"{second}-{number}", second * NS) is None
    assert len(limiter) == 3


def test_a_key_that_was_used_since_keeps_its_level_when_others_are_forgotten() -> None:
    limiter = RateLimiter(1, 5)
    assert [limiter.admit("a", 0) for _ in range(5)] == [None] * 5
    limiter.admit("b", 2 * NS)  # looks for full buckets; that of `a` would have been full, had it been used once
    assert [limiter.admit("a", 2 * NS) for _ in range(3)] == [None, None, 1.0]
    limiter.admit("c", 60 * NS)
    assert len(limiter) == 1


def test_a_rate_that_does_not_divide_a_second_is_rounded_to_less() -> None:
    limiter = RateLimiter(3, 1)
    assert limiter.admit("a", 0) is None
    assert limiter.admit("a", 333_333_333) is not None
    assert limiter.admit("a", 333_333_334) is None


def test_failures_make_a_source_wait_before_it_may_try_again() -> None:
    failures = RateLimiter(30 / 60, 3)
    for _ in range(3):
        assert failures.wait("a", 0) is None
        failures.admit("a", 0)
    assert failures.wait("a", 0) == 2.0
    assert failures.wait("b", 0) is None
    assert failures.wait("a", 2 * NS) is None


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("", ""),
        ("testclient", "testclient"),
    ],
)
def test_sources(address: str, key: str) -> None:
    assert source_key(address) == key
