"""The choice among engines: fewest under way, failing ones left out, tried again one request at a time."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agent.clock import NS
from agent.core.metrics.samples import Sample
from agent.sidecar.gateway.balance import Balance, Engine, balance_samples
from agent.sidecar.gateway.settings import BalanceSettings


def gateway(count: int, seed: int = 0, **settings: object) -> Balance:
    return Balance([Engine(f"engine-{i}:8000") for i in range(count)], BalanceSettings(**settings), seed)  # type: ignore[arg-type]


def chosen(balance: Balance, now_ns: int = 0, **wishes: object) -> Engine:
    engine = balance.choose(now_ns, **wishes)  # type: ignore[arg-type]
    assert engine is not None
    return engine


def fail(balance: Balance, engine: Engine, now_ns: int = 0, times: int = 3) -> None:
    """So many requests to this very engine fail."""
    others = [one for one in balance.engines if one is not engine]
    for _ in range(times):
        assert balance.choose(now_ns, others) is engine
        balance.ended(engine, engine.spell, now_ns, ok=False, reason="refused")


def value(balance: Balance, name: str, engine: str) -> list[float]:
    samples: list[Sample] = list(balance_samples("n", balance))
    return [v for key, v in samples if key.name == name and key.get("upstream") == engine]


def test_no_engines_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="at least one engine"):
        Balance([])


@given(st.integers(1, 8), st.integers(0, 40), st.integers())
def test_what_is_never_given_back_is_spread_within_one(count: int, requests: int, seed: int) -> None:
    balance = gateway(count, seed)
    for _ in range(requests):
        chosen(balance)
    under_way = [engine.outstanding for engine in balance.engines]
    assert sum(under_way) == requests
    assert max(under_way) - min(under_way) <= 1


def test_one_request_at_a_time_goes_round() -> None:
    balance = gateway(3)
    went = []
    for _ in range(9):
        engine = chosen(balance)
        went.append(engine.index)
        balance.ended(engine, engine.spell, 0, ok=True)
    assert went[:3] * 3 == went
    assert sorted(went[:3]) == [0, 1, 2]


def test_gateways_do_not_all_begin_with_the_same_engine() -> None:
    assert len({chosen(gateway(4, seed)).index for seed in range(32)}) == 4


def test_a_slow_engine_gets_less() -> None:
    balance = gateway(2)
    stuck = chosen(balance)
    for _ in range(5):
        engine = chosen(balance)
        assert engine is not stuck
        balance.ended(engine, engine.spell, 0, ok=True)


def test_a_retry_goes_elsewhere() -> None:
    balance = gateway(2)
    first = chosen(balance)
    second = chosen(balance, exclude=[first])
    assert second is not first
    assert balance.choose(0, [first, second]) is None
    assert [engine.outstanding for engine in balance.engines] == [1, 1]


def test_a_single_engine_is_always_it_and_never_left_out() -> None:
    balance = gateway(1)
    (engine,) = balance.engines
    fail(balance, engine, times=100)
    assert chosen(balance) is engine
    assert (engine.failures, engine.ejected, balance.panics) == (100, False, 0)
    assert balance.choose(0, [engine]) is None


def test_failures_in_a_row_eject_and_others_do_not() -> None:
    balance = gateway(2)
    bad, _ = balance.engines
    fail(balance, bad, times=2)
    others = balance.engines[1:]
    assert balance.choose(0, others) is bad
    balance.ended(bad, bad.spell, 0, ok=True)
    fail(balance, bad, times=2)
    assert balance.choose(0, others) is bad
    balance.ended(bad, bad.spell, 0, ok=None)  # a client that left says nothing
    assert not bad.ejected
    fail(balance, bad, times=1)
    assert (bad.ejected, bad.reason, balance.serving) == (True, "refused", 1)
    assert {chosen(balance).index for _ in range(6)} == {1}


def test_nobody_is_ejected_where_that_is_switched_off() -> None:
    balance = gateway(2, eject_after_failures=0)
    fail(balance, balance.engines[0], times=50)
    assert balance.serving == 2


def test_one_request_tries_an_ejected_engine_when_its_time_is_over() -> None:
    balance = gateway(2, eject_seconds=8, eject_max_seconds=100)
    bad, good = balance.engines
    fail(balance, bad)
    assert {chosen(balance, 5 * NS) for _ in range(4)} == {good}  # 8 s, give or take a quarter
    later = 11 * NS
    assert chosen(balance, later) is bad
    assert {chosen(balance, later) for _ in range(4)} == {good}  # one request only
    balance.ended(bad, bad.spell, later, ok=False, reason="still refused")
    assert {chosen(balance, later + 11 * NS) for _ in range(4)} == {good}  # now 16 s
    later += 21 * NS
    assert chosen(balance, later) is bad
    balance.answered(bad, bad.spell, later)  # at the first byte: the stream may go on for minutes
    assert (bad.ejected, bad.reason, balance.serving, bad.ejections) == (False, "", 2, 1)
    assert chosen(balance, later) is bad


def test_a_trial_that_tells_nothing_lets_another_one_try() -> None:
    balance = gateway(2)
    bad = balance.engines[0]
    fail(balance, bad)
    assert chosen(balance, NS * 2) is bad
    balance.ended(bad, bad.spell, NS * 2, ok=None)
    assert bad.ejected
    assert chosen(balance, NS * 2) is bad


def test_a_retry_is_no_trial() -> None:
    balance = gateway(3)
    bad, failed, third = balance.engines
    fail(balance, bad)
    assert chosen(balance, NS * 2, exclude=[failed]) is third


@pytest.mark.parametrize("ok", [True, False])
def test_news_from_before_the_ejection_are_old(ok: bool) -> None:
    balance = gateway(2)
    bad, good = balance.engines
    assert balance.choose(0, [good]) is bad
    old = bad.spell
    fail(balance, bad)
    balance.ended(bad, old, 100 * NS, ok=ok)
    assert bad.ejected
    assert chosen(balance, NS * 2) is bad  # the time out was not made longer


def test_the_time_out_doubles_up_to_its_bound_and_begins_anew_after_a_good_time() -> None:
    balance = gateway(2, eject_seconds=1, eject_max_seconds=8)
    bad, good = balance.engines
    now, waits = 0, []
    fail(balance, bad, now)
    for _ in range(6):
        began = now
        while (engine := chosen(balance, now)) is good:
            balance.ended(good, good.spell, now, ok=True)
            now += NS // 20
        assert engine is bad
        waits.append((now - began) / NS)
        balance.ended(bad, bad.spell, now, ok=False)
    for wait, base in zip(waits, [1, 2, 4, 8, 8, 8], strict=True):
        assert 0.75 * base <= wait <= 1.25 * base + 0.05
    now += 11 * NS
    assert chosen(balance, now) is bad
    balance.ended(bad, bad.spell, now, ok=True)
    now += 20 * NS
    fail(balance, bad, now)
    assert chosen(balance, now + 2 * NS) is bad  # one second again


def test_where_none_serves_all_are_used() -> None:
    balance = gateway(3)
    for engine in balance.engines:
        fail(balance, engine)
    assert (balance.serving, balance.panics) == (0, 0)
    assert {chosen(balance).index for _ in range(3)} == {0, 1, 2}
    assert balance.panics == 3
    engine = balance.engines[1]
    balance.ended(engine, engine.spell, 0, ok=True)  # what works comes back at once
    assert balance.serving == 1
    assert chosen(balance) is engine


def test_an_engine_that_says_it_is_not_ready_gets_nothing_and_no_trial() -> None:
    balance = gateway(2, check_failures=2)
    loading, good = balance.engines
    balance.checked(loading, False, "/health answers 503")
    assert loading.serves
    balance.checked(loading, False, "/health answers 503")
    assert (loading.serves, loading.reason) == (False, "/health answers 503")
    assert {chosen(balance, 1000 * NS) for _ in range(4)} == {good}
    balance.checked(loading, True)
    assert (loading.serves, loading.reason) == (True, "")
    assert chosen(balance) is loading


def test_an_engine_that_does_not_know_the_question_counts_as_ready() -> None:
    balance = gateway(2)
    engine = balance.engines[0]
    for ok in (False, False, None):
        balance.checked(engine, ok)
    assert (engine.ready, engine.serves, balance.serving) == (None, True, 2)


def test_a_good_check_does_not_end_an_ejection() -> None:
    balance = gateway(2)
    bad = balance.engines[0]
    fail(balance, bad)
    balance.checked(bad, False, "x")
    balance.checked(bad, False, "x")
    balance.checked(bad, True)
    assert (bad.ejected, balance.serving) == (True, 1)


def test_requests_go_to_engines_of_their_model() -> None:
    a, b, c = Engine("a:1", frozenset({"small"})), Engine("b:1", frozenset({"small", "large"})), Engine("c:1")
    balance = Balance([a, b, c])
    assert {chosen(balance, model="small") for _ in range(9)} == {a, b, c}
    assert {chosen(balance, model="large") for _ in range(9)} == {b, c}
    assert {chosen(balance, model="unheard-of") for _ in range(9)} == {c}
    assert {chosen(balance) for _ in range(30)} == {a, b, c}


def test_a_model_that_nobody_names_goes_to_any_and_the_engine_answers() -> None:
    balance = Balance([Engine("a:1", frozenset({"small"})), Engine("b:1", frozenset({"large"}))])
    assert len({chosen(balance, model="unheard-of") for _ in range(4)}) == 2


def test_engines_of_one_model_that_are_all_out_are_used_though_others_serve() -> None:
    small, large = Engine("a:1", frozenset({"small"})), Engine("b:1", frozenset({"large"}))
    balance = Balance([small, large])
    fail(balance, small)
    assert chosen(balance, model="small") is small


def test_equal_keys_go_to_the_same_engine_in_every_gateway_and_all_engines_get_some() -> None:
    homes: dict[bytes, str] = {}
    count: Counter[str] = Counter()
    for seed in range(2):
        balance = gateway(5, seed)
        for number in range(2000):
            key = b"session-%d" % number
            engine = chosen(balance, key=key)
            balance.ended(engine, engine.spell, 0, ok=True)
            assert homes.setdefault(key, engine.name) == engine.name
            count[engine.name] += 1
    assert all(700 < times < 900 for times in count.values())


def test_only_the_keys_of_an_engine_that_is_out_move() -> None:
    balance = gateway(4)
    keys = [b"%d" % number for number in range(200)]

    def homes() -> list[Engine]:
        found = []
        for key in keys:
            engine = chosen(balance, key=key)
            balance.ended(engine, engine.spell, 0, ok=True)
            found.append(engine)
        return found

    before = homes()
    out = balance.engines[2]
    fail(balance, out)
    after = homes()
    assert all(new is old for old, new in zip(before, after, strict=True) if old is not out)
    assert out not in after


@given(st.lists(st.sampled_from([b"hot", b"warm", b"cold"]), max_size=60), st.floats(1.01, 3))
def test_no_key_fills_an_engine_above_the_bound(keys: list[bytes], ratio: float) -> None:
    balance = gateway(3, sticky_load_ratio=ratio)
    for number, key in enumerate(keys):
        engine = chosen(balance, key=key)
        assert engine.outstanding <= ratio * (number + 1) / 3 + 1


def test_numbers() -> None:
    balance = gateway(2)
    bad, good = (engine.name for engine in balance.engines)
    fail(balance, balance.engines[0])
    chosen(balance)
    prefix = "engineroom_sidecar_upstream_"
    assert value(balance, prefix + "serving", bad) == [0]
    assert value(balance, prefix + "serving", good) == [1]
    assert value(balance, prefix + "requests_in_flight", good) == [1]
    assert value(balance, prefix + "failures_total", bad) == [3]
    assert value(balance, prefix + "ejections_total", bad) == [1]
    assert value(balance, prefix + "ready", bad) == []  # not asked is not 0
    balance.checked(balance.engines[1], True)
    assert value(balance, prefix + "ready", good) == [1]
    assert value(balance, prefix + "chosen_total", good) == [1]


class AnyOrder(RuleBasedStateMachine):
    """Requests begin, answer, fail and go in any order; checks come and go; time passes."""

    @initialize(count=st.integers(1, 5), seed=st.integers(), limit=st.integers(0, 3))
    def begin(self, count: int, seed: int, limit: int) -> None:
        self.balance = gateway(count, seed, eject_after_failures=limit, eject_max_seconds=20)
        self.now_ns = 0
        self.open: list[
            tuple[Engine, int, bool]
        ] = []  # and whether it was sent to an ejected engine while others serve
        self.random = random.Random(seed)

    @rule(
        excluded=st.sets(st.integers(0, 4), max_size=3),
        key=st.none() | st.binary(min_size=1, max_size=1),
        n=st.integers(1, 6),
    )
    def choose(self, excluded: set[int], key: bytes | None, n: int) -> None:
        for _ in range(n):
            exclude = [engine for engine in self.balance.engines if engine.index in excluded]
            left = [engine for engine in self.balance.engines if engine not in exclude]
            serving = [engine for engine in left if engine.serves]
            least = min((engine.outstanding for engine in serving), default=0)
            trials = {engine: engine._trials for engine in left}
            engine = self.balance.choose(self.now_ns, exclude, key=key)
            if engine is None:
                assert not left
                continue
            assert engine in left
            trial = bool(serving) and not engine.serves and len(self.balance.engines) > 1
            if trial:  # an ejected engine is chosen to try it, by one request at a time; or because none serves
                assert engine.ejected
                assert engine.ready is not False
                assert self.now_ns >= engine._until_ns
                assert trials[engine] == 0
            elif serving and key is None:
                assert engine.outstanding == least + 1
            self.open.append((engine, engine.spell, trial))

    @precondition(lambda self: self.open)
    @rule(ok=st.sampled_from([True, False, None]), first=st.booleans(), data=st.data())
    def end(self, ok: bool | None, first: bool, data: st.DataObject) -> None:
        engine, spell, _ = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        if first and ok is not False:
            self.balance.answered(engine, spell, self.now_ns)
        self.balance.ended(engine, spell, self.now_ns, ok=ok)

    @rule(index=st.integers(0, 4), ok=st.sampled_from([True, False, None]))
    def check(self, index: int, ok: bool | None) -> None:
        if index < len(self.balance.engines):
            self.balance.checked(self.balance.engines[index], ok)

    @rule(seconds=st.floats(0, 30))
    def wait(self, seconds: float) -> None:
        self.now_ns += int(seconds * NS)

    @invariant()
    def counts_are_those_of_open_requests(self) -> None:
        if not hasattr(self, "balance"):
            return
        for engine in self.balance.engines:
            mine = [(spell, trial) for one, spell, trial in self.open if one is engine]
            assert engine.outstanding == len(mine)
            current = [spell for spell, _ in mine if spell == engine.spell]
            assert engine._trials == (len(current) if engine.ejected else 0)
            assert engine.ejections <= engine.chosen
        assert self.balance.serving == sum(engine.serves for engine in self.balance.engines)
        if len(self.balance.engines) == 1:
            assert not self.balance.engines[0].ejected


TestAnyOrder = AnyOrder.TestCase
