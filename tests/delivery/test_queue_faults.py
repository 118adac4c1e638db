"""The faults a serious tester runs against a shipper, by their numbers: real stream, real HTTP, a hostile destination.

Every test ends with the same oracle: missing 0, corrupted 0, spurious 0, copies counted; then a fresh line arrives.
"""

import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import anyio
import pytest

from agent.clock import NS, boot_ns
from agent.delivery.deadletters import DeadLetters, read_letter
from agent.delivery.pacing import QueueLimits
from agent.delivery.queue import QueueDelivery, QueueState
from exporters.post import open_session
from tests.support import hostile as acts
from tests.support.agent import free_port
from tests.support.hostile import Act, Exchange, Hostile, after, answer, hostile
from tests.support.shelf import Judgement, LinesExporter, Shelf, decoded, encoded, in_seconds
from tests.support.streams import CheckedStream, two_streams

QUICK = {"backoff_seconds": 0.01, "backoff_max_seconds": 0.05, "paused_seconds": 0.05, "drain_seconds": 0.2}
FRESH = 1_000_000


class Fault:
    """A delivery over HTTP under test, its streams and its destination."""

    def __init__(self, server: Hostile, shelf: Shelf, items: CheckedStream, dead: CheckedStream) -> None:
        self.server, self.shelf, self.items, self.dead = server, shelf, items, dead
        self.delivery: QueueDelivery
        self.exporter: LinesExporter
        self.put: list[int] = []
        self._letters: dict[int, str] = {}

    @property
    def state(self) -> QueueState:
        return self.delivery.state()

    @property
    def results(self) -> dict[str, int]:
        return self.items.state().results

    async def lines(self, *numbers: int) -> None:
        self.put += numbers
        await self.items.append([encoded(number) for number in numbers])

    async def until(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        with anyio.fail_after(seconds):
            while not condition():  # noqa: ASYNC110  # conditions over several parts have no event
                await anyio.sleep(0.002)

    async def judged(self) -> Judgement:
        """Wait until everything is settled and a fresh line has arrived; then the oracle."""
        await self.until(lambda: self.items.state().waiting == 0, 60)
        self.server.script.clear()  # the fault is over
        await self.lines(FRESH)
        await self.until(lambda: self.items.state().waiting == 0)
        assert FRESH in self.shelf.stored
        assert (self.state.ok, self.state.paused, self.state.held) == (True, False, 0)
        judgement = self.shelf.judged(self.put, list(await self.letters()))
        assert judgement[:3] == (0, 0, 0), judgement
        assert sum(self.results.values()) == len(self.put)
        return judgement

    async def letters(self) -> dict[int, str]:
        """Reasons by line; read without taking them out."""
        while len(self._letters) < self.dead.state().waiting:
            for item in (await self.dead.read(1000, 1 << 20)).items:
                letter = read_letter(item)
                self._letters[decoded(letter.item).number] = letter.reason
        return self._letters


@asynccontextmanager
async def fault(
    folder: Path, *script: Act, shelf: Shelf | None = None, timeout: float = 5.0, **limits: object
) -> AsyncIterator[Fault]:
    shelf = shelf or Shelf()
    async with (
        two_streams(folder) as (items, dead),
        hostile(shelf.good, list(script)) as server,
        open_session() as session,
        anyio.create_task_group() as group,
    ):
        run = Fault(server, shelf, items, dead)
        run.exporter = LinesExporter(server.url, session, timeout)
        run.delivery = QueueDelivery(
            items, run.exporter, decoded, DeadLetters(dead, "items", "shelf"), QueueLimits(**{**QUICK, **limits})
        )
        group.start_soon(run.delivery.run)
        yield run
        group.cancel_scope.cancel()


async def test_1_nobody_listens_while_lines_come_and_then_somebody_does(tmp_path: Path):
    """Held in the spool, not in memory; afterwards in order."""
    async with fault(tmp_path, max_items=50, max_concurrency=1) as run:
        url = run.exporter._url
        run.exporter._url = f"http://127.0.0.1:{free_port()}"
        for start in range(0, 1000, 100):
            await run.lines(*range(start, start + 100))
        await run.until(lambda: run.state.retries >= 5)
        assert "refused" in run.state.reason
        assert run.state.held <= 150
        assert run.items.state().waiting == 1000
        run.exporter._url = url
        assert (await run.judged()).copies_sent == 0
        assert run.shelf.order == [*range(1000), FRESH]


async def test_3_a_hanging_destination_gets_no_second_copy(tmp_path: Path):
    async with fault(tmp_path, acts.hang, acts.hang_unread, acts.hang, timeout=0.1) as run:
        await run.lines(*range(200))
        assert (await run.judged()).copies_sent == 0
        assert run.state.retries >= 3


async def test_4_reset_after_it_was_stored_gives_duplicates_answered_not_stored(tmp_path: Path):
    shelf = Shelf()
    lost = [after(shelf.take, acts.reset_after_reading) for _ in range(3)]
    async with fault(tmp_path, *lost, shelf=shelf, max_concurrency=1) as run:
        await run.lines(*range(200))
        assert (await run.judged()).copies_sent >= 200
        assert run.results["duplicate"] == 200
        assert run.results["delivered"] == 1  # the fresh one


@pytest.mark.parametrize(
    "broken",
    [
        acts.cut_answer,
        acts.cut_chunks,
        answer(200, b"<html>Welcome to the proxy</html>", Content_Type="text/html"),
        answer(200),
        answer(204),
        answer(200, b'{"took": 3}'),
        answer(200, b"[200, 200]"),
        acts.huge,
        acts.drip,
    ],
)
async def test_5_answers_that_prove_nothing_mean_all_again(tmp_path: Path, broken):
    """With the items stored all the same, which is the worst case for copies and the best for losses."""
    shelf = Shelf()
    async with fault(tmp_path, after(shelf.take, broken), broken, shelf=shelf, timeout=0.3) as run:
        await run.lines(*range(100))
        await run.judged()
        assert run.results == {"duplicate": 100, "delivered": 1}


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_6_asked_to_wait_there_is_one_request_for_each_wait_and_no_burst(tmp_path: Path, form):
    began: list[int] = []

    async def wait(exchange: Exchange) -> bool | None:
        began.append(boot_ns())
        header = "1" if form == "seconds" else in_seconds(2)  # a date is cut to whole seconds
        return await answer(429, b'"slow down"', Retry_After=header)(exchange)

    async def far_away(exchange: Exchange) -> bool | None:
        await anyio.sleep(0.005)
        return await run.shelf.good(exchange)

    async with fault(tmp_path, max_items=10, max_concurrency=8) as run:
        run.server.good = far_away
        await run.lines(*range(2000))
        await run.until(lambda: run.state.concurrency == 8)
        requests = len(run.server.begun)
        run.server.script.extend([wait] * 30)
        await run.until(lambda: len(began) >= 1)
        await run.until(lambda: run.state.in_flight == 0)
        under_way = len(began)
        assert under_way <= 8
        await run.lines(*range(2000, 2500))
        await run.until(lambda: len(began) == under_way + (2 if form == "seconds" else 1))  # probes
        gaps = [(b - a) / NS for a, b in pairwise(began[under_way - 1 :])]
        assert min(gaps) >= 0.99
        assert (run.state.concurrency, run.state.ok) == (1, False)
        assert "HTTP 429" in run.state.reason
        run.server.script.clear()
        requests = len(run.server.begun)
        run.server.most_in_flight = 0
        await run.until(lambda: len(run.server.begun) > requests)
        assert run.server.most_in_flight == 1  # the probe went alone
        assert (await run.judged()).copies_sent == 0


async def test_7_of_items_asked_for_later_only_those_go_again_and_each_is_stored_once(tmp_path: Path):
    dice = random.Random(7)
    shelf = Shelf(judge=lambda line: 429 if dice.random() < 0.3 else 201)
    async with fault(tmp_path, shelf=shelf, max_items=100) as run:
        await run.lines(*range(2000))
        await run.judged()
        assert "duplicate" not in run.results
        assert 1.3 < sum(shelf.sent.values()) / 2000 < 1.6  # 1 / 0.7: nothing else went twice
        assert len(shelf.requests) < 120  # what is late is joined with what is new


async def test_8_one_bad_line_of_a_thousand_is_a_dead_letter_with_its_reason(tmp_path: Path):
    shelf = Shelf(judge=lambda line: 400 if line.number == 617 else 201)
    async with fault(tmp_path, shelf=shelf) as run:
        await run.lines(*range(1000))
        assert (await run.judged()).copies_sent == 0
        assert run.results == {"delivered": 1000, "dead": 1}


async def test_8_a_batch_refused_as_a_whole_is_searched_for_the_bad_line(tmp_path: Path):
    def whole(body: bytes) -> int:
        return 400 if b"\n617 " in b"\n" + body else 200

    async with fault(tmp_path, shelf=Shelf(whole=whole)) as run:
        await run.lines(*range(1000))
        await run.until(lambda: run.items.state().waiting == 0)
        assert len(run.shelf.requests) <= 25
        assert await run.letters() == {617: 'HTTP 400: "as told"'}
        assert (await run.judged()).copies_sent == 0


async def test_9_all_refused_pauses_with_few_dead_letters_and_nothing_spins(tmp_path: Path):
    shelf = Shelf(judge=lambda line: 400)
    async with fault(tmp_path, shelf=shelf, refused_in_a_row=20, paused_seconds=0.2, max_concurrency=1) as run:
        await run.lines(*range(5000))
        await run.until(lambda: run.state.paused)
        assert "20 items in a row were refused" in run.state.reason
        requests, dead = len(shelf.requests), 20
        await run.until(lambda: len(shelf.requests) >= requests + 3)
        assert all(lines == 1 for _, lines in shelf.requests[requests:])
        gaps = [(b - a) / NS for (a, _), (b, _) in pairwise(shelf.requests[-3:])]
        assert min(gaps) >= 0.15
        shelf.judge = lambda line: 201  # the template is mended
        await run.judged()
        assert dead <= run.results["dead"] <= dead + 8


async def test_10_a_read_only_index_keeps_its_lines_and_delivers_them_later(tmp_path: Path):
    shelf = Shelf(judge=lambda line: 403)
    async with fault(tmp_path, shelf=shelf) as run:
        await run.lines(*range(300))
        await run.until(lambda: len(shelf.requests) >= 3)
        assert (run.state.paused, run.state.reason) == (True, "line 403: read-only")
        assert run.items.state().waiting == 300
        shelf.judge = lambda line: 201
        await run.judged()
        assert run.results == {"delivered": 301}


async def test_11_bodies_over_the_limit_are_halved_and_the_limit_is_remembered(tmp_path: Path):
    shelf = Shelf(whole=lambda body: 413 if len(body) > 20_000 else 200)
    async with fault(tmp_path, shelf=shelf, max_concurrency=1) as run:
        await run.lines(*range(2000))
        await run.until(lambda: run.items.state().waiting == 0)
        assert run.state.batch_bytes < 41_000  # twice the limit is refused; below, batches are as they come
        requests = len(shelf.requests)
        await run.lines(*range(2000, 4000))
        await run.judged()
        assert len(shelf.requests) - requests <= 20  # 140 kB at 20 kB: 7, and a few tries above it


async def test_11_a_line_over_the_limit_is_a_dead_letter_between_its_neighbours(tmp_path: Path):
    shelf = Shelf(whole=lambda body: 413 if len(body) > 20_000 else 200)
    async with fault(tmp_path, shelf=shelf) as run:
        await run.lines(*range(50))
        await run.items.append([encoded(50, 30_000)])
        run.put.append(50)
        await run.lines(*range(51, 100))
        await run.until(lambda: run.items.state().waiting == 0)
        letters = await run.letters()
        assert list(letters) == [50]
        assert "HTTP 413" in letters[50]
        assert run.results == {"delivered": 99, "dead": 1}


async def test_12_a_refused_key_pauses_until_there_is_a_new_one_without_a_restart(tmp_path: Path):
    shelf = Shelf()

    async def door(exchange: Exchange) -> bool | None:
        if exchange.headers["authorization"] != "Bearer new":
            return await answer(401, b'"who are you"')(exchange)
        return await shelf.good(exchange)

    async with fault(tmp_path, shelf=shelf) as run:
        run.server.good = door
        await run.lines(*range(300))
        await run.until(lambda: len(run.server.begun) >= 4)
        assert (run.state.paused, run.state.ok) == (True, False)
        assert run.state.reason == 'HTTP 401: "who are you"'
        assert run.results == {}
        run.exporter.key = "new"
        assert (await run.judged()).copies_sent == 0


@pytest.mark.parametrize("change", [-1, +1, -100])
async def test_13_fewer_or_more_answers_than_lines_are_nobodys_answers(tmp_path: Path, change):
    """Stored, and the answers shifted: matching them by position would settle the wrong lines."""
    shelf = Shelf(judge=lambda line: 400 if line.number == 99 else 201)

    async def shifted(exchange: Exchange) -> bool | None:
        _, body = shelf.take(await exchange.take())
        found = json.loads(body)
        told = found[:change] if change < 0 else [201, *found]
        return await answer(200, json.dumps(told).encode())(exchange)

    async with fault(tmp_path, shifted, shifted, shelf=shelf) as run:
        await run.lines(*range(100))
        await run.judged()
        assert run.results == {"duplicate": 99, "dead": 1, "delivered": 1}


async def test_14_what_the_destination_keeps_apart_is_settled_and_counted_apart(tmp_path: Path):
    shelf = Shelf(judge=lambda line: 202 if line.number % 10 == 0 else 201)
    async with fault(tmp_path, shelf=shelf) as run:
        await run.lines(*range(500))
        assert (await run.judged()).copies_sent == 0
        assert run.results == {"delivered": 450, "refused_kept": 51}
        assert len(shelf.kept_apart) == 51


@pytest.mark.parametrize("up", [True, False])
async def test_44_ended_under_load_and_started_again(tmp_path: Path, up):
    """The drain takes what is answered in time; the next start sends the rest."""
    shelf = Shelf()
    script = [] if up else [acts.hang] * 8
    async with fault(tmp_path, shelf=shelf, max_items=20) as run:
        run.server.script.extend(script)
        await run.lines(*range(1000))
        await run.until(lambda: len(run.server.begun) >= (5 if up else 1))
        began = boot_ns()
    assert (boot_ns() - began) / NS < 2
    settled = sum(run.results.values())
    assert settled <= len(shelf.stored)
    async with fault(tmp_path, shelf=shelf) as again:
        again.put = [*range(1000)]
        assert again.items.state().waiting == 1000 - settled
        await again.judged()


@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(n, marks=pytest.mark.long) for n in range(4, 60))])
async def test_all_of_them_at_random(tmp_path: Path, seed):
    """Half of the requests go wrong in one way or another, for a while."""
    dice = random.Random(seed)
    shelf = Shelf(judge=lambda line: 400 if line.number % 331 == 7 else 429 if dice.random() < 0.05 else 201)

    async def too_large(exchange: Exchange) -> bool | None:
        """Never for a line alone: it would become a dead letter, stored or not."""
        return await (answer(413) if b"\n" in await exchange.take() else shelf.good)(exchange)

    wrong: list[Act] = [
        too_large,
        acts.hang,
        acts.hang_in_the_middle,
        acts.reset_before_reading,
        acts.reset_after_reading,
        acts.cut_answer,
        acts.closed_without_a_word,
        acts.closed_after_a_good_answer,
        acts.two_answers,
        acts.late_answer,
        acts.continue_first,
        answer(200, b"<html>"),
        answer(401),
        answer(429, Retry_After="0"),
        answer(500),
        answer(503),
        after(shelf.take, acts.reset_after_reading),
        after(shelf.take, acts.cut_answer),
        after(shelf.take, acts.two_answers),
    ]
    script = [dice.choice(wrong) if dice.random() < 0.5 else shelf.good for _ in range(60)]
    limits = {"max_items": dice.choice([20, 100, 1000]), "max_concurrency": dice.choice([1, 8])}
    async with fault(tmp_path, *script, shelf=shelf, timeout=0.1, **limits) as run:
        for start in range(0, 2000, 200):
            await run.lines(*range(start, start + 200))
        await run.until(lambda: run.items.state().waiting == 0, 60)
        await run.judged()
        assert set(await run.letters()) == {n for n in range(2000) if n % 331 == 7}
