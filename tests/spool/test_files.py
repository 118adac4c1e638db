"""The real disk, on the real disk."""

import os
from pathlib import Path

import pytest

from agent.spool.files import Files


def test_bytes_and_names(tmp_path: Path) -> None:
    files = Files()
    with pytest.raises(FileNotFoundError):
        files.open(tmp_path / "b")
    fd = files.open(tmp_path / "b", create=True)
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o600
    files.reserve(fd, 10_000)
    assert files.size(fd) == 10_000
    files.write(fd, [b"one", bytearray(b"two"), memoryview(b"three")], 5)
    files.sync(fd)
    files.sync_folder(tmp_path)
    reader = files.open_to_read(tmp_path / "b")
    assert files.read(reader, 11, 5) == b"onetwothree"
    assert files.read(reader, 100, 9_990) == bytes(10)
    with pytest.raises(OSError, match="Bad file descriptor"):
        files.write(reader, [b"x"], 0)
    for each in (fd, reader):
        assert not os.get_inheritable(each)
        files.close(each)
    (tmp_path / "a").touch()
    assert files.names(tmp_path) == ["a", "b"]
    files.remove(tmp_path / "b")
    files.remove(tmp_path / "b")
    assert files.names(tmp_path) == ["a"]
    assert files.free_bytes(tmp_path) > 0


def test_a_pipe_in_the_place_of_a_file_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p")
    files = Files()
    fd = files.open_to_read(tmp_path / "p")
    with pytest.raises(OSError, match="Illegal seek"):
        files.read(fd, 10, 0)
    files.close(fd)
