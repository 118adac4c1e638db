from pathlib import Path

import pytest

from agent.core.cost.reports import Report, ReportQuery, ReportRow
from agent.core.ports import TryLater
from agent.core.quotas.allocator import MAX_HOLDERS
from agent.core.quotas.leases import Claim, LeaseAnswer, LeaseRequest
from agent.core.quotas.policy import MoneyLimit, Policy
from agent.runners.leases import LateRenewal, LeaseDesk, token_price
from tests.support.ledger import T0, lived, opened
from tests.support.money import HandClock, Sidecar
from tests.support.quotas import NS, policy, rule

DAY = 86_400 * NS
NOON = 20_000 * DAY + DAY // 2


class Reports:
    """A ledger that knows `rows`, whatever the window."""

    def __init__(self, *rows: tuple[str, str, str, int], currency: str | None = "CNY") -> None:
        self.rows = rows  # (state, tenant, model, nano)
        self.currency = currency
        self.asked: list[ReportQuery] = []

    async def report(self, query: ReportQuery, /) -> Report:
        self.asked.append(query)
        rows = tuple(
            ReportRow(
                start_ns=0,
                end_ns=1,
                group={"state": state, "tenant": tenant, "model": model},
                gpu_ns=1,
                cost_nano=nano,
                requests=1,
                input_tokens=500,
                output_tokens=200,
            )
            for state, tenant, model, nano in self.rows
        )
        return Report(query=query, currency=self.currency, rows=rows, total_gpu_ns=0, total_cost_nano=0)


class Clocks:
    def __init__(self) -> None:
        self.unix, self.boot = NOON, 1000 * NS

    def tick(self, ns: int) -> None:
        self.unix += ns
        self.boot += ns


def money(nano: int = 1000, **changes: object) -> MoneyLimit:
    values: dict[str, object] = {"nano": nano, "currency": "CNY", "period": "day"} | changes
    return MoneyLimit(**values)  # type: ignore[arg-type]


def desk_of(of: Policy, ledger: Reports, counter: dict[tuple[str, str, str, str], int], clocks: Clocks) -> LeaseDesk:
    made = LeaseDesk(of, ledger, counter, lambda: clocks.unix, lambda: clocks.boot)
    clocks.tick(of.lease_ns)
    return made


def renewal(number: int = 1, *claims: Claim, sidecar: str = "a", revision: str = "") -> LeaseRequest:
    return LeaseRequest(sidecar=sidecar, epoch=1, number=number, claims=claims, revision=revision)


def claim(kind: str = "money", tenant: str = "acme", used: int = 0, wanted: int = 0) -> Claim:
    return Claim("r", tenant, kind, used, used, wanted, 0, False)


def limit_of(answer: LeaseAnswer) -> int:
    return answer.grants[0].limit


