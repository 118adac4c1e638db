"""A spool of several streams: one budget, what it refuses to start with, what it leaves behind."""

import os
from pathlib import Path

import anyio
import pytest
import structlog

from agent.core.ports import ConfigError
from agent.spool.files import Files
from agent.spool.settings import SpoolSettings, StreamLimits
from agent.spool.spool import open_spool

SEGMENT = 64 << 10
MIB = 1 << 20
FAST = StreamLimits(group_seconds=0.001, save_seconds=0.01)


async def test_streams_come_back_with_their_numbers(tmp_path: Path) -> None:
    settings = SpoolSettings(max_bytes=2 * MIB, min_free_bytes=0, segment_bytes=SEGMENT)
    for turn in range(1, 4):
        async with open_spool(tmp_path / "spool", settings, {"a": FAST, "b": FAST}, key="spool") as spool:
            await spool.streams["a"].append([b"x"])
            spool.streams["b"].put([b"y", b"z"])
        async with open_spool(tmp_path / "spool", settings, {"a": FAST, "b": FAST}, key="spool") as spool:
            assert [(state.name, state.accepted) for state in spool.states()] == [("a", turn), ("b", 2 * turn)]
    assert (tmp_path / "spool").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "spool" / "a").stat().st_mode & 0o777 == 0o700


async def test_too_small_for_its_streams(tmp_path: Path) -> None:
    settings = SpoolSettings(max_bytes=MIB, segment_bytes=512 << 10)
    with pytest.raises(ConfigError, match="1048576 is too small; 2 streams need 2097152 at least"):
        async with open_spool(tmp_path, settings, {"a": FAST, "b": FAST}, key="spool"):
            pass


async def test_a_full_stream_leaves_the_others_what_they_need(tmp_path: Path) -> None:
    """The smallest budget there may be, and one stream that takes all it can: the other one goes on for ever."""
    settings = SpoolSettings(max_bytes=MIB, min_free_bytes=0, segment_bytes=SEGMENT)
    limits = {"greedy": StreamLimits(weight=50.0, group_seconds=0.001), "small": FAST}
    async with open_spool(tmp_path, settings, limits, key="spool") as spool:
        greedy, small = spool.streams["greedy"], spool.streams["small"]
        with anyio.fail_after(20):
            while not greedy.state().blocked:
                greedy.put([os.urandom(30_000)])
                await anyio.sleep(0.001)
            for _ in range(10):
                await small.append([b"x" * 60_000])
                small.settle((await small.read(1, 1)).sequences, "delivered")
        assert "its share leaves no more" in greedy.state().blocked
        assert MIB - 4 * SEGMENT <= greedy.state().used_bytes <= MIB - 2 * SEGMENT
        assert small.state().used_bytes <= 3 * SEGMENT


async def test_a_stream_that_nobody_uses_any_more_is_told(tmp_path: Path) -> None:
    settings = SpoolSettings(max_bytes=MIB, min_free_bytes=0, segment_bytes=SEGMENT)
    (tmp_path / "old").mkdir()
    (tmp_path / "another-spool").mkdir()
    (tmp_path / "another-spool/lock").touch()
    with structlog.testing.capture_logs() as lines:
        async with open_spool(tmp_path, settings, {"a": FAST}, key="spool"):
            pass
    assert [line["stream"] for line in lines if line["event"] == "spool_stream_unused"] == ["old"]


async def test_the_names_of_new_folders_are_made_durable(tmp_path: Path) -> None:
    synced: list[Path] = []

    class Watched(Files):
        def sync_folder(self, folder: Path) -> None:
            synced.append(folder)
            super().sync_folder(folder)

    settings = SpoolSettings(max_bytes=MIB, min_free_bytes=0, segment_bytes=SEGMENT)
    async with open_spool(tmp_path / "spool", settings, {"a": FAST}, key="spool", files=Watched):
        assert {tmp_path, tmp_path / "spool", tmp_path / "spool" / "a"} <= set(synced)
