"""Who pays for idle time: small cases by hand; over random lines nothing is lost, whoever asks how closely."""

import random
from collections import Counter
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.cost.allocating import ACTIVE, ORDER, Line, Owner, allocate, dimensions_needed
from agent.core.cost.reports import SHARED_STATES, Dimension, IdlePolicy

POLICIES: tuple[IdlePolicy, ...] = get_args(IdlePolicy)
OWNERS = (
    Owner("zeta", gpus=("GPU-1*",), engine="b"),
    Owner("acme", gpus=("GPU-9", "MIG-*")),
    Owner("idle hands", model="m2", namespace="prod"),
)


def line(state: str, gpu_ns: int, nano: int = 0, requests: int = 0, **names: str) -> Line:
    return Line({**dict.fromkeys(ORDER, ""), "state": state, **names}, (gpu_ns, requests, nano))


def by(lines: list[Line], *names: str) -> dict[tuple[str, ...], tuple[int, int]]:
    """Group -> (GPU time, money)."""
    found: dict[tuple[str, ...], tuple[int, int]] = {}
    for one in lines:
        key = tuple(one.names[name] for name in names)
        before = found.get(key, (0, 0))
        found[key] = (before[0] + one.amounts[0], before[1] + one.amounts[2])
    return found


BOOKED = [
    line("request", 30, 300, 1, tenant="acme", model="m1"),
    line("request", 10, 100, 1, tenant="zeta", model="m1"),
    line("request", 20, 200, 1, tenant="zeta", model="m2"),
    line("request", 0, 0, 1, tenant="late", model="m3"),  # turned away
    line("unattributed", 40, 400, model="m2"),
    line("loaded_idle", 8, 80, model="m1", engine="b", gpu="GPU-1"),
    line("warmup", 6, 61, model="m2", namespace="prod"),
    line("loaded_idle", 5, 50, model="m3"),
    line("gap", 7, 70, slot="MIG-x"),
    line("other_workload", 9, 90),
]


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        (
            "none",
            {"acme": (30, 300), "zeta": (30, 300), "late": (0, 0), "": (40 + 8 + 6 + 5 + 7 + 9, 751)},
        ),
        (  # m1: 8 by 30:10; m2: 6 by 20:40 (bypass pays, too); nobody of m3 used a GPU; gaps have no model
            "model",
            {"acme": (36, 360), "zeta": (34, 340), "late": (0, 0), "": (40 + 4 + 5 + 7 + 9, 651)},
        ),
        (  # 26 and 261 by 30:30:40
            "node",
            {"acme": (38, 378), "zeta": (38, 378), "late": (0, 0), "": (40 + 10 + 9, 595)},
        ),
        (  # 26 and 261 by three tenants; bypass is none
            "even",
            {"acme": (30 + 9, 387), "late": (9, 87), "zeta": (30 + 8, 387), "": (40 + 9, 490)},
        ),
        (
            "owner",
            {"acme": (37, 370), "zeta": (38, 380), "late": (0, 0), "idle hands": (6, 61), "": (40 + 5 + 9, 540)},
        ),
    ],
)
def test_each_policy_by_hand(policy: IdlePolicy, wanted: dict[str, tuple[int, int]]) -> None:
    found = by(allocate(BOOKED, policy, OWNERS), "tenant")
    assert {key[0]: value for key, value in found.items()} == wanted


def test_what_is_spread_becomes_part_of_who_pays_and_an_owners_stays_what_it_was() -> None:
    assert by(allocate(BOOKED, "model"), "model", "state") == {
        ("m1", "request"): (48, 480),
        ("m2", "request"): (22, 220),
        ("m2", "unattributed"): (44, 441),
        ("m3", "request"): (0, 0),
        ("m3", "loaded_idle"): (5, 50),
        ("", "gap"): (7, 70),
        ("", "other_workload"): (9, 90),
    }
    owned = by(allocate(BOOKED, "owner", OWNERS), "tenant", "state")
    assert owned["zeta", "loaded_idle"] == (8, 80)
    assert owned["acme", "gap"] == (7, 70)


@pytest.mark.parametrize("policy", POLICIES)
def test_with_nobody_to_pay_the_rows_stay_as_they_are(policy: IdlePolicy) -> None:
    idle = [line(state, 5, 50, model="m1") for state in (*SHARED_STATES, "other_workload")]
    assert by(allocate(idle, policy), "state", "tenant") == by(idle, "state", "tenant")
    assert allocate([], policy) == []


