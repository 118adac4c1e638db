"""Burials against a real stream, and against one without room."""

from collections.abc import Sequence
from pathlib import Path

import anyio
import structlog

from agent.delivery.burial import NO_ROOM, UNFIT, Burial
from agent.delivery.deadletters import DeadLetters, Refused, read_letter
from agent.delivery.drain import Drain
from tests.support.streams import two_streams


class Crowded:
    """A stream that has room when it is told."""

    def __init__(self) -> None:
        self.room = anyio.Event()
        self.groups: list[int] = []
        self.asked = anyio.Event()

    async def append(self, items: Sequence[bytes]) -> None:
        self.asked.set()
        await self.room.wait()
        self.groups.append(len(items))

    def settle(self, sequences: Sequence[int], result: str) -> None:
        raise AssertionError


class Watcher:
    """Settlements and changes as they come."""

    def __init__(self) -> None:
        self.settled: list[tuple[list[int], str, int]] = []
        self._news = anyio.Event()

    def settle(self, sequences: Sequence[int], result: str, size_bytes: int) -> None:
        self.settled.append((list(sequences), result, size_bytes))

    def changed(self) -> None:
        news, self._news = self._news, anyio.Event()
        news.set()

    async def until(self, condition) -> None:
        with anyio.fail_after(10):
            while not condition():
                await self._news.wait()


async def test_letters_are_durable_before_the_settlement(tmp_path: Path):
    watcher = Watcher()
    async with two_streams(tmp_path) as (_, dead), anyio.create_task_group() as group:
        burial = Burial(
            DeadLetters(dead, "items", "d"),
            lambda s, r, n: (watcher.settle(s, r, n), dead.state().accepted == 2 or watcher.settled.clear()),
            Drain(),
        )
        group.start_soon(burial.run, watcher.changed)
        burial.add([Refused(9, b"nine", "r"), Refused(3, b"three", "r")])
        await watcher.until(lambda: watcher.settled)
        assert watcher.settled == [([3, 9], "dead", 9)]
        assert [read_letter(item).sequence for item in (await dead.read(9, 999)).items] == [9, 3]
        group.cancel_scope.cancel()


async def test_no_room_is_said_and_ends_and_what_came_meanwhile_goes_together():
    watcher, crowded = Watcher(), Crowded()
    burial = Burial(DeadLetters(crowded, "items", "d"), watcher.settle, Drain(), no_room_seconds=0.02)
    with structlog.testing.capture_logs() as logs:
        async with anyio.create_task_group() as group:
            group.start_soon(burial.run, watcher.changed)
            burial.add([Refused(1, b"1", "r")])
            await watcher.until(lambda: burial.trouble == NO_ROOM)
            burial.add([Refused(2, b"2", "r")])
            burial.add([])
            burial.add([Refused(3, b"3", "r")])
            assert (len(burial), watcher.settled) == (2, [])
            crowded.room.set()
            await watcher.until(lambda: len(watcher.settled) == 2)
            assert (burial.trouble, len(burial), crowded.groups) == ("", 0, [1, 2])
            group.cancel_scope.cancel()
    assert [entry["event"] for entry in logs] == ["dead_letters_blocked", "dead_letters_have_room"]


async def test_a_burial_under_way_at_the_end_is_finished_and_settled():
    watcher, crowded, drain = Watcher(), Crowded(), Drain()
    burial = Burial(DeadLetters(crowded, "items", "d"), watcher.settle, drain)
    async with anyio.create_task_group() as group:
        group.start_soon(burial.run, watcher.changed)
        burial.add([Refused(1, b"1", "r")])
        await crowded.asked.wait()
        group.cancel_scope.cancel()
        drain.begin(5)
        crowded.room.set()
    assert watcher.settled == [([1], "dead", 1)]


async def test_a_burial_without_room_at_the_end_settles_nothing():
    watcher, crowded, drain = Watcher(), Crowded(), Drain()
    burial = Burial(DeadLetters(crowded, "items", "d"), watcher.settle, drain)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(burial.run, watcher.changed)
            burial.add([Refused(1, b"1", "r")])
            await crowded.asked.wait()
            group.cancel_scope.cancel()
            drain.begin(0.05)
    assert watcher.settled == []
    assert len(burial) == 1


async def test_what_no_letter_can_hold_is_counted_as_dropped(tmp_path: Path):
    watcher = Watcher()
    async with two_streams(tmp_path) as (_, dead), anyio.create_task_group() as group:
        burial = Burial(DeadLetters(dead, "items", "d"), watcher.settle, Drain())
        group.start_soon(burial.run, watcher.changed)
        burial.add([Refused(1, b"small", "r"), Refused(2, b"x" * (64 << 10), "r")])
        await watcher.until(lambda: len(watcher.settled) == 2)
        assert watcher.settled == [([1], "dead", 5), ([2], UNFIT, 64 << 10)]
        group.cancel_scope.cancel()
