from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant
from hypothesis.stateful import rule as step

from agent.core.quotas.allocator import MAX_HOLDERS, Allocator, TooManyHolders, fair_part
from agent.core.quotas.leases import Claim, LeaseRequest
from tests.support.quotas import NS, Machine, Node, policy, rule

amounts = st.integers(0, 1000)


@given(limit=st.integers(0, 500), desires=st.lists(amounts, min_size=1, max_size=6))
def test_fair_parts_never_sum_to_more_than_the_limit_and_serve_small_wishes_whole(limit: int, desires: list[int]):
    parts = [fair_part(limit, own, desires[:i] + desires[i + 1 :], i) for i, own in enumerate(desires)]
    assert sum(parts) <= limit
    level = limit // len(desires)
    for own, part in zip(desires, parts, strict=True):
        assert part >= min(own, level)
    for (own_a, a), (own_b, b) in pairwise(sorted(zip(desires, parts, strict=True))):
        assert a <= b + 1, (own_a, own_b)  # who wants more does not get less, but for one unit that goes round


def test_one_unit_goes_round_among_those_who_want_it():
    assert [fair_part(1, 5, [5, 5], turn) for turn in (0, 1, 2)] == [1, 0, 0]


def test_who_is_alone_gets_all_and_what_is_spare_is_split():
    assert fair_part(100, 3, []) == 100
    assert [fair_part(100, 10, [10, 50]), fair_part(100, 50, [10, 10])] == [17, 57]


