"""The queue on a real stream, against a destination that answers as the test says; over HTTP: test_queue_faults."""

import math
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
import structlog

from agent.core.ports import Paused, Rejected, TooLarge, TryLater, Verdict
from agent.delivery.deadletters import DeadLetters, read_letter
from agent.delivery.pacing import QueueLimits
from agent.delivery.queue import QueueDelivery, QueueState
from tests.support.shelf import encoded, payload
from tests.support.streams import CheckedStream, two_streams

QUICK = {"backoff_seconds": 0.002, "backoff_max_seconds": 0.01, "paused_seconds": 0.02, "drain_seconds": 0.2}
Answer = Sequence[Verdict] | None


class Destination:
    """Answers by `answer` (from the numbers of the items); remembers every request."""

    name = "there"

    def __init__(self, answer: Callable[[list[int]], Answer] = lambda numbers: None) -> None:
        self.answer = answer
        self.batches: list[list[int]] = []
        self.in_flight = self.most_in_flight = 0
        self.doors: anyio.Event | None = None  # when set, nothing is answered before it opens
        self.corrupted = 0
        self.turns = 1  # of the event loop until it answers

    async def send(self, batch: Sequence[tuple[int, str]]) -> Answer:
        numbers = [number for number, _ in batch]
        self.corrupted += sum(not text.startswith(payload(number)) for number, text in batch)
        self.batches.append(numbers)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if self.doors:
                await self.doors.wait()
            else:
                for _ in range(self.turns):
                    await anyio.lowlevel.checkpoint()
            return self.answer(numbers)
        finally:
            self.in_flight -= 1


def decode(item: bytes) -> tuple[int, str]:
    number, _, text = item.decode().partition(" ")
    return int(number), text


class Running:
    """A delivery under test and both its streams."""

    def __init__(self, delivery: QueueDelivery, items: CheckedStream, dead: CheckedStream) -> None:
        self.delivery, self.items, self.dead = delivery, items, dead

    @property
    def state(self) -> QueueState:
        return self.delivery.state()

    async def until(self, condition: Callable[[], bool], seconds: float = 20) -> None:
        with anyio.fail_after(seconds):
            while not condition():  # noqa: ASYNC110  # conditions over several parts have no event
                await anyio.sleep(0.001)

    async def all_settled(self) -> dict[str, int]:
        await self.until(lambda: self.items.state().waiting == 0)
        return self.items.state().results

    async def letters(self) -> dict[int, str]:
        """Reasons by the number of the item."""
        found: dict[int, str] = {}
        while len(found) < self.dead.state().waiting:
            for item in (await self.dead.read(1000, 1 << 20)).items:
                letter = read_letter(item)
                found[decode(letter.item)[0] if b" " in letter.item else -1] = letter.reason
        return found


@asynccontextmanager
async def delivering(
    folder: Path, destination: Destination, *items: bytes, spool_bytes: int = 64 << 20, **limits: object
) -> AsyncIterator[Running]:
    """Puts the items, then delivers until the body ends."""
    async with two_streams(folder, max_bytes=spool_bytes) as (stream, dead):
        await stream.append(items)
        delivery = QueueDelivery(
            stream, destination, decode, DeadLetters(dead, "items", "there"), QueueLimits(**{**QUICK, **limits})
        )
        async with anyio.create_task_group() as group:
            group.start_soon(delivery.run)
            yield Running(delivery, stream, dead)
            group.cancel_scope.cancel()
        assert destination.corrupted == 0


def some(count: int, size: int = 0) -> list[bytes]:
    return [encoded(number, size) for number in range(count)]


