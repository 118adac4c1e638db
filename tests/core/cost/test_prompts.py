from agent.core.cost.live import Live
from agent.core.cost.prompts import MOST_TENANTS, Prompts
from agent.core.requests import Usage


def sent(tenant: str, estimate: int | None, fresh: int | None, cached: int | None = None) -> Live:
    usage = Usage(input_tokens=fresh, input_cached_tokens=cached)
    return Live("r", "u", "e", 0, tenant=tenant, input_estimate=estimate, usage=usage)


def test_before_anything_was_learnt_the_estimate_counts() -> None:
    assert Prompts().expect(sent("a", 100, None)) == (100, 100)
    assert Prompts().expect(sent("a", None, None)) == (0, 0)


def test_each_tenant_has_its_own_prefix() -> None:
    prompts = Prompts()
    for _ in range(300):
        prompts.learn(sent("agent", 1000, 110, 990))
        prompts.learn(sent("rag", 1000, 900))
    assert prompts.expect(sent("agent", 2000, None))[0] < 300
    assert prompts.expect(sent("agent", 2000, None))[1] > 2100
    assert 1700 < prompts.expect(sent("rag", 2000, None))[0] < 1800
    assert 900 < prompts.expect(sent("new", 2000, None))[0] < 1100  # like everybody


def test_what_says_nothing_teaches_nothing() -> None:
    prompts = Prompts()
    for live in (sent("a", None, 5), sent("a", 0, 5), sent("a", 5, None)):
        prompts.learn(live)
    assert prompts.expect(sent("a", 100, None)) == (100, 100)


def test_a_change_is_learnt_anew() -> None:
    prompts = Prompts()
    for _ in range(200):
        prompts.learn(sent("a", 100, 100))
    for _ in range(300):
        prompts.learn(sent("a", 100, 10, 90))
    assert prompts.expect(sent("a", 100, None))[0] < 15


def test_the_number_of_tenants_is_bounded() -> None:
    prompts = Prompts()
    for number in range(MOST_TENANTS + 10):
        prompts.learn(sent(str(number), 100, 50))
    assert len(prompts._tenants) == MOST_TENANTS
    assert prompts.expect(sent(str(MOST_TENANTS + 5), 100, None)) == (50, 50)
