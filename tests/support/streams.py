"""Two real streams in a folder, quick enough for tests: `items` and `dead`. Every settlement is checked at once."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from agent.spool.batch import Batch, StreamState
from agent.spool.settings import SpoolSettings, StreamLimits
from agent.spool.spool import open_spool
from agent.spool.stream import Stream

SEGMENT = 64 << 10


class CheckedStream:
    """A stream that holds accepted = waiting + the sum of results at every settlement."""

    def __init__(self, stream: Stream) -> None:
        self.name = stream.name
        self.settlements: list[tuple[list[int], str]] = []
        self._stream = stream

    def put(self, items: Sequence[bytes]) -> bool:
        return self._stream.put(items)

    async def append(self, items: Sequence[bytes]) -> None:
        await self._stream.append(items)
        self.check()

    async def read(self, max_items: int, max_bytes: int) -> Batch:
        batch = await self._stream.read(max_items, max_bytes)
        assert 1 <= len(batch.items) == len(batch.sequences) <= max_items
        assert len(batch.items) == 1 or sum(map(len, batch.items)) <= max_bytes
        return batch

    def settle(self, sequences: Sequence[int], result: str) -> None:
        self.check()
        before = self._stream.state()
        self._stream.settle(sequences, result)
        self.settlements.append((list(sequences), result))
        assert self.state().waiting == before.waiting - len(sequences)
        self.check()

    def check(self) -> None:
        state = self._stream.state()
        assert state.accepted == state.waiting + sum(state.results.values())

    def state(self) -> StreamState:
        return self._stream.state()


@asynccontextmanager
async def two_streams(
    folder: Path, *, max_bytes: int = 64 << 20, group_seconds: float = 0.001
) -> AsyncIterator[tuple[CheckedStream, CheckedStream]]:
    """Open until the body ends; then closed as at a normal end."""
    limits = StreamLimits(group_bytes=SEGMENT // 2, group_seconds=group_seconds, save_seconds=0.02)
    settings = SpoolSettings(max_bytes=max_bytes, min_free_bytes=0, segment_bytes=SEGMENT)
    async with open_spool(folder, settings, {"items": limits, "dead": limits}, key="spool") as spool:
        yield CheckedStream(spool.streams["items"]), CheckedStream(spool.streams["dead"])
