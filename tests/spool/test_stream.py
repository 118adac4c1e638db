"""A stream on the event loop: what is put comes out once, in order, and is settled once."""

import os
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import TaskGroup
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.spool.batch import StreamState
from agent.spool.log import Log
from agent.spool.settings import StreamLimits
from agent.spool.stream import AGE_STEP_NS, ItemTooLarge, Stream, age_seconds
from tests.support.faulty_files import FaultyFiles
from tests.support.spool import open_log

LONG = bool(os.environ.get("ENGINEROOM_LONG"))
LIMITS = StreamLimits(group_bytes=400, group_seconds=0.001, pending_bytes=2_000, save_seconds=0.001)
SLOW = StreamLimits(group_bytes=1 << 20, group_seconds=30.0, save_seconds=0.001)


class Life:
    """A stream that runs, until it is stopped or killed."""

    def __init__(self, log: Log, limits: StreamLimits = LIMITS) -> None:
        self.stream = Stream(log, limits, 1 << 30)
        self._log = log

    async def __aenter__(self) -> Stream:
        self._group: TaskGroup = anyio.create_task_group()
        await self._group.__aenter__()
        self._group.start_soon(self.stream.run)
        return self.stream

    async def __aexit__(self, *error: object) -> None:
        self._group.cancel_scope.cancel()
        await self._group.__aexit__(None, None, None)


async def take(stream: Stream, count: int, max_items: int = 1000) -> list[bytes]:
    items: list[bytes] = []
    with anyio.fail_after(20):
        while len(items) < count:
            batch = await stream.read(max_items, 1 << 20)
            stream.settle(batch.sequences, "delivered")
            items += batch.items
    return items


def sizes(folder: Path) -> set[int]:
    return {path.stat().st_size for path in folder.glob("*.seg")}


