"""The outbox by hand and by hypothesis with instants of our own; the tasks against destinations that misbehave."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.clock import NS
from agent.core.ports import Paused, Rejected, TooLarge, TryLater, Verdict
from agent.delivery.latest import CLOSED_KEPT_NS, CLOSED_REPEATED_NS, LatestDelivery, Outbox

RESEND = 30 * NS


class Item(NamedTuple):
    key: str
    turn: int
    closed: bool = False
    text: str = ""

    @property
    def state(self) -> tuple[int, bool]:
        return (self.turn, self.closed)


def outbox() -> Outbox[Item]:
    return Outbox(RESEND, jitter=lambda: 1.0)


def offer(box: Outbox[Item], item: Item, now: int) -> None:
    box.offer(item.key, item, item.state, item.closed, now)


def taken(box: Outbox[Item], now: int) -> list[Item]:
    """Take and confirm, as a destination that works does."""
    batch = box.take(now)
    box.confirm(batch, now)
    return [entry.item for _, entry in batch]


def test_open_items_are_repeated_and_a_new_text_waits_for_its_turn():
    box = outbox()
    offer(box, Item("a", 1), 0)
    assert taken(box, 0) == [Item("a", 1)]
    offer(box, Item("a", 1, text="newer"), 5 * NS)
    assert box.take(5 * NS) == []
    assert box.next_due_ns() == RESEND
    assert taken(box, RESEND) == [Item("a", 1, text="newer")]


def test_a_new_state_is_due_at_once_and_replaces_what_is_under_way():
    box = outbox()
    offer(box, Item("a", 1), 0)
    under_way = box.take(0)
    offer(box, Item("a", 1, closed=True), NS)
    box.confirm(under_way, 2 * NS)
    assert box.pending() == 1
    assert taken(box, 2 * NS) == [Item("a", 1, closed=True)]
    assert box.pending() == 0


def test_a_closed_item_is_repeated_for_five_minutes_after_its_confirmation():
    box = outbox()
    offer(box, Item("a", 1, closed=True), 0)
    times = []
    now = 0
    while (due := box.next_due_ns()) is not None:
        now = max(now, due)
        if taken(box, now):
            times.append(now // NS)
    assert times[0] == 0
    assert times[-1] == CLOSED_REPEATED_NS // NS
    assert {b - a for a, b in pairwise(times)} == {30}


def test_an_unconfirmed_closed_item_is_kept_for_a_day():
    box = outbox()
    offer(box, Item("a", 1, closed=True), 0)
    for now in (0, CLOSED_KEPT_NS // 2, CLOSED_KEPT_NS):
        assert len(box.take(now)) == 1
        box.postpone(None, now)
    assert box.take(CLOSED_KEPT_NS + 60 * NS) == []
    assert box.counts.expired == 1
    assert box.next_due_ns() is None


def test_back_off_doubles_up_to_thirty_seconds_and_ends_with_a_confirmation():
    box = outbox()
    offer(box, Item("a", 1), 0)
    delays, now = [], 0
    for _ in range(8):
        box.postpone(None, now)
        delays.append((box.next_due_ns() - now) / NS)
        now = box.next_due_ns()
    assert delays == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert taken(box, now) == [Item("a", 1)]
    offer(box, Item("b", 1), now)
    assert box.next_due_ns() == now


@pytest.mark.parametrize(("asked", "waited"), [(7.0, 7.0), (0.1, 0.5), (9999.0, 300.0)])
def test_what_the_destination_asks_for_is_honoured_within_reason(asked, waited):
    box = outbox()
    offer(box, Item("a", 1), 0)
    box.postpone(asked, 0)
    assert box.next_due_ns() == int(waited * NS)


def test_the_unconfirmed_go_first_in_batches_of_64():
    box = outbox()
    for number in range(70):
        offer(box, Item(f"old{number}", 1), 0)
    assert (len(taken(box, 0)), len(taken(box, 0))) == (64, 6)
    offer(box, Item("new", 1), RESEND)
    assert taken(box, RESEND)[0] == Item("new", 1)


def test_no_room_is_counted():
    box = Outbox[Item](RESEND, max_items=1)
    offer(box, Item("a", 1), 0)
    offer(box, Item("b", 1), 0)
    assert (box.pending(), box.counts.dropped) == (1, 1)


steps = st.lists(
    st.tuples(st.sampled_from(["open", "close", "take", "lose", "wait"]), st.sampled_from("abc"), st.integers(1, 400)),
    max_size=80,
)


@given(steps)
def test_whatever_happens_the_destination_ends_with_the_latest_state(actions):
    """Model: a destination that stores what it gets, also when its answer is lost."""
    box, stored, latest = outbox(), {}, {}
    now = 0
    for turn, (action, key, amount) in enumerate(actions):
        if action in ("open", "close"):
            latest[key] = Item(key, turn, closed=action == "close")
            offer(box, latest[key], now)
        elif action == "wait":
            now += amount * NS
        else:
            batch = box.take(now)
            stored |= {entry.item.key: entry.item for _, entry in batch}
            if action == "take":
                box.confirm(batch, now)
            elif batch:
                box.postpone(None, now)
    for _ in range(5):
        now = max(now, box.next_due_ns() or 0)
        batch = box.take(now)
        stored |= {entry.item.key: entry.item for _, entry in batch}
        box.confirm(batch, now)
    assert stored == latest
    assert box.pending() == 0


class Destination:
    """Answers with what the test has put in line; then everything is well."""

    def __init__(self, name: str, *answers: Exception | list[Verdict] | None, bad: str = "", most: int = 64) -> None:
        self.name = name
        self.batches: list[list[Item]] = []
        self._answers = list(answers)
        self._bad = bad
        self._most = most
        self._arrived = anyio.Event()

    async def send(self, batch: Sequence[Item]) -> list[Verdict] | None:
        self.batches.append(list(batch))
        arrived, self._arrived = self._arrived, anyio.Event()
        arrived.set()
        if len(batch) > self._most:
            raise TooLarge("too many")
        if self._answers and (answer := self._answers.pop(0)) is not None:
            if isinstance(answer, Exception):
                raise answer
            return answer
        if self._bad and any(item.key == self._bad for item in batch):
            raise Rejected("bad item")
        return None

    async def batches_sent(self, count: int) -> None:
        with anyio.fail_after(10):
            while len(self.batches) < count:
                await self._arrived.wait()


def delivery(*destinations: Destination, resend: float = 30.0) -> LatestDelivery[Item]:
    return LatestDelivery(
        destinations,
        state_of=lambda item: item.state,
        is_closed=lambda item: item.closed,
        resend_seconds=resend,
        jitter=lambda: 0.01,
    )


async def test_one_dead_destination_does_not_hold_up_the_other():
    dead = Destination("dead", *[TryLater("connection refused")] * 3)
    well = Destination("well")
    both = delivery(dead, well)
    async with anyio.create_task_group() as group:
        group.start_soon(both.run)
        both.offer("a", Item("a", 1))
        await well.batches_sent(1)
        await dead.batches_sent(4)
        await anyio.lowlevel.checkpoint()
        assert both.counts()["well"].delivered == 1
        assert (both.counts()["dead"].retried, both.counts()["dead"].delivered) == (3, 1)
        assert both.counts()["dead"].failing == ""
        group.cancel_scope.cancel()


async def test_a_bad_item_is_isolated_by_halving():
    picky = Destination("picky", bad="i5")
    one = delivery(picky)
    for number in range(8):
        one.offer(f"i{number}", Item(f"i{number}", 1))
    async with anyio.create_task_group() as group:
        group.start_soon(one.run)
        await picky.batches_sent(7)
        await anyio.lowlevel.checkpoint()
        assert (one.counts()["picky"].delivered, one.counts()["picky"].rejected) == (7, 1)
        assert [len(batch) for batch in picky.batches] == [8, 4, 4, 2, 1, 1, 2]
        group.cancel_scope.cancel()


@pytest.mark.parametrize(("most", "delivered", "rejected"), [(3, 8, 0), (0, 0, 8)])
async def test_what_is_too_large_is_halved_down_to_single_items(most, delivered, rejected):
    small = Destination("small", most=most)
    one = delivery(small)
    for number in range(8):
        one.offer(f"i{number}", Item(f"i{number}", 1))
    async with anyio.create_task_group() as group:
        group.start_soon(one.run)
        await small.batches_sent(7 if most else 15)
        await anyio.lowlevel.checkpoint()
        counts = one.counts()["small"]
        assert (counts.delivered, counts.rejected, counts.failing) == (delivered, rejected, "")
        group.cancel_scope.cancel()


async def test_a_pause_shows_its_reason_until_it_is_over():
    locked = Destination("locked", Paused("HTTP 401"), Paused("HTTP 401"))
    one = delivery(locked)
    one.offer("a", Item("a", 1))
    async with anyio.create_task_group() as group:
        group.start_soon(one.run)
        await locked.batches_sent(2)
        assert one.counts()["locked"].failing == "HTTP 401"
        await locked.batches_sent(3)
        await anyio.lowlevel.checkpoint()
        assert (one.counts()["locked"].failing, one.counts()["locked"].delivered) == ("", 1)
        group.cancel_scope.cancel()


async def test_each_verdict_is_for_its_own_item():
    mixed = Destination("mixed", ["delivered", Rejected("no"), TryLater("busy"), "duplicate"])
    one = delivery(mixed)
    for number in range(4):
        one.offer(f"i{number}", Item(f"i{number}", 1))
    async with anyio.create_task_group() as group:
        group.start_soon(one.run)
        await mixed.batches_sent(2)
        await anyio.lowlevel.checkpoint()
        counts = one.counts()["mixed"]
        assert (counts.delivered, counts.rejected, counts.retried) == (3, 1, 1)
        assert mixed.batches[1] == [Item("i2", 1)]
        group.cancel_scope.cancel()


@pytest.mark.parametrize("verdicts", [[], ["delivered"], ["delivered"] * 3])
async def test_a_list_of_another_length_means_all_again(verdicts):
    odd = Destination("odd", verdicts)
    one = delivery(odd)
    for number in range(2):
        one.offer(f"i{number}", Item(f"i{number}", 1))
    async with anyio.create_task_group() as group:
        group.start_soon(one.run)
        await odd.batches_sent(2)
        await anyio.lowlevel.checkpoint()
        assert odd.batches[0] == odd.batches[1]
        assert (one.counts()["odd"].delivered, one.counts()["odd"].retried) == (2, 1)
        group.cancel_scope.cancel()


async def test_an_offer_during_the_back_off_of_an_empty_box_is_still_sent():
    """The destination failed with an item that was refused afterwards; a new one waits out the back-off, no longer."""
    slow = Destination("slow", TryLater("busy"), Rejected("no"))
    one = delivery(slow)
    async with anyio.create_task_group() as group:
        group.start_soon(one.run)
        one.offer("a", Item("a", 1, closed=True))
        await slow.batches_sent(2)
        one.offer("b", Item("b", 1))
        await slow.batches_sent(3)
        assert slow.batches[-1] == [Item("b", 1)]
        group.cancel_scope.cancel()


async def test_the_drain_at_shutdown_is_short_and_sends_only_what_is_unconfirmed():
    well = Destination("well")
    one = delivery(well)
    async with anyio.create_task_group() as group:
        group.start_soon(one.run)
        one.offer("a", Item("a", 1))
        await well.batches_sent(1)
        await anyio.lowlevel.checkpoint()
        one.offer("b", Item("b", 1, closed=True))
        group.cancel_scope.cancel()
    assert well.batches == [[Item("a", 1)], [Item("b", 1, closed=True)]]
