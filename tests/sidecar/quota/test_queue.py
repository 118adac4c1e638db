from agent.core.quotas.book import Book
from agent.core.quotas.policy import QueuePolicy
from agent.core.requests import Usage
from agent.sidecar.quota.queue import Waiter, WaitingRoom
from tests.support.quotas import NS, policy, rule, wish

QUEUE = QueuePolicy(deadline_ns=60 * NS)


def waiter(room: WaitingRoom, book: Book, tokens: int = 10, rank: int = 0, tenant: str = "acme") -> Waiter:
    asked = wish(tokens, 0, tenant=tenant)
    made = Waiter(asked, book.plan_for(asked, 0).buckets, (rank, room.number()), 60 * NS, ())
    room.enter(made)
    return made


def test_served_in_order_and_nobody_before_who_waits_for_the_same():
    book = Book(policy(rule(tokens_per_minute=100, queue=QUEUE)))
    room = WaitingRoom(book)
    first = book.judge(wish(80, 0), 0).reservation
    assert first
    large, small = waiter(room, book, 50), waiter(room, book, 5)
    room.serve(0)
    assert (large.reservation, small.reservation, len(room)) == (None, None, 2)  # the small one would fit
    first.done(Usage(input_tokens=20), 0)
    room.serve(0)
    assert large.reservation
    assert small.reservation
    assert len(room) == 0


def test_a_higher_class_goes_first():
    book = Book(policy(rule(concurrent_requests=1, queue=QUEUE)))
    room = WaitingRoom(book)
    low, high = waiter(room, book, rank=1), waiter(room, book, rank=0)
    room.serve(0)
    assert high.reservation
    assert low.reservation is None


def test_tenants_do_not_wait_for_each_other():
    book = Book(policy(rule(tenant="*", concurrent_requests=1, queue=QUEUE)))
    room = WaitingRoom(book)
    assert book.judge(wish(), 0).reservation
    ours, theirs = waiter(room, book), waiter(room, book, tenant="other")
    room.serve(0)
    assert ours.reservation is None
    assert theirs.reservation


def test_when_it_is_worth_looking_again():
    book = Book(policy(rule(requests_per_minute=1, queue=QUEUE)))
    room = WaitingRoom(book)
    assert book.judge(wish(), 10 * NS).reservation
    one, behind = waiter(room, book), waiter(room, book)
    one.deadline_ns = behind.deadline_ns = 100 * NS
    room.serve(20 * NS)
    assert (one.next_ns, behind.next_ns) == (71 * NS, 100 * NS)  # the second will be woken by the first
    room.serve(71 * NS)
    assert one.reservation


def test_leaving_twice_is_harmless_and_places_are_counted():
    book = Book(policy(rule(concurrent_requests=1, queue=QUEUE)))
    room = WaitingRoom(book)
    one = waiter(room, book)
    (bucket,) = book.buckets()
    assert bucket.waiting == 1
    room.leave(one)
    room.leave(one)
    assert (bucket.waiting, len(room)) == (0, 0)


def test_all_who_wait_are_told_to_the_agent():
    book = Book(
        policy(rule(concurrent_requests=5, queue=QUEUE)),
    )
    book.install(book.policy, from_agent=True)
    book.lease_until_ns = 100 * NS  # in touch, but nothing granted yet
    room = WaitingRoom(book)
    for _ in range(3):
        waiter(room, book)
    room.serve(0, note=True)
    assert [(claim.used, claim.wanted) for claim in book.claims(0)] == [(0, 3)]