def settle(node: Node, rounds: int = 6) -> None:
    for _ in range(rounds):
        node.tick(NS // 10)
        for machine in node.machines:
            node.renew(machine)


def test_demand_moves_to_where_it_is():
    node = Node(policy(rule(concurrent_requests=30)), 3)
    a, b, _ = node.machines
    for machine in node.machines:
        node.begin(machine)  # the first one makes the bucket known
    settle(node)
    for machine in node.machines:
        node.begin(machine)
    settle(node)
    for _ in range(12):
        for _ in range(30):
            node.begin(a)
        settle(node, 1)
    assert len(a.open) == 26  # the others hold two each
    assert node.running(loose=True) == 30
    for one in a.open:
        node.finish(one, 1)
    for _ in range(12):
        for _ in range(30):
            node.begin(b)
        settle(node, 1)
    assert len(b.open) >= 26
    assert node.running(loose=True) <= 30


def test_requests_that_are_larger_than_even_parts_are_not_starved():
    node = Node(policy(rule(tokens_per_minute=100)), 3)
    for machine in node.machines:
        node.begin(machine, 1)
    settle(node, 2)
    served = set()
    for _ in range(1500):
        for machine in node.machines:
            if node.begin(machine, 60):
                served.add(machine.name)
        settle(node, 1)
        node.tick(NS)
        assert node.in_last_minute(loose=True, tokens=True) <= 100
    assert served == {"s0", "s1", "s2"}


def test_what_a_dead_sidecar_held_comes_back_when_its_lease_ends():
    node = Node(policy(rule(concurrent_requests=10)), 2)
    a, b = node.machines
    for _ in range(4):
        for _ in range(10):
            node.begin(a)
        settle(node, 1)
    assert len(a.open) == 10
    node.begin(b)
    node.renew(b)
    assert node.begin(b) is None
    node.restart(a)
    a.book.lease_until_ns = None
    node.renew(b)
    assert node.begin(b) is None  # nobody knows yet that it is dead
    node.tick(5 * NS)
    node.renew(b)
    assert node.begin(b) is not None


def test_a_leaving_sidecar_gives_back_what_it_did_not_use():
    node = Node(policy(rule(requests_per_minute=10)), 2)
    a, b = node.machines
    node.begin(a)
    node.renew(a)
    for _ in range(3):
        assert node.begin(a)
    node.begin(b)
    node.renew(b)
    assert node.begin(b) is None
    claims = a.book.claims(node.now)
    leaving = LeaseRequest(sidecar=a.name, epoch=1, number=99, claims=claims, leaving=True)
    assert node.allocator.renew("", leaving, node.now, lambda r, _, k: r.limit(k) or 0) == ()
    node.renew(b)
    for _ in range(20):
        node.begin(b)
    assert node.in_last_minute(loose=True, tokens=False) == 10


def test_rules_that_only_watch_are_told_what_others_use():
    node = Node(policy(rule(concurrent_requests=4, mode="observe")), 2)
    a, b = node.machines
    for _ in range(3):
        node.begin(a)
    node.begin(b)
    settle(node, 2)
    (share,) = next(iter(b.book.buckets())).shares
    assert (share.allowance, share.elsewhere, share.limit) == (1, 3, 4)


def test_a_rule_that_is_no_more_gives_no_lease():
    node = Node(policy(rule(concurrent_requests=4)), 1)
    node.begin(node.machines[0])
    node.allocator = Allocator(policy(rule(name="new", concurrent_requests=4)), 0)
    node.renew(node.machines[0])
    assert node.begin(node.machines[0]) is not None  # as while the agent is away


def test_an_agent_that_has_just_begun_lets_nobody_grow():
    node = Node(policy(rule(concurrent_requests=4)), 2)
    a, b = node.machines
    for machine in (a, b):
        node.begin(machine)
    settle(node, 4)
    node.restart_agent()
    for _ in range(4):
        for machine in (a, b):
            node.begin(machine)
        settle(node, 1)
    assert node.running(loose=True) <= 4
    node.begin(b)
    node.tick(5 * NS)
    settle(node)
    assert node.running(loose=True) <= 4


def renewal(number: int, *claims: Claim, sidecar: str = "s", epoch: int = 1) -> LeaseRequest:
    return LeaseRequest(sidecar=sidecar, epoch=epoch, number=number, claims=claims)


def test_what_comes_late_is_known_by_its_number():
    allocator = Allocator(policy(rule(concurrent_requests=4)), 0)
    allocator.renew("", renewal(5), 10 * NS, lambda *_: 4)
    assert [allocator.is_late("", renewal(number)) for number in (4, 5, 6)] == [True, True, False]
    assert not allocator.is_late("", renewal(1, epoch=2))
    assert not allocator.is_late("somebody else", renewal(1))


def test_an_agent_that_has_just_begun_confirms_leases_and_gives_none_to_others():
    allocator = Allocator(policy(rule(concurrent_requests=4)), 10 * NS)
    held = Claim("r", "acme", "concurrent", 1, 1, 0, 3, True)
    share = Claim("r", "acme", "concurrent", 0, 0, 0, 4, False)
    assert allocator.renew("", renewal(1, held, sidecar="a"), 11 * NS, lambda *_: 4)[0].allowance == 3
    assert allocator.renew("", renewal(1, share, sidecar="b"), 11 * NS, lambda *_: 4)[0].allowance is None


def test_only_so_many_sidecars_are_kept_apart():
    allocator = Allocator(policy(rule(concurrent_requests=4)), 0)
    for i in range(MAX_HOLDERS):
        allocator.renew("", LeaseRequest(sidecar=f"s{i}", epoch=1, number=1), 10 * NS, lambda *_: 4)
    with pytest.raises(TooManyHolders, match="256 sidecars"):
        allocator.renew("", LeaseRequest(sidecar="more", epoch=1, number=1), 10 * NS, lambda *_: 4)
    allocator.expire(100 * NS)
    assert allocator.holders == 0


def fault(node: Node, machine: Machine, how: str, silence_ns: int) -> None:
    """One thing that may go wrong, or a part of a renewal that takes its time."""
    if how == "send":
        node.give_up(machine)
        node.send(machine)
    elif how == "deliver":
        node.deliver(machine)
    elif how == "receive":
        node.receive(machine)
    elif how == "lose":
        node.give_up(machine)
    elif how == "late" and node.late:
        node.arrive(node.late.pop())
    elif how == "restart":
        node.restart(machine)
    elif how == "agent":
        node.restart_agent()
    elif how == "silence":
        node.tick(silence_ns)


def assert_within(node: Node, limits: tuple[int, int, int]) -> None:
    """What is admitted under leases never passes a limit."""
    assert node.running(loose=False) <= limits[0]
    assert node.in_last_minute(loose=False, tokens=False) <= limits[1]
    assert node.in_last_minute(loose=False, tokens=True) <= limits[2]


HOWS = ("send", "send", "deliver", "deliver", "receive", "receive", "lose", "late", "restart", "agent", "silence")


@pytest.mark.parametrize("seed", range(60))
def test_a_long_walk_through_every_fault_stays_within_the_limits(seed: int):
    random = Random(seed)
    limits = (random.randint(1, 12), random.randint(1, 30), random.randint(20, 300))
    names = ("concurrent_requests", "requests_per_minute", "tokens_per_minute")
    one = rule(**dict(zip(names, limits, strict=True)), when_agent_away=random.choice(["share", "closed"]))
    node = Node(policy(one), 3)
    for _ in range(300):
        machine, lot = random.choice(node.machines), random.random()
        if lot < 0.25:
            for _ in range(random.randint(1, 6)):
                node.begin(machine, random.randint(1, 20))
        elif lot < 0.35:
            for request in machine.open[: random.randint(0, 6)]:
                node.finish(request, random.randint(0, 20))
        elif lot < 0.6:
            node.tick(random.choice([NS // 100, NS // 10, NS // 2, NS, 2 * NS]))
        elif lot < 0.78:
            node.renew(machine)
        else:
            fault(node, machine, random.choice(HOWS), random.choice([6, 30, 70]) * NS)
        assert_within(node, limits)


@given(seed=st.integers(0, 10**6), limit=st.integers(1, 20), count=st.integers(1, 4))
def test_while_the_agent_is_away_the_overrun_has_a_bound_that_shrinks_to_nothing(seed: int, limit: int, count: int):
    """At most limit x (1 - 1/n) too much, and nothing any more once what ran at the lapse has ended."""
    random = Random(seed)
    node = Node(policy(rule(concurrent_requests=limit, requests_per_minute=limit)), count)
    for machine in node.machines:
        node.begin(machine)
    settle(node, 2)
    for machine in node.machines:
        for request in machine.open:
            node.finish(request, 1)
    node.tick(70 * NS)
    settle(node, 2)
    for _ in range(20):
        for _ in range(random.randint(0, limit)):
            node.begin(random.choice(node.machines))
        settle(node, 1)
    assert node.running(loose=True) <= limit
    node.tick(5 * NS)  # every lease has ended
    old = {request for machine in node.machines for request in machine.open}
    for _ in range(40):
        node.begin(random.choice(node.machines))
        most = limit + limit * (count - 1) // count + count
        assert node.running(loose=True) <= most
        assert node.in_last_minute(loose=True, tokens=False) <= most
    assert sum(request not in old for machine in node.machines for request in machine.open) <= limit
    node.tick(61 * NS)
    for request in old:
        node.finish(request, 1)
    for _ in range(80):
        node.begin(random.choice(node.machines))
        assert node.running(loose=True) <= limit
        assert node.in_last_minute(loose=True, tokens=False) <= limit


class Leases(RuleBasedStateMachine):
    """Sidecars, an agent, and everything that may go wrong between them; the bounds of docs/quotas.md at every step."""

    machine = st.integers(0, 2)

    @initialize(
        concurrent=st.integers(1, 12),
        requests=st.integers(1, 30),
        tokens=st.integers(20, 300),
        away=st.sampled_from(["share", "closed"]),
    )
    def start(self, concurrent: int, requests: int, tokens: int, away: str) -> None:
        self.limits = (concurrent, requests, tokens)
        self.away = away
        self.overrun = 0
        one = rule(
            concurrent_requests=concurrent,
            requests_per_minute=requests,
            tokens_per_minute=tokens,
            when_agent_away=away,
        )
        self.node = Node(policy(one), 3)

    @step(i=machine, tokens=st.integers(1, 40), count=st.integers(1, 8), renewed=st.booleans())
    def begin(self, i: int, tokens: int, count: int, renewed: bool) -> None:
        machine = self.node.machines[i]
        for _ in range(count):
            self.node.begin(machine, tokens)
        if renewed:
            self.node.renew(machine)
            self.node.begin(machine, tokens)

    @step(i=machine, part=st.integers(0, 60), count=st.integers(1, 8))
    def finish(self, i: int, part: int, count: int) -> None:
        for one in self.node.machines[i].open[:count]:
            self.node.finish(one, part)

    @step(ns=st.sampled_from([NS // 100, NS // 2, NS, NS, 2 * NS]))
    def time(self, ns: int) -> None:
        self.node.tick(ns)
        for machine in self.node.machines:
            self.node.renew(machine)

    @step(i=machine, how=st.sampled_from(["send", "deliver", "receive", "lose", "late", "restart", "agent", "silence"]))
    def fault(self, i: int, how: str) -> None:
        fault(self.node, self.node.machines[i], how, 7 * NS)

    @invariant()
    def never_over(self) -> None:
        if not hasattr(self, "node"):
            return
        assert_within(self.node, self.limits)

    @invariant()
    def without_a_lease_each_has_its_part(self) -> None:
        """One sidecar alone never holds more than the limit; `closed` admits nothing without a lease."""
        if not hasattr(self, "node"):
            return
        for machine in self.node.machines:
            assert len(machine.open) <= self.limits[0]

    @invariant()
    def parts_are_conserved(self) -> None:
        """What a book counts is what its requests hold."""
        if not hasattr(self, "node"):
            return
        for machine in self.node.machines:
            for bucket in machine.book.buckets():
                assert bucket.open == len(machine.open)
                assert bucket.shares[0].held == len(machine.open)


Leases.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestLeases = Leases.TestCase
