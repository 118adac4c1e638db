import os
from pathlib import Path

import pytest
import structlog

from agent.clock import NS
from agent.core.ports import ConfigError
from agent.doors.watched import MAX_BYTES, Watched, read_small
from tests.support.credentials import Projected, put


class Clock:
    now = 5 * NS

    def __call__(self) -> int:
        return self.now

    def later(self, seconds: float = 1.0) -> None:
        self.now += int(seconds * NS)


def parse(*contents: bytes) -> list[bytes]:
    if not all(contents):
        raise ConfigError("section.file", "the file is empty")
    return list(contents)


def watch(clock: Clock, *files: Path, lapse: tuple[float, list[bytes]] | None = None) -> Watched[list[bytes]]:
    return Watched({f"section.{file.name}": file for file in files}, parse, lapse=lapse, boot_ns=clock)


def test_files_are_looked_at_once_a_second(tmp_path: Path) -> None:
    clock, file = Clock(), put(tmp_path / "a", b"1")
    watched = watch(clock, file)
    first = watched.current()
    put(file, b"2")
    clock.later(0.999)
    assert watched.current() is first
    clock.later(0.001)
    assert watched.current() == [b"2"]


def test_a_file_rewritten_in_place_at_the_same_instant_is_seen(tmp_path: Path) -> None:
    clock, file = Clock(), put(tmp_path / "a", b"1")
    watched = watch(clock, file)
    before = file.stat()
    file.write_bytes(b"2")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    clock.later()
    assert watched.current() == [b"2"]


def test_unchanged_content_keeps_the_same_value(tmp_path: Path) -> None:
    clock, file = Clock(), put(tmp_path / "a", b"1")
    watched = watch(clock, file)
    first = watched.current()
    put(file, b"1")
    clock.later()
    assert watched.current() is first


def test_a_kubernetes_volume_that_swaps_its_link_is_seen_with_both_files(tmp_path: Path) -> None:
    clock, volume = Clock(), Projected(tmp_path / "volume", one=b"1", two=b"2")
    watched = watch(clock, volume / "one", volume / "two")
    volume.update(one=b"3", two=b"4")
    clock.later()
    assert watched.current() == [b"3", b"4"]


def test_bad_files_leave_the_last_value_and_are_told_once(tmp_path: Path) -> None:
    clock, file = Clock(), put(tmp_path / "a", b"1")
    watched = watch(clock, file)
    with structlog.testing.capture_logs() as logs:
        put(file, b"")
        for _ in range(5):
            clock.later(1000)
            assert watched.current() == [b"1"]
        assert watched.error == "section.file: the file is empty"
        file.unlink()
        for _ in range(5):
            clock.later()
            assert watched.error == f"section.a: {file} cannot be read: No such file or directory"
        assert watched.current() == [b"1"]
        put(file, b"1")
        clock.later()
        assert watched.error == ""
    assert [entry["event"] for entry in logs] == ["file_refused", "file_refused", "file_taken"]


def test_a_lapse_ends_the_last_value_after_its_seconds(tmp_path: Path) -> None:
    clock, file = Clock(), put(tmp_path / "a", b"1")
    watched = watch(clock, file, lapse=(30, [b"none"]))
    clock.later(3600)
    assert watched.current() == [b"1"]
    file.unlink()
    clock.later(29)
    assert watched.current() == [b"1"]
    clock.later()
    assert watched.current() == [b"none"]
    put(file, b"1")
    clock.later()
    assert watched.current() == [b"1"]


def test_a_lapse_counts_from_when_the_file_was_last_seen_good(tmp_path: Path) -> None:
    clock, file = Clock(), put(tmp_path / "a", b"1")
    watched = watch(clock, file, lapse=(30, [b"none"]))
    file.unlink()
    clock.later(3600)  # nobody asked for an hour
    assert watched.current() == [b"none"]


def test_the_first_reading_must_succeed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"section\.a: .*No such file"):
        watch(Clock(), tmp_path / "a")


def test_what_is_no_small_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="not a regular file"):
        read_small(tmp_path / "pipe", "key")
    with pytest.raises(ConfigError, match="not a regular file"):
        read_small(tmp_path, "key")
    with pytest.raises(ConfigError, match="larger than"):
        read_small(put(tmp_path / "big", b"x" * (MAX_BYTES + 1)), "key")
    assert len(read_small(put(tmp_path / "big", b"x" * MAX_BYTES), "key")) == MAX_BYTES