async def test_everything_goes_out_once_in_bounded_batches(tmp_path: Path):
    there = Destination()
    async with delivering(tmp_path, there, *some(250), max_items=100, max_concurrency=1) as run:
        assert await run.all_settled() == {"delivered": 250}
        await run.items.append(some(1))
        assert await run.all_settled() == {"delivered": 251}
        state = run.state
    assert [n for batch in there.batches for n in batch] == [*range(250), 0]
    assert max(map(len, there.batches)) <= 100
    assert (state.destination, state.ok, state.reason, state.paused) == ("there", True, "", False)
    assert (state.in_flight, state.held, state.retries) == (0, 0, 0)
    assert state.attempts == len(there.batches)
    assert state.last_confirmed_boot_ns


async def test_batches_are_bounded_in_bytes_and_a_large_item_goes_alone(tmp_path: Path):
    there = Destination()
    items = [encoded(n, 10_000 if n == 5 else 0) for n in range(10)]
    async with delivering(tmp_path, there, *items, max_bytes=300, max_concurrency=1) as run:
        await run.all_settled()
    assert there.batches == [[0, 1, 2, 3], [4], [5], [6, 7, 8, 9]]


async def test_before_the_first_answer_nothing_is_claimed(tmp_path: Path):
    there = Destination()
    there.doors = anyio.Event()
    async with delivering(tmp_path, there, *some(3)) as run:
        await run.until(lambda: there.in_flight == 1)
        assert (run.state.ok, run.state.in_flight, run.state.held) == (None, 1, 3)
        assert run.state.last_confirmed_boot_ns is None
        there.doors.set()
        await run.all_settled()


async def test_with_one_at_a_time_order_is_strict_through_failures(tmp_path: Path):
    dice = random.Random(1)

    def answer(numbers: list[int]) -> Answer:
        if dice.random() < 0.4:
            raise TryLater("busy")
        return None

    there = Destination(answer)
    stored: list[int] = []
    there.answer = lambda numbers: (answer(numbers), stored.extend(numbers))[0]
    async with delivering(tmp_path, there, *some(300), max_items=7, max_concurrency=1) as run:
        await run.all_settled()
        assert run.state.retries > 5
    assert stored == list(range(300))
    assert there.most_in_flight == 1


async def test_concurrency_grows_to_its_bound_and_is_halved(tmp_path: Path):
    there = Destination()
    there.turns = 30
    async with delivering(tmp_path, there, *some(600), max_items=5, max_concurrency=4) as run:
        await run.until(lambda: run.state.concurrency == 4)
        await run.all_settled()
        assert there.most_in_flight == 4
        there.doors = anyio.Event()
        await run.items.append(some(100))
        await run.until(lambda: there.in_flight == 4)
        there.answer = lambda numbers: (_ for _ in ()).throw(TryLater("busy", 0.05))
        began = len(there.batches)
        there.doors.set()
        await run.until(lambda: there.in_flight == 0)
        assert run.state.concurrency == 1
        assert (run.state.ok, run.state.reason) == (False, "busy")
        there.answer = lambda numbers: None
        there.doors = anyio.Event()
        await run.until(lambda: there.in_flight == 1)
        assert len(there.batches) == began + 1  # the probe, alone
        there.doors.set()
        assert await run.all_settled() == {"delivered": 700}
        assert run.state.ok


async def test_items_that_cannot_be_read_become_dead_letters(tmp_path: Path):
    there = Destination()
    items = [*some(3), b"none", *some(2)]
    async with delivering(tmp_path, there, *items) as run:
        assert await run.all_settled() == {"delivered": 5, "dead": 1}
        assert (await run.letters())[-1].startswith("cannot be read:")


async def test_each_verdict_settles_its_item_and_only_the_late_go_again(tmp_path: Path):
    def answer(numbers: list[int]) -> Answer:
        first = len(there.batches) == 1
        verdicts: list[Verdict] = [
            "delivered",
            "duplicate",
            "refused_kept",
            TryLater("busy"),
            Rejected("no such field"),
        ]
        return [verdicts[n % 5] if first else "delivered" for n in numbers]

    there = Destination(answer)
    async with delivering(tmp_path, there, *some(20)) as run:
        assert await run.all_settled() == {"delivered": 8, "duplicate": 4, "refused_kept": 4, "dead": 4}
        assert await run.letters() == dict.fromkeys((4, 9, 14, 19), "no such field")
        assert run.state.retries == 1
    assert there.batches == [list(range(20)), [3, 8, 13, 18]]


