"""Who is let in, against a plain count; who is too slow, by tables; what is counted and how often it is said."""

from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from agent.clock import NS
from agent.sidecar.crowd.crowd import REASONS, Crowd, Pace, Pacing, room_for, source_of
from agent.sidecar.crowd.settings import CrowdSettings

SOURCES = ("10.0.0.1", "10.0.0.2", "2001:db8::/64", None)


@given(
    st.integers(1, 5),
    st.none() | st.integers(1, 3),
    st.lists(st.tuples(st.booleans(), st.sampled_from(SOURCES)), max_size=40),
)
def test_who_is_let_in(most: int, per_source: int | None, steps: list[tuple[bool, str | None]]) -> None:
    crowd = Crowd(CrowdSettings(max_connections=most, max_connections_per_source=per_source))
    inside: list[str | None] = []
    refused = 0
    for coming, source in steps:
        if coming:
            reason = crowd.came(source, 0)
            if len(inside) >= most:
                assert reason == "connections"
            elif per_source is not None and source is not None and inside.count(source) >= per_source:
                assert reason == "source_connections"
            else:
                assert reason is None
                inside.append(source)
            refused += reason is not None
        elif source in inside:
            inside.remove(source)
            crowd.left(source)
        assert crowd.connections == len(inside)
        assert crowd.refused.total() == refused
    for source in inside:
        crowd.left(source)
    assert crowd.connections == 0
    assert crowd._by_source == {}  # nothing is remembered of who is gone


def test_sources() -> None:
    assert source_of(("10.0.0.1", 5000)) == source_of(("::ffff:10.0.0.1", 5000, 0, 0)) == "10.0.0.1"
    assert source_of(("2001:db8::1", 1, 0, 0)) == source_of(("2001:db8::2", 1, 0, 0)) == "2001:db8::/64"
    assert [source_of(peer) for peer in ("", b"", None, ())] == [None] * 4


def test_room() -> None:
    assert room_for(10_000, 1 << 20) == 10_000
    assert room_for(10_000, 1024) == 448
    assert room_for(10_000, 64) == 1
    assert Crowd(CrowdSettings(), 1024).max_connections == 448


def test_rates_hold_for_each_source() -> None:
    crowd = Crowd(CrowdSettings(requests_per_second=2, burst=2))
    assert [crowd.request("a", 0) for _ in range(3)] == [None, None, 0.5]
    assert crowd.request("b", 0) is None
    assert [crowd.request(None, 0) for _ in range(9)] == [None] * 9
    assert crowd.request("a", NS // 2) is None
    assert crowd.refused["rate"] == 1
    free = Crowd(CrowdSettings())
    assert [free.request("a", 0) for _ in range(1000)] == [None] * 1000


def test_idle_connections_go_sooner_when_room_runs_out() -> None:
    crowd = Crowd(CrowdSettings(max_connections=4, idle_seconds=75, crowded_idle_seconds=5))
    seen = []
    for _ in range(4):
        crowd.came(None, 0)
        seen.append(crowd.idle_ns // NS)
    assert seen == [75, 75, 75, 5]
    assert Crowd(CrowdSettings(idle_seconds=1)).idle_ns == NS


def test_numbers_have_every_reason() -> None:
    crowd = Crowd(CrowdSettings(max_connections=1))
    crowd.came("a", 0)
    crowd.came("a", 0)
    crowd.refuse("slow_head", "a", 0)
    found = {(s.key.name, s.key.get("reason")): s.value for s in crowd.numbers((("listener", "requests"),))}
    assert found.pop(("engineroom_sidecar_connections", "")) == 1
    assert found.pop(("engineroom_sidecar_connections_limit", "")) == 1
    assert {reason for _, reason in found} == set(REASONS)
    assert {reason for (_, reason), value in found.items() if value} == {"connections", "slow_head"}


def test_the_log_is_told_once_a_minute() -> None:
    crowd = Crowd(CrowdSettings(max_connections=1))
    crowd.came(None, 0)
    with structlog.testing.capture_logs() as logs:
        for second in range(0, 121, 1):
            crowd.came("a" if second else None, second * NS)
        crowd.refuse("body_size", "a", 121 * NS)
    said: list[Any] = [(entry["reason"], entry["source"], entry["times"]) for entry in logs]
    assert said == [
        ("connections", "unix", 1),
        ("connections", "a", 60),
        ("connections", "a", 60),
        ("body_size", "a", 1),
    ]


SLOW = CrowdSettings(head_timeout_seconds=10, min_body_bytes_per_second=500, body_grace_seconds=20)


def pace(settings: CrowdSettings = SLOW) -> Pace:
    return Pace(Pacing(settings))


def test_a_head_has_its_time_from_its_first_byte() -> None:
    slow = pace()
    assert slow.slow(10**6 * NS) is None
    slow.head_began(100 * NS)
    slow.head_began(109 * NS)  # more of it
    assert slow.slow(110 * NS) is None
    assert slow.slow(110 * NS + 1) == "slow_head"
    slow.done()
    assert slow.slow(200 * NS) is None
    slow.head_began(200 * NS)  # the next one has all its time
    assert slow.slow(210 * NS) is None


@pytest.mark.parametrize(
    ("rate", "seconds", "found"),
    [
        (499, 21, "slow_body"),
        (500, 21, None),
        (500, 400, None),
        (0, 20, None),
        (0, 21, "slow_body"),
        (10**6, 400, None),
    ],
)
def test_a_body_has_its_speed(rate: int, seconds: int, found: str | None) -> None:
    slow = pace()
    slow.head_began(0)
    slow.body_began(0)
    for second in range(1, seconds + 1):
        slow.body(rate)
        verdict = slow.slow(second * NS)
    assert verdict == found
    assert slow.total == rate * seconds


def test_a_body_that_was_fast_may_not_stop() -> None:
    slow = pace()
    slow.body_began(0)
    slow.body(10**9)
    assert slow.slow(21 * NS) is None
    assert slow.slow(41 * NS) is None
    assert slow.slow(41 * NS + 1) == "slow_body"
    anyhow = pace(CrowdSettings(min_body_bytes_per_second=0))
    anyhow.body_began(0)
    assert anyhow.slow(10**6 * NS) is None


def test_time_in_which_we_do_not_read_does_not_count() -> None:
    slow = pace()
    slow.body_began(0)
    slow.held(5 * NS)
    slow.held(6 * NS)
    assert slow.slow(1000 * NS) is None
    slow.resumed(1000 * NS)
    slow.resumed(1001 * NS)
    assert slow.slow(1015 * NS) is None
    assert slow.slow(1016 * NS) == "slow_body"
    # a body that begins while we do not read
    slow.held(2000 * NS)
    slow.body_began(2010 * NS)
    slow.resumed(2100 * NS)
    assert slow.slow(2120 * NS) is None
    assert slow.slow(2121 * NS) == "slow_body"
