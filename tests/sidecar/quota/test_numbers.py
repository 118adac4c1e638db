from agent.core.metrics.samples import Sample
from agent.core.quotas.book import Book
from agent.core.quotas.policy import MoneyLimit
from agent.core.requests import Usage
from agent.sidecar.quota.numbers import MAX_TENANTS, Counts, samples
from tests.support.quotas import NS, policy, rule, wish


def shown(found: list[Sample]) -> dict[str, float]:
    return {repr(sample.key).removeprefix("engineroom_sidecar_quota_"): sample.value for sample in found}


def test_each_rule_counts_each_tenant_up_to_a_number():
    book, counts = (
        Book(policy(rule(tenant="*", requests_per_minute=1), rule(name="b", tenant="*", tokens_per_minute=99))),
        Counts(),
    )
    for i in range(MAX_TENANTS + 5):
        counts.admitted(book.judge(wish(tenant=f"t{i}"), 0))
    refused = book.judge(wish(tenant="t0"), 0)
    counts.refused(refused.short)
    found = shown(list(samples(book, counts, 3, 0, leased=False)))
    assert found['requests_total{result="admitted",rule="r",tenant="t0"}'] == 1
    assert found['requests_total{result="refused",rule="r",tenant="t0"}'] == 1
    assert found['requests_total{result="refused",rule="b",tenant="t0"}'] == 0
    assert found['requests_total{result="admitted",rule="b",tenant="other"}'] == 5
    assert found["waiting{}"] == 3
    assert "lease_valid{}" not in found


def test_overruns_stay_counted_when_their_bucket_is_gone():
    money = MoneyLimit(nano=10**12, currency="CNY", period="day")
    book = Book(policy(rule(tokens_per_minute=100, money=money)))
    book.prices, book.currency = {"m": (10**15, 10**15)}, "CNY"
    reservation = book.judge(wish(10, 10), 0).reservation
    assert reservation
    reservation.done(Usage(input_tokens=10, output_tokens=15), 0)
    before = shown(list(samples(book, Counts(), 0, 0, leased=False)))
    assert before['reservation_overrun_total{kind="tokens",rule="r"}'] == 5
    assert before['reservation_overrun_total{kind="money",rule="r"}'] == 5.0
    book.install(policy(rule(name="new", requests_per_minute=1)), from_agent=False)
    after = shown(list(samples(book, Counts(), 0, 0, leased=False)))
    assert after['reservation_overrun_total{kind="tokens",rule="r"}'] == 5


def test_the_lease():
    book = Book(policy(rule(requests_per_minute=1)))
    assert shown(list(samples(book, Counts(), 0, 9 * NS, leased=True)))["lease_valid{}"] == 0
    book.answered_ns, book.lease_until_ns, book.from_agent = 7 * NS, 12 * NS, True
    found = shown(list(samples(book, Counts(), 0, 9 * NS, leased=True)))
    assert (found["lease_valid{}"], found["lease_age_seconds{}"]) == (1, 2.0)