@pytest.mark.parametrize("offset", [-1, 1, -20])
async def test_fault_13_a_list_of_another_length_means_all_again(tmp_path: Path, offset):
    there = Destination(lambda numbers: ["delivered"] * (len(numbers) + (offset if len(there.batches) < 3 else 0)))
    async with delivering(tmp_path, there, *some(20)) as run:
        assert await run.all_settled() == {"delivered": 20}
    assert there.batches == [list(range(20))] * 3


async def test_too_large_is_halved_and_remembered(tmp_path: Path):
    def answer(numbers: list[int]) -> Answer:
        if sum(len(encoded(n)) for n in numbers) > 2000:
            raise TooLarge("HTTP 413")
        return None

    there = Destination(answer)
    async with delivering(tmp_path, there, *some(500), max_concurrency=1) as run:
        assert await run.all_settled() == {"delivered": 500}
        assert run.state.batch_bytes <= 2100  # the next try lies a little above what worked
        before = len(there.batches)
        await run.items.append(some(500))
        assert await run.all_settled() == {"delivered": 1000}
        assert len(there.batches) - before < 30  # 500 items of 68 bytes at 29 a request: 18
        assert run.state.ok


async def test_a_single_item_too_large_is_a_dead_letter_and_stops_nobody(tmp_path: Path):
    def answer(numbers: list[int]) -> Answer:
        if 7 in numbers:
            raise TooLarge("HTTP 413")
        return None

    there = Destination(answer)
    async with delivering(tmp_path, there, *some(50)) as run:
        assert await run.all_settled() == {"delivered": 49, "dead": 1}
        letters = await run.letters()
    assert list(letters) == [7]
    assert "too large even alone" in letters[7]


@pytest.mark.parametrize("bad", [{0}, {999}, {500}, {3, 4, 700}])
async def test_a_refused_batch_is_halved_down_to_the_bad_items(tmp_path: Path, bad):
    def answer(numbers: list[int]) -> Answer:
        if bad & set(numbers):
            raise Rejected("malformed")
        return None

    there = Destination(answer)
    async with delivering(tmp_path, there, *some(1000)) as run:
        assert await run.all_settled() == {"delivered": 1000 - len(bad), "dead": len(bad)}
        assert (await run.letters()).keys() == bad
    assert len(there.batches) <= 2 * len(bad) * math.ceil(math.log2(1000)) + 5
    assert sum(map(len, there.batches)) < 1000 * 12


@pytest.mark.parametrize("whole", [True, False])
async def test_too_many_refusals_in_a_row_pause_with_a_reason_and_are_bounded(tmp_path: Path, whole):
    def refuse(numbers: list[int]) -> Answer:
        if whole:
            raise Rejected("no such template")
        return [Rejected("no such template")] * len(numbers)

    there = Destination(refuse)
    limits = {"refused_in_a_row": 10, "paused_seconds": 0.1, "max_concurrency": 1}
    async with delivering(tmp_path, there, *some(300), **limits) as run:
        await run.until(lambda: run.state.paused)
        assert "10 items in a row were refused, the last: no such template" in run.state.reason
        asked = len(there.batches)
        await run.until(lambda: len(there.batches) == asked + 3)
        assert [len(batch) for batch in there.batches[asked:]] == [1, 1, 1]
        await run.until(lambda: run.items.state().results.get("dead", 0) >= 12)
        assert run.items.state().results["dead"] <= 14
        there.answer = lambda numbers: None
        results = await run.all_settled()
        assert (run.state.paused, run.state.ok) == (False, True)
    assert results["delivered"] + results["dead"] == 300
    assert results["dead"] <= 15


