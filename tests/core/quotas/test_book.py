import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.quotas.book import MAX_BUCKETS, OTHER, Book
from agent.core.quotas.leases import Grant, LeaseAnswer
from agent.core.quotas.policy import MoneyLimit, Policy, Rule
from agent.core.requests import Usage
from tests.support.quotas import NS, policy, rule, wish

MONEY = MoneyLimit(nano=1000, currency="CNY", period="day")


def book(*rules: Rule, **changes: object) -> Book:
    return Book(policy(*rules, **changes))


def answer(*grants: Grant, of: Policy | None = None, **changes: object) -> LeaseAnswer:
    values: dict[str, object] = {"number": 1, "lease_ns": 5 * NS, "sidecars": 2, "place": 0, "revision": "x"}
    return LeaseAnswer(**values | {"policy": of, "grants": grants} | changes)  # type: ignore[arg-type]


def leased(one: Rule, *grants: Grant, now: int = 0, **changes: object) -> Book:
    """A book with a bucket for acme and these grants, from `now` on."""
    made = Book(Policy())
    made.install(policy(one), from_agent=True)
    made.plan_for(wish(), now)
    made.claims(now)
    made.apply(answer(*grants, **changes), now, now)
    return made


def test_without_an_agent_the_own_rules_hold():
    own = book(rule(concurrent_requests=2))
    first, second, third = (own.judge(wish(), 0) for _ in range(3))
    assert first.reservation
    assert second.reservation
    assert third.reservation is None
    assert [(one.used, one.ceiling, one.share.kind) for one in third.short] == [(2, 2, "concurrent")]
    first.reservation.done(Usage(), 1)
    assert own.judge(wish(), 1).reservation


def test_without_an_agent_each_sidecar_has_its_part():
    own = book(rule(concurrent_requests=5), sidecars=2)
    assert sum(own.judge(wish(), 0).reservation is not None for _ in range(9)) == 2


def test_all_or_nothing():
    own = book(rule(name="a", requests_per_minute=9), rule(name="b", concurrent_requests=1))
    assert own.judge(wish(), 0).reservation
    assert own.judge(wish(), 0).reservation is None
    assert [share.used(0) for bucket in own.buckets() for share in bucket.shares] == [1, 1]


@pytest.mark.parametrize(
    ("usage", "charged"),
    [
        (Usage(input_tokens=5, output_tokens=7), 12),
        (Usage(input_tokens=5, input_cached_tokens=4, output_tokens=7), 16),
        (Usage(output_tokens=7), 17),  # input nobody told stays as estimated
        (Usage(), 10),
        (Usage(input_tokens=50, output_tokens=70), 120),
    ],
)
def test_true_up(usage: Usage, charged: int):
    own = book(rule(tokens_per_minute=100))
    reservation = own.judge(wish(10, 20), 0).reservation
    assert reservation
    (share,) = next(iter(own.buckets())).shares
    assert share.used(0) == 30
    assert reservation.done(usage, NS)
    assert not reservation.done(usage, NS)
    assert not reservation.undo(NS)
    assert share.used(NS) == charged
    assert share.overrun == max(0, charged - 30)


def test_what_never_reached_the_engine_counts_for_nothing():
    own = book(rule(tokens_per_minute=100, requests_per_minute=3, concurrent_requests=3))
    reservation = own.judge(wish(), 0).reservation
    assert reservation
    assert reservation.undo(NS)
    assert not reservation.done(Usage(output_tokens=5), NS)
    assert [share.used(NS) for bucket in own.buckets() for share in bucket.shares] == [0, 0, 0]


def test_a_request_that_does_not_say_reserves_the_default():
    own = book(rule(tokens_per_minute=100, default_output_tokens=64))
    assert own.judge(wish(10, None), 0).reservation
    assert next(iter(own.buckets())).shares[0].used(0) == 74


def test_names_of_models_that_are_too_long_are_not_remembered():
    own = book(rule(requests_per_minute=5))
    for i in range(5):
        assert own.judge(wish(model=f"{i}" * 1000), 0).reservation
    assert own.judge(wish(model="x" * 1000), 0).reservation is None
    assert len(own._found) == 1


def test_rules_that_watch_let_pass_and_say_so():
    own = book(rule(requests_per_minute=1, mode="observe"))
    assert not own.judge(wish(), 0).ignored
    verdict = own.judge(wish(), 0)
    assert verdict.reservation
    assert len(verdict.ignored) == 1


