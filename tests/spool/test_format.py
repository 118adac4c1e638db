"""A reader made from docs/spool-format.md alone, with nothing of ours but the files."""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from tests.support.spool_folders import flip, item, make_stream

COPY = 262144


def read_marks(folder: Path) -> dict[str, Any]:
    data = (folder / "marks").read_bytes()
    best: tuple[int, dict[str, Any]] | None = None
    for at in (0, COPY):
        magic, version, _, revision, length, crc, own = struct.unpack_from("<4sHHQIII", data, at)
        payload = data[at + 28 : at + 28 + length]
        if magic != b"\xe5\x52\x4d\x6b" or zlib.crc32(data[at : at + 24]) != own or zlib.crc32(payload) != crc:
            continue
        assert version == 1
        assert at == (COPY if revision % 2 else 0)
        if best is None or revision > best[0]:
            best = revision, msgspec.msgpack.decode(payload)
    assert best is not None
    return best[1]


def read_segments(folder: Path) -> list[tuple[int, int, int, bytes]]:
    """(generation, first, stream, bytes) in order."""
    found = []
    for file in folder.glob("*.seg"):
        data = file.read_bytes()
        magic, version, flags, _, stream, generation, first, _, own = struct.unpack_from("<8sHHIQQQQ12xI", data)
        if magic == b"\xe5\x52\x53\x65\x67\x6d\x74\x0a" and zlib.crc32(data[:60]) == own:
            assert (version, flags) == (1, 0)
            found.append((generation, first, stream, data))
    return sorted(found)


def read_items(folder: Path) -> Iterator[tuple[int, bytes]]:
    segments = read_segments(folder)
    for index, (generation, _, stream, data) in enumerate(segments):
        before = segments[index + 1][1] if index + 1 < len(segments) else 1 << 63
        at = 64
        while at + 56 <= len(data):
            magic, version, flags, _, own, life, first, _, count, length, body_crc, head_crc = struct.unpack_from(
                "<4sBBHQQQQIIII", data, at
            )
            body = data[at + 56 : at + 56 + length]
            good = magic == b"\xe5\x52\x46\x6d" and zlib.crc32(data[at : at + 52]) == head_crc
            if not good or zlib.crc32(body) != body_crc or (own, life) != (stream, generation) or first >= before:
                at += 8
                continue
            assert (version, flags) == (1, 0)
            values = msgspec.msgpack.decode(body)
            assert len(values) == count
            yield from enumerate(values, first)
            at += 56 + length + -length % 8


def test_the_page_is_enough_to_read_a_spool(tmp_path: Path) -> None:
    settled = [1, 2, 3, 50, 51, 70]
    make_stream(tmp_path, 200, settled=settled, saves=2)
    marks = read_marks(tmp_path)
    assert (marks["committed"], marks["through"]) == (200, 3)
    assert marks["ranges"] == [[50, 51], [70, 70]]
    assert marks["results"] == {"delivered": 6}
    assert {stream for _, _, stream, _ in read_segments(tmp_path)} == {marks["stream"]}
    assert dict(read_items(tmp_path)) == {number: item(number) for number in range(1, 201)}


def test_damage_is_passed_over_as_the_page_says(tmp_path: Path) -> None:
    make_stream(tmp_path, 200)
    flip(tmp_path / "000001.seg", 64 + 568 + 20)
    lost = range(41, 46)
    assert dict(read_items(tmp_path)) == {number: item(number) for number in range(1, 201) if number not in lost}