async def test_a_pause_is_shown_with_its_reason_and_ends_by_itself(tmp_path: Path):
    there = Destination(lambda numbers: (_ for _ in ()).throw(Paused("HTTP 401")))
    with structlog.testing.capture_logs() as logs:
        async with delivering(tmp_path, there, *some(10)) as run:
            await run.until(lambda: len(there.batches) == 4)
            assert (run.state.paused, run.state.reason, run.state.ok) == (True, "HTTP 401", False)
            assert run.items.state().waiting == 10
            there.answer = lambda numbers: None
            assert await run.all_settled() == {"delivered": 10}
            await run.until(lambda: not run.state.paused)
    events = [entry["event"] for entry in logs if "destination" in entry]
    assert events == ["delivery_paused", "destination_recovered"]


async def test_a_failing_destination_is_logged_once(tmp_path: Path):
    there = Destination(lambda numbers: (_ for _ in ()).throw(TryLater(f"try {len(there.batches)}")))
    with structlog.testing.capture_logs() as logs:
        async with delivering(tmp_path, there, *some(10)) as run:
            await run.until(lambda: len(there.batches) == 5)
            there.answer = lambda numbers: None
            await run.all_settled()
    events = [(entry["event"], entry.get("reason")) for entry in logs if "destination" in entry]
    assert events == [("destination_unreachable", "try 1"), ("destination_recovered", None)]


async def test_items_paused_by_the_destination_do_not_stop_the_others(tmp_path: Path):
    """One index is read-only, the others are not."""
    locked = True

    def answer(numbers: list[int]) -> Answer:
        return [Paused("read-only") if locked and n % 10 == 0 else "delivered" for n in numbers]

    there = Destination(answer)
    async with delivering(tmp_path, there, *some(100), max_items=20, max_concurrency=4) as run:
        await run.until(lambda: run.items.state().waiting == 10)
        assert (run.state.paused, run.state.reason) == (True, "read-only")
        locked = False
        assert await run.all_settled() == {"delivered": 100}
        await run.until(lambda: not run.state.paused)


async def test_dead_letters_without_room_pause_and_lose_nothing(tmp_path: Path):
    """The real stream, filled to its share; room comes when somebody takes letters out."""

    def answer(numbers: list[int]) -> Answer:
        return ["delivered" if n % 2 else Rejected("bad") for n in numbers]

    there = Destination(answer)
    # Both streams full of items of 9 kB: half of what goes into the one has to go into the other.
    async with delivering(tmp_path, there, spool_bytes=1 << 20, max_items=4) as run:
        async with anyio.create_task_group() as group:

            async def produce() -> None:
                for number in range(400):
                    await run.items.append([encoded(number, 9000)])

            group.start_soon(produce)
            await run.until(lambda: "no room" in run.state.reason)
            assert run.state.paused
            asked = len(there.batches)
            found: dict[int, str] = {}

            async def clear() -> None:
                while True:
                    batch = await run.dead.read(5, 1 << 20)
                    found.update({decode(read_letter(i).item)[0]: read_letter(i).reason for i in batch.items})
                    run.dead.settle(batch.sequences, "delivered")

            assert len(there.batches) == asked  # nothing spins
            group.start_soon(clear)
            await run.until(lambda: run.items.state().accepted == 400 and run.items.state().waiting == 0, 60)
            await run.until(lambda: len(found) == 200)
            group.cancel_scope.cancel()
        assert run.items.state().results == {"delivered": 200, "dead": 200}
        assert not run.state.paused


async def test_an_exporter_that_never_returns_is_ended(tmp_path: Path):
    there = Destination()
    there.doors = anyio.Event()
    async with delivering(tmp_path, there, *some(5), send_seconds=0.05) as run:
        await run.until(lambda: run.state.retries == 2)
        assert run.state.reason == "no answer within 0.05 s"
        there.doors.set()
        assert await run.all_settled() == {"delivered": 5}


