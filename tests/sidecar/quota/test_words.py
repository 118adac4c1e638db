import pytest

from agent.core.quotas.book import Book
from agent.core.quotas.policy import MoneyLimit, Policy, Rule
from agent.sidecar.quota.words import refusal, remaining_lines, warning_lines
from tests.support.quotas import NS, policy, rule, wish


def full(one: Rule, tokens: int = 10, tenant: str = "acme", **changes: object) -> Book:
    book = Book(policy(one, **changes))
    while book.judge(wish(tokens, 0, tenant=tenant), 100 * NS).reservation:
        pass
    return book


@pytest.mark.parametrize(
    ("one", "tenant", "text", "after"),
    [
        (
            rule(requests_per_minute=2),
            "acme",
            "Tenant acme has used 2 of 2 requests per minute (rule r). Try again in 41 s.",
            41.0,
        ),
        (
            rule(tokens_per_minute=25),
            "acme",
            "Tenant acme has used 20 of 25 tokens per minute, and this request may take 9 (rule r). Try again in 41 s.",
            41.0,
        ),
        (
            rule(concurrent_requests=2, tenant="*"),
            "",
            "Requests without a tenant have 2 of 2 concurrent requests running (rule r). Try again in 1 s.",
            1.0,
        ),
        (
            rule(concurrent_requests=1, tenant="*", together=True),
            "acme",
            "All tenants together have 1 of 1 concurrent requests running (rule r). Try again in 1 s.",
            1.0,
        ),
    ],
)
def test_refusals_say_which_limit_whose_how_much_and_when(one: Rule, tenant: str, text: str, after: float):
    book = full(one, tenant=tenant)
    now = 120 * NS
    said = refusal(book, book.judge(wish(9, 0, tenant=tenant), now).short, now)
    assert (said.status, said.code, said.retry_after_seconds) == (429, "rate_limit_exceeded", after)
    assert said.message == text


def test_what_will_never_fit_is_not_told_to_come_again():
    book = Book(policy(rule(tokens_per_minute=100)))
    said = refusal(book, book.judge(wish(90, 20), 0).short, 0)
    assert said.retry_after_seconds is None
    assert said.message.startswith("This request may take 110 tokens, more than the 100 tokens per minute")


def test_a_spent_budget_is_402_until_the_period_ends():
    money = MoneyLimit(nano=5 * NS, currency="CNY", period="day")
    book = Book(Policy())
    book.install(policy(rule(money=money)), from_agent=True)
    book.prices, book.currency = {"m": (10**14, 10**14)}, "CNY"
    book.period_ends_ns = {"r": 3600 * NS}
    assert book.judge(wish(40, 0), 0).reservation
    said = refusal(book, book.judge(wish(40, 0), 0).short, 0)
    assert (said.status, said.code, said.retry_after_seconds) == (402, "budget_exceeded", 3600.0)
    assert said.message == (
        "Tenant acme has spent 4.0000 CNY of 5.0000 CNY a day, running requests included (rule r). Try again in 3600 s."
    )


def test_a_part_of_a_limit_is_named_while_the_agent_is_away():
    book = full(rule(concurrent_requests=10), sidecars=5)
    said = refusal(book, book.judge(wish(), 0).short, 0)
    assert (
        "2 of 10 concurrent requests running; while the quota service is away, 2 of it may be used here" in said.message
    )


def test_the_longest_wait_counts_and_money_before_all():
    book = full(rule(requests_per_minute=2, concurrent_requests=2))
    said = refusal(book, book.judge(wish(), 110 * NS).short, 110 * NS)
    assert "requests per minute" in said.message


def test_warnings_and_what_remains():
    book = Book(policy(rule(requests_per_minute=3, tokens_per_minute=100, mode="warn")))
    for _ in range(4):
        verdict = book.judge(wish(20, 0), 100 * NS)
    assert verdict.reservation
    assert warning_lines(verdict.ignored) == (b"x-engineroom-quota-warning: rule=r; limit=requests; used=3; of=3\r\n")
    assert remaining_lines(verdict.reservation.buckets, 120 * NS) == (
        b"x-ratelimit-limit-requests: 3\r\nx-ratelimit-remaining-requests: 0\r\nx-ratelimit-reset-requests: 41s\r\n"
        b"x-ratelimit-limit-tokens: 100\r\nx-ratelimit-remaining-tokens: 20\r\nx-ratelimit-reset-tokens: 41s\r\n"
    )


def test_rules_that_only_watch_are_not_told():
    book = Book(policy(rule(requests_per_minute=1, mode="observe")))
    book.judge(wish(), 0)
    verdict = book.judge(wish(), 0)
    assert verdict.reservation
    assert warning_lines(verdict.ignored) == b""
    assert remaining_lines(verdict.reservation.buckets, 0) == b""