Step = tuple[str, int]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.integers(0, 6)),
            st.tuples(st.just("append"), st.integers(0, 4)),
            st.tuples(st.just("read"), st.integers(1, 5)),
            st.tuples(st.just("settle"), st.integers(0, 4)),
            st.tuples(st.sampled_from(["flush", "cancelled read", "restart", "full", "room"]), st.just(0)),
        ),
        max_size=40,
    )
)
@settings(max_examples=2000 if LONG else 60, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_stream_keeps_its_promises(tmp_path_factory: pytest.TempPathFactory, steps: list[Step]) -> None:
    anyio.run(_live, tmp_path_factory.mktemp("s"), steps, backend_options={"use_uvloop": True})


async def _live(folder: Path, steps: list[Step]) -> None:
    """Everything that was put is delivered, whatever happens between; the numbers add up at every step."""
    files = FaultyFiles()
    files.free = 1 << 40
    put: list[bytes] = []
    open_numbers: dict[int, bytes] = {}
    settled: dict[int, bytes] = {}
    left = list(steps)
    while True:
        restart = False
        async with Life(open_log(folder, files, max_segments=8, min_free_bytes=1 << 20)) as stream:
            state = stream.state()
            assert (state.accepted, state.waiting) == (len(put), len(put) - len(settled))
            while left and not restart:
                kind, amount = left.pop(0)
                items = [f"{len(put) + at:06d}".encode() * (amount * 7) for at in range(amount)]
                if kind == "put":
                    put += items if stream.put(items) else []
                elif kind == "append" and files.free:
                    with anyio.move_on_after(0.5) as scope:
                        await stream.append(items)
                    if scope.cancelled_caught:  # full: what was taken stays taken
                        taken = stream.state().accepted + stream.state().pending - len(put)
                        put += items[:taken]
                    else:
                        put += items
                        assert not items or stream.state().pending == 0
                elif kind == "read":
                    with anyio.move_on_after(0.01):
                        batch = await stream.read(amount, 200)
                        assert not set(batch.sequences) & (set(open_numbers) | set(settled)), "twice"
                        assert batch.sequences[0] > max([0, *open_numbers]), "out of order"
                        assert batch.items == [put[number - 1] for number in batch.sequences]
                        open_numbers.update(zip(batch.sequences, batch.items, strict=True))
                elif kind == "cancelled read":
                    with anyio.CancelScope() as scope:
                        scope.cancel()
                        batch = await stream.read(3, 200)
                        open_numbers.update(zip(batch.sequences, batch.items, strict=True))
                elif kind == "settle":
                    chosen = sorted(open_numbers)[amount % 2 :: 2]
                    stream.settle(chosen, ["delivered", "dead", "dropped:x"][amount % 3])
                    settled.update((number, open_numbers.pop(number)) for number in chosen)
                elif kind == "flush":
                    with anyio.move_on_after(0.5):
                        await stream.flush()
                elif kind == "restart":
                    restart = True
                elif kind in ("full", "room"):
                    files.free = 0 if kind == "full" else 1 << 40
                check(stream.state(), len(put))
            files.free = 1 << 40
            if not restart:
                await stream.flush()
                rest = await take(stream, len(put) - len(settled) - len(open_numbers))
                assert rest == [item for n, item in enumerate(put, 1) if n not in settled and n not in open_numbers]
                return
            await stream.flush()
        open_numbers.clear()


def check(state: StreamState, put: int) -> None:
    assert state.accepted == state.waiting + sum(state.results.values())
    assert state.accepted + state.pending == put
    assert state.waiting >= 0


async def test_a_lone_append_does_not_wait_for_company(tmp_path: Path) -> None:
    async with Life(open_log(tmp_path, segment_bytes=1 << 20), SLOW) as stream:
        with anyio.fail_after(5):
            await stream.append([b"x"])
            stream.put([b"y"])
            await stream.flush()
        assert stream.state().syncs == 2


async def test_what_is_put_together_shares_a_sync(tmp_path: Path) -> None:
    async with Life(open_log(tmp_path, segment_bytes=1 << 20), SLOW) as stream:
        for _ in range(100):
            assert stream.put([b"x"])
        await stream.flush()
        assert stream.state().syncs == 1
        async with anyio.create_task_group() as group:
            for _ in range(50):
                group.start_soon(stream.append, [b"z"])
        assert stream.state().syncs <= 4


async def test_nothing_is_put(tmp_path: Path) -> None:
    async with Life(open_log(tmp_path)) as stream:
        assert stream.put([])
        await stream.append([])
        await stream.flush()
        assert stream.state().accepted == 0
        await stream.append([b""])
        assert await take(stream, 1) == [b""]


async def test_an_item_that_fits_nowhere(tmp_path: Path) -> None:
    async with Life(open_log(tmp_path)) as stream:
        with pytest.raises(
            ItemTooLarge, match="an item of 889 bytes does not fit into stream records, which takes 888"
        ):
            stream.put([b"x" * 889])
        await stream.append([b"x" * 888, b"y" * 888, b"z"])
        assert await take(stream, 3) == [b"x" * 888, b"y" * 888, b"z"]


@pytest.mark.parametrize("segment_bytes", range(1024, 1033))
async def test_the_largest_item_fits_whatever_the_segment_size(tmp_path: Path, segment_bytes: int) -> None:
    log = open_log(tmp_path, segment_bytes=segment_bytes)
    most = log.max_item_bytes
    async with Life(log) as stream:
        for _ in range(3):
            await stream.append([b"x" * most])
    assert sizes(tmp_path) == {segment_bytes}
    async with Life(open_log(tmp_path, segment_bytes=segment_bytes)) as stream:
        assert await take(stream, 3) == [b"x" * most] * 3


async def test_groups_never_outgrow_a_segment(tmp_path: Path) -> None:
    """Group size above the segment size; many empty items, whose own cost is all there is."""
    limits = StreamLimits(group_bytes=1 << 20, pending_bytes=1 << 20)
    async with Life(open_log(tmp_path, max_segments=100), limits) as stream:
        items = [b"x" * 100] * 50 + [b""] * 3_000
        await stream.append(items)
    assert sizes(tmp_path) == {1024}
    async with Life(open_log(tmp_path, max_segments=100), limits) as stream:
        assert await take(stream, len(items)) == items


async def test_what_waits_to_be_written_is_bounded(tmp_path: Path) -> None:
    files = FaultyFiles()
    files.free = 0
    async with Life(open_log(tmp_path, files, min_free_bytes=1)) as stream:
        taken = 0
        while stream.put([b""]):
            taken += 1
        assert taken == 2_000 / 5
        files.free = 1 << 40
        await stream.flush()
        assert stream.put([b""])


async def test_one_item_that_is_never_settled_costs_no_memory(tmp_path: Path) -> None:
    async with Life(open_log(tmp_path, segment_bytes=1 << 20)) as stream:
        for _ in range(300):
            await stream.append([b"x"])
        await stream.read(1, 1)
        await take(stream, 299)
        assert len(stream._handed_out) <= 1 + 300 * 10**9 // AGE_STEP_NS
        assert stream.state().waiting == 1


async def test_a_reader_that_is_behind_reads_from_the_disk(tmp_path: Path) -> None:
    items = [os.urandom(60_000) for _ in range(400)]
    limits = StreamLimits(group_bytes=1 << 20, pending_bytes=1 << 30)
    async with Life(open_log(tmp_path, segment_bytes=1 << 20, max_segments=50), limits) as stream:
        await stream.append(items)
        assert stream._shelf.size_bytes <= 9 << 20
        assert await take(stream, 400) == items


async def test_many_small_frames_are_read_quickly(tmp_path: Path) -> None:
    """20,000 frames of one item: a backlog of quiet times. Judged by time for each frame of a write without syncs."""
    log = open_log(tmp_path, NoSync(), segment_bytes=8 << 20)
    for number in range(20_000):
        log.write([b"%300d" % number], 1)
    log.close()
    async with Life(open_log(tmp_path, segment_bytes=8 << 20)) as stream:
        with anyio.fail_after(5):
            assert await take(stream, 20_000) == [b"%300d" % number for number in range(20_000)]


class NoSync(FaultyFiles):
    def sync(self, fd: int) -> None:
        """Not wanted here."""


async def test_looking_hands_out_nothing(tmp_path: Path) -> None:
    async with Life(open_log(tmp_path)) as stream:
        await stream.append([b"a", b"b", b"c"])
        batch, following = await stream.look(1, 1 << 20)
        assert (list(batch.sequences), batch.items, following) == ([1, 2, 3], [b"a", b"b", b"c"], 4)
        assert stream.read_now(2, 100) == (range(1, 3), [b"a", b"b"])
        stream.settle([2], "delivered")
        assert (await stream.look(1, 1 << 20))[0] == ([1, 3], [b"a", b"c"])
        assert await stream.look(4, 1) == (((), ()), 4)


async def test_nobody_settles_twice(tmp_path: Path) -> None:
    async with Life(open_log(tmp_path)) as stream:
        await stream.append([b"a", b"b"])
        stream.settle([1], "dead")
        with pytest.raises(ValueError, match="settled already"):
            stream.settle([1, 2], "dead")
        assert stream.state().results == {"dead": 1}


async def test_ages(tmp_path: Path) -> None:
    async with Life(open_log(tmp_path)) as stream:
        assert stream.state().oldest_at_ns is None
        assert age_seconds(stream.state(), 1) == 0.0
        await stream.append([b"a"])
        state = stream.state()
        assert state.oldest_at_ns is not None
        assert age_seconds(state, state.oldest_at_ns + 2_000_000_000) == 2.0
    async with Life(open_log(tmp_path)) as stream:
        assert stream.state().oldest_at_ns is not None
        await take(stream, 1)
        assert stream.state().oldest_at_ns is None


async def test_who_put_an_item_can_tell_its_number_and_whether_it_is_durable(tmp_path: Path) -> None:
    async with Life(open_log(tmp_path), SLOW) as stream:
        assert (stream.put_through, stream.durable_through) == (0, 0)
        stream.put([b"a", b"b"])
        assert (stream.put_through, stream.durable_through) == (2, 0)
        flushed = anyio.Event()

        async def flush() -> None:
            await stream.flush()
            flushed.set()

        async with anyio.create_task_group() as group:
            group.start_soon(flush)
            while not flushed.is_set():  # also in between the numbers hold, and go on
                assert stream.put_through == 2
                assert stream.durable_through in (0, 2)
                await anyio.lowlevel.checkpoint()
        assert stream.durable_through == 2
        stream.put([b"c"])
        assert (stream.put_through, stream.durable_through) == (3, 2)
        batch = await stream.read(10, 1 << 20)
        assert batch.sequences[-1] == 2
    async with Life(open_log(tmp_path)) as stream:
        assert (stream.put_through, stream.durable_through) == (3, 3)