async def test_memory_is_bounded_while_the_destination_is_away(tmp_path: Path):
    there = Destination(lambda numbers: (_ for _ in ()).throw(TryLater("away")))
    async with delivering(tmp_path, there, *some(3000), max_items=50, max_concurrency=2) as run:
        await run.until(lambda: len(there.batches) > 10)
        assert run.state.held <= 4 * 50
        there.answer = lambda numbers: ["delivered" if len(there.batches) % 3 else TryLater("busy")] * len(numbers)
        assert await run.all_settled() == {"delivered": 3000}


async def test_a_bug_in_an_exporter_ends_the_program(tmp_path: Path):
    there = Destination(lambda numbers: {}["bug"])
    with pytest.raises(ExceptionGroup) as caught:
        async with delivering(tmp_path, there, *some(5)):
            await anyio.sleep_forever()
    assert caught.group_contains(KeyError)


@pytest.mark.parametrize("answered", [True, False])
async def test_at_the_end_answers_under_way_count_and_nothing_else_does(tmp_path: Path, answered):
    there = Destination()
    there.doors = anyio.Event()
    async with two_streams(tmp_path) as (items, dead):
        await items.append(some(10))
        delivery = QueueDelivery(items, there, decode, DeadLetters(dead, "items", "there"), QueueLimits(**QUICK))
        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                group.start_soon(delivery.run)
                while not there.in_flight:  # noqa: ASYNC110 a number of the destination, which tells nobody
                    await anyio.sleep(0.001)
                group.cancel_scope.cancel()
                if answered:
                    there.doors.set()
        assert items.state().results == ({"delivered": 10} if answered else {})
        assert delivery.state().held == (0 if answered else 10)
    there.doors.set()
    async with delivering(tmp_path, there) as run:  # the next start
        assert await run.all_settled() == {"delivered": 10}


@pytest.mark.parametrize("seed", [*range(10), *(pytest.param(n, marks=pytest.mark.long) for n in range(10, 200))])
async def test_whatever_it_answers_everything_ends_where_it_belongs(tmp_path: Path, seed):
    """A destination that stores or not and tells or not; an oracle that counts."""
    dice = random.Random(seed)
    stored: set[int] = set()
    bad = {n for n in range(800) if n % 97 == 5}

    def one(number: int) -> Verdict:
        if number in bad:
            return Rejected("bad")
        if number in stored:
            return "duplicate"
        roll = dice.random()
        if roll < 0.1:
            return Paused("locked") if roll < 0.01 else TryLater("busy", 0.001)
        stored.add(number)
        return "delivered" if roll < 0.9 else "refused_kept"

    def answer(numbers: list[int]) -> Answer:
        roll = dice.random()
        if len(numbers) > 60:
            raise TooLarge("many")
        if roll < 0.1:
            raise TryLater("away", 0.001)
        if roll < 0.12:
            raise Paused("key")
        if roll < 0.3 and bad & set(numbers):
            raise Rejected("malformed")
        verdicts = [one(n) for n in numbers]
        if roll > 0.9:
            raise TryLater("stored, and the answer lost")
        return verdicts[:-1] if roll > 0.85 else verdicts

    there = Destination(answer)
    limits = {"max_items": dice.choice([10, 100, 1000]), "max_concurrency": dice.choice([1, 2, 8])}
    async with delivering(tmp_path, there, *some(400), **limits) as run:
        await run.items.append([encoded(n) for n in range(400, 800)])
        results = await run.all_settled()
        assert (await run.letters()).keys() == bad
        assert there.most_in_flight <= limits["max_concurrency"]
        assert run.state.held == 0
    assert results.pop("dead") == len(bad)
    assert sum(results.values()) == 800 - len(bad)
    assert stored == set(range(800)) - bad