async def test_what_is_left_is_the_limit_less_what_the_ledger_has_booked():
    counter = {("request", "acme", "m", "CNY"): 5000, ("loaded_idle", "", "m", "CNY"): 700}
    clocks = Clocks()
    ledger = Reports(("request", "acme", "m", 300), ("request", "else", "m", 900), ("loaded_idle", "", "m", 50))
    desk = desk_of(policy(rule(money=money())), ledger, counter, clocks)
    await desk.step()
    assert (limit_of(desk.answer("", None, renewal(1, claim()))), desk.spent_nano("r", "acme")) == (700, 300)
    counter["request", "acme", "m", "CNY"] += 250
    counter["request", "acme", "new", "CNY"] = 50
    counter["request", "acme", "m", "USD"] = 10**9
    await desk.step()
    answer = desk.answer("", None, renewal(2, claim()))
    assert limit_of(answer) == 400
    assert answer.periods == {"r": DAY // 2 - 5 * NS}
    counter["request", "acme", "m", "CNY"] += 10**6
    await desk.step()
    assert desk.answer("", None, renewal(3, claim())).grants[0].allowance == 0


async def test_a_new_period_begins_at_nothing():
    counter: dict[tuple[str, str, str, str], int] = {}
    clocks, ledger = Clocks(), Reports(("request", "acme", "m", 300))
    desk = desk_of(policy(rule(money=money())), ledger, counter, clocks)
    await desk.step()
    assert desk.spent_nano("r", "acme") == 300
    ledger.rows = ()
    clocks.tick(DAY // 2)
    await desk.step()
    assert desk.spent_nano("r", "acme") == 0
    assert ledger.asked[-1].start_ns % DAY == 0


async def test_rules_over_all_tenants_and_of_one_model():
    ledger = Reports(("request", "a", "big", 300), ("request", "b", "big", 200), ("request", "a", "small", 50))
    rules = (
        rule(name="all", tenant="*", together=True, money=money()),
        rule(name="each", tenant="*", model="big", money=money()),
    )
    desk = desk_of(policy(*rules), ledger, {}, Clocks())
    await desk.step()
    spent = {key: desk.spent_nano(*key) for key in [("all", "*"), ("each", "a"), ("each", "b"), ("each", "c")]}
    assert spent == {("all", "*"): 550, ("each", "a"): 300, ("each", "b"): 200, ("each", "c"): 0}


async def test_prices_come_from_what_was_settled_and_stay_when_a_model_rests():
    clocks, ledger = Clocks(), Reports(("request", "acme", "m", 2_000_000))
    desk = desk_of(policy(rule(money=money())), ledger, {}, clocks)
    await desk.step()
    assert desk.prices == {"m": (2_000_000_000, 5_000_000_000)}
    ledger.rows = ()
    clocks.tick(60 * NS)
    await desk.step()
    answer = desk.answer("", None, renewal())
    assert (answer.prices, answer.currency) == ({"m": (2_000_000_000, 5_000_000_000)}, "CNY")


def test_a_price_makes_the_cost_of_the_tokens_it_comes_from():
    row = ReportRow(
        start_ns=0, end_ns=1, group={}, gpu_ns=1, cost_nano=7_000_001, input_tokens=1_234, output_tokens=777
    )
    price = token_price(row)
    assert price
    assert 7_000_001 <= (price[0] * 1_234 + price[1] * 777) // 1_000_000 + 1 <= 7_000_003


@pytest.mark.parametrize("changes", [{"cost_nano": None}, {"cost_nano": 0}, {"input_tokens": 0, "output_tokens": 0}])
def test_no_price_without_cost_or_tokens(changes: dict[str, int | None]):
    values: dict[str, object] = {"cost_nano": 5, "input_tokens": 5, "output_tokens": 5} | changes
    assert token_price(ReportRow(start_ns=0, end_ns=1, group={}, gpu_ns=1, **values)) is None  # type: ignore[arg-type]


async def test_without_money_the_ledger_is_left_alone():
    ledger = Reports()
    desk = desk_of(policy(rule(requests_per_minute=5)), ledger, {}, Clocks())
    await desk.step()
    assert ledger.asked == []
    assert desk.answer("", None, renewal()).prices == {}


def test_the_policy_travels_when_it_is_not_known_yet():
    desk = desk_of(policy(rule(requests_per_minute=5)), Reports(), {}, Clocks())
    assert desk.answer("", None, renewal(1)).policy == desk.policy
    assert desk.answer("", None, renewal(2, revision=desk.policy.revision)).policy is None


def test_a_tenants_own_sidecar_sees_its_own_rules():
    desk = desk_of(policy(rule(requests_per_minute=5), rule(name="x", tenant="other")), Reports(), {}, Clocks())
    seen = desk.answer("", "acme", renewal()).policy
    assert seen
    assert [one.name for one in seen.rules] == ["r"]


def test_sidecars_are_told_how_many_they_are_and_which_they_are():
    desk = desk_of(policy(rule(requests_per_minute=5)), Reports(), {}, Clocks())
    for name in "ba":
        desk.answer("", None, renewal(1, sidecar=name))
    answers = [desk.answer("", None, renewal(2, sidecar=name)) for name in "ab"]
    assert [(answer.sidecars, answer.place) for answer in answers] == [(2, 0), (2, 1)]


def test_late_renewals_and_too_many_sidecars():
    desk = desk_of(policy(rule(requests_per_minute=5)), Reports(), {}, Clocks())
    desk.answer("", None, renewal(2))
    with pytest.raises(LateRenewal, match="renewal 1 came after a newer one"):
        desk.answer("", None, renewal(1))
    for i in range(MAX_HOLDERS - 1):
        desk.answer("", None, renewal(1, sidecar=f"s{i}"))
    with pytest.raises(TryLater, match="sidecars share"):
        desk.answer("", None, renewal(1, sidecar="more"))


async def test_a_real_ledger(tmp_path: Path):
    """What the desk says is spent is what was booked, from the ledger's report and from the counters since."""
    clock = HandClock(T0)
    async with await opened(tmp_path / "ledger.sqlite") as ledger:
        settlement = await lived(ledger, clock, 6, Sidecar())
        one = rule(tenant="*", money=money(10**15, period="month"))
        desk = LeaseDesk(policy(one), ledger, settlement.cost_nano, clock.now_ns)
        await desk.step()
        booked = {key[1]: nano for key, nano in settlement.cost_nano.items() if key[0] == "request"}
        assert any(booked.values())
        assert {tenant: desk.spent_nano("r", tenant) for tenant in booked} == booked
        assert desk.prices
        settlement.cost_nano["request", "acme", "m", "CNY"] = 77
        await desk.step()
        assert desk.spent_nano("r", "acme") == booked["acme"] + 77


async def test_what_is_booked_late_for_the_period_before_is_not_of_this_one_for_long():
    clocks, ledger = Clocks(), Reports(("request", "acme", "m", 300))
    counter = {("request", "acme", "m", "CNY"): 300}
    desk = desk_of(policy(rule(money=money())), ledger, counter, clocks)
    clocks.tick(DAY // 2 - 5 * NS)  # midnight
    ledger.rows = ()
    await desk.step()
    counter["request", "acme", "m", "CNY"] += 40  # of the last seconds of the day
    await desk.step()
    assert desk.spent_nano("r", "acme") == 40
    clocks.tick(60 * NS)
    await desk.step()
    assert desk.spent_nano("r", "acme") == 0


class Left:
    """Budgets of which so much is left."""

    def __init__(self, left: int | None, ends_ns: int | None) -> None:
        self.left, self.ends = left, ends_ns

    def left_nano(self, budget: str, /) -> int | None:
        assert budget == "b"
        return self.left

    def ends_ns(self, budget: str, /) -> int | None:
        return self.ends


async def test_rules_of_budgets_are_limited_to_what_the_budgets_say():
    of, clocks = policy(rule(money=money(period="rolling 7d"), budget="b")), Clocks()
    left = Left(None, None)
    desk = LeaseDesk(of, Reports(), {}, lambda: clocks.unix, lambda: clocks.boot, left)
    clocks.tick(of.lease_ns)
    await desk.step()
    answer = desk.answer("", None, renewal(1, claim()))
    assert (limit_of(answer), answer.periods) == (1000, {})
    left.left, left.ends = 7, clocks.unix + 5
    answer = desk.answer("", None, renewal(2, claim()))
    assert (limit_of(answer), answer.periods) == (7, {"r": 5})
    assert (
        limit_of(LeaseDesk(of, Reports(), {}, lambda: 0, lambda: 10**18).answer("", None, renewal(3, claim()))) == 1000
    )


def test_a_tenants_sidecar_is_not_told_when_the_periods_of_others_end():
    both = policy(rule(name="r", money=money()), rule(name="else", tenant="else", money=money()))
    desk = desk_of(both, Reports(), {}, Clocks())
    assert set(desk.answer("", "acme", renewal()).periods) == {"r"}
    assert set(desk.answer("", None, renewal(2)).periods) == {"r", "else"}