def test_an_owner_without_conditions_owns_everything_and_the_first_one_that_matches_counts() -> None:
    spread = allocate(BOOKED, "owner", (Owner("all"), Owner("none")))
    assert by(spread, "tenant")["all",] == (26, 261)
    globbed = Owner("g", gpus=("GPU-[01]",))
    assert globbed.holds({"gpu": "GPU-1", "slot": "GPU-1::0"})
    assert not globbed.holds({"gpu": "GPU-2", "slot": "x"})
    assert Owner("g", gpus=("GPU-1::0",)).holds({"gpu": "GPU-1", "slot": "GPU-1::0"})


def random_lines(seed: int, count: int) -> list[Line]:
    dice = random.Random(seed)
    found = {}
    for _ in range(count):
        state = dice.choice(("request",) * 4 + ACTIVE + SHARED_STATES + ("other_workload",))
        names = {name: dice.choice(("", "a", "b")) for name in ORDER} | {"state": state}
        names |= {"gpu": dice.choice(("GPU-0", "GPU-1")), "model": dice.choice(("", "m1", "m2"))}
        if state != "request":
            names |= {"tenant": "", "outcome": ""}
        high = dice.choice((3, 10**6, 10**18))
        amounts = [dice.choice((0, 1, dice.randrange(high))) for _ in range(4)]
        if dice.random() < 0.1:
            amounts = [-amount for amount in amounts]
        found[tuple(names.values())] = Line(names, (amounts[0], dice.randrange(3), *amounts[1:]))
    return list(found.values())


def merged(lines: list[Line], dimensions: tuple[str, ...]) -> list[Line]:
    """As a database would answer that is asked for these dimensions only."""
    sums: dict[tuple[str, ...], list[int]] = {}
    for one in lines:
        key = tuple(one.names[name] for name in dimensions)
        before = sums.setdefault(key, [0] * len(one.amounts))
        sums[key] = [a + b for a, b in zip(before, one.amounts, strict=True)]
    return [Line(dict(zip(dimensions, key, strict=True)), tuple(total)) for key, total in sums.items()]


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(0, 30),
    st.sampled_from(POLICIES),
    st.lists(st.sampled_from(ORDER), unique=True, max_size=3),
)
def test_nothing_is_lost_and_a_coarse_answer_is_the_sum_of_the_finest(
    seed: int, count: int, policy: IdlePolicy, asked: list[Dimension]
) -> None:
    lines = random_lines(seed, count)
    finest = allocate(lines, policy, OWNERS)
    assert [sum(a) for a in zip(*(one.amounts for one in finest), strict=True)] == [
        sum(a) for a in zip(*(one.amounts for one in lines), strict=True)
    ]
    needed = dimensions_needed((*asked, "node"), policy)
    shuffled = merged(lines, needed)
    random.Random(seed).shuffle(shuffled)
    coarse = allocate(shuffled, policy, OWNERS)
    assert {tuple(one.names.values()): one.amounts for one in merged(coarse, tuple(asked)) if any(one.amounts)} == {
        tuple(one.names.values()): one.amounts for one in merged(finest, tuple(asked)) if any(one.amounts)
    }


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 30), st.sampled_from(("model", "node")))
def test_shares_are_in_proportion_to_gpu_time(seed: int, count: int, policy: IdlePolicy) -> None:
    lines = [Line(one.names, tuple(map(abs, one.amounts))) for one in random_lines(seed, count)]
    idle, active = Counter[str](), Counter[str]()
    for one in lines:
        key = one.names["model"] if policy == "model" else ""
        (idle if one.names["state"] in SHARED_STATES else active)[key] += one.amounts[2] * (
            one.names["state"] in SHARED_STATES
        ) + one.amounts[0] * (one.names["state"] in ACTIVE)
    before = {tuple(one.names.values()): one for one in lines}
    for one in allocate(lines, policy):
        key = one.names["model"] if policy == "model" else ""
        if one.names["state"] not in ACTIVE or not active[key] or (policy == "model" and not key):
            continue
        was = before[tuple(one.names.values())]
        exact = idle[key] * was.amounts[0] / active[key]
        assert abs(one.amounts[2] - was.amounts[2] - exact) <= len(ORDER) + exact * 1e-9


def test_what_lines_have_to_tell() -> None:
    assert dimensions_needed(("node",), "none") == ()
    assert dimensions_needed(("waste", "gpu"), "none") == ("outcome", "gpu")
    assert dimensions_needed(("model",), "model") == ("model", "state")
    assert dimensions_needed(("tenant",), "model") == ("tenant", "model", "state")
    assert dimensions_needed(("gpu",), "node") == ORDER[: ORDER.index("gpu") + 1]
    assert set(dimensions_needed((), "owner")) == {"tenant", "state", "engine", "model", "namespace", "gpu", "slot"}