class TestLeases:
    def test_a_first_request_waits_for_the_agents_word(self):
        made = leased(rule(concurrent_requests=4))
        verdict = made.judge(wish(), 0)
        assert verdict.reservation is None
        assert verdict.short[0].reclaimable

    def test_it_does_not_wait_for_an_agent_that_did_not_answer_last(self):
        made = leased(rule(concurrent_requests=4))
        made.unanswered = True
        assert sum(made.judge(wish(), 0).reservation is not None for _ in range(9)) == 2

    def test_no_more_than_the_allowance(self):
        made = leased(rule(concurrent_requests=4), Grant(1, 1, 4))
        assert made.judge(wish(), 0).reservation
        verdict = made.judge(wish(), 0)
        assert verdict.reservation is None
        assert verdict.short[0].reclaimable  # 1 here, 1 elsewhere, 4 in all

    def test_what_others_use_is_not_reclaimable(self):
        made = leased(rule(concurrent_requests=4), Grant(1, 3, 4))
        made.judge(wish(), 0)
        assert not made.judge(wish(), 0).short[0].reclaimable

    @pytest.mark.parametrize(("away", "admitted"), [("share", 3), ("closed", 0), ("open", 20)])
    def test_when_the_lease_has_ended(self, away: str, admitted: int):
        made = leased(rule(concurrent_requests=5, when_agent_away=away), Grant(4, 0, 5))
        after = 5 * NS
        assert sum(made.judge(wish(), after).reservation is not None for _ in range(20)) == admitted

    def test_the_lease_counts_from_when_it_was_asked_for(self):
        made = leased(rule(concurrent_requests=5))
        made.claims(NS)
        made.apply(answer(Grant(5, 0, 5)), NS, 4 * NS)
        assert made.in_touch(6 * NS - 1)
        assert not made.in_touch(6 * NS)

    def test_no_lease_to_give_is_as_if_the_agent_were_away(self):
        made = leased(rule(concurrent_requests=5), Grant(None, 0, 5))
        assert sum(made.judge(wish(), 0).reservation is not None for _ in range(9)) == 3

    def test_the_agents_rules_replace_the_own_ones_and_go_with_them(self):
        made = book(rule(name="own", concurrent_requests=1))
        made.judge(wish(), 0)
        theirs = policy(rule(name="theirs", requests_per_minute=5))
        assert made.claims(0) == ()
        made.apply(answer(of=theirs), 0, 0)
        assert (made.policy, made.from_agent) == (theirs, True)
        made.apply(answer(of=Policy()), 0, 0)
        assert ([one.name for one in made.policy.rules], made.from_agent) == (["own"], False)

    def test_idle_buckets_are_given_back(self):
        made = leased(rule(concurrent_requests=5), Grant(4, 0, 5))
        assert len(made.claims(59 * NS)) == 1
        assert made.claims(61 * NS) == ()

    def test_there_is_an_end_to_buckets(self):
        made = book(rule(tenant="*", concurrent_requests=1))
        held = [made.judge(wish(tenant=f"t{i}"), 0).reservation for i in range(MAX_BUCKETS)]
        assert all(held)
        assert made.judge(wish(tenant="one more"), 0).reservation
        assert made.judge(wish(tenant="another"), 0).short[0].bucket.tenant == OTHER
        for reservation in held[:2]:
            reservation.done(Usage(), 0)  # type: ignore[union-attr]
        assert made.judge(wish(tenant="a third"), 2).reservation


class TestMoney:
    RULE = rule(money=MONEY)

    def priced(self, *grants: Grant) -> Book:
        return leased(self.RULE, *grants, prices={"m": (1_000_000, 2_000_000)}, currency="CNY", periods={"r": 100 * NS})

    def test_reserved_by_the_price_of_tokens_and_trued_up(self):
        made = self.priced(Grant(500, 0, 900))
        reservation = made.judge(wish(10, 20), 0).reservation
        assert reservation
        (share,) = next(iter(made.buckets())).shares
        assert share.used(0) == 50
        reservation.done(Usage(input_tokens=10, output_tokens=5), NS)
        assert share.used(NS) == 20

    def test_beyond_the_budget_it_does_not_fit(self):
        made = self.priced(Grant(40, 0, 40))
        assert made.judge(wish(10, 20), 0).short[0].amount == 50

    def test_without_a_price_nothing_is_reserved_and_that_is_counted(self):
        made = self.priced(Grant(40, 0, 40))
        assert made.judge(wish(10, 20, model="unknown"), 0).reservation
        assert made.unpriced == 1

    def test_a_spent_budget_stops_the_unpriced_too(self):
        made = self.priced(Grant(0, 0, 0))
        assert made.judge(wish(10, 20, model="unknown"), 0).reservation is None

    def test_prices_of_another_currency_are_none(self):
        made = leased(self.RULE, Grant(40, 0, 40), prices={"m": (10**6, 10**6)}, currency="USD")
        assert made.judge(wish(), 0).reservation
        assert made.unpriced == 1

    def test_a_period_that_ends_while_the_agent_is_away_begins_anew(self):
        made = self.priced(Grant(0, 0, 0))
        made.claims(99 * NS)
        made.plan_for(wish(), 99 * NS)
        assert made.judge(wish(1, 1), 99 * NS).reservation is None or made.unpriced == 0
        made.claims(101 * NS)
        assert made.judge(wish(1, 1), 101 * NS).reservation


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 80), st.booleans()), max_size=30))
def test_used_is_what_the_reservations_say(asks: list[tuple[int, int, bool]]):
    made = book(rule(tokens_per_minute=400, concurrent_requests=9))
    counted, open_now = 0, 0
    for tokens, actual, ends in asks:
        reservation = made.judge(wish(tokens, 0), 0).reservation
        if reservation is None:
            assert counted + tokens > 400 or open_now == 9 or counted >= 400
            continue
        counted, open_now = counted + tokens, open_now + 1
        if ends:
            reservation.done(Usage(input_tokens=actual), 0)
            counted, open_now = counted + actual - tokens, open_now - 1
        concurrent, minute = next(iter(made.buckets())).shares
        assert (concurrent.used(0), minute.used(0)) == (open_now, counted)
