"""Rows and events in, the file that the C library reads out. It is replaced in one step, and the old one is told so."""

import mmap
import os
import struct
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from tests.support.nvml.render import Key, Row

_HEAD = struct.Struct("<8sIiQQQQQQ")
_ROW = struct.Struct("<QiIQQ")
_REPLACED_AT = 8
_MAGIC = b"NVMLTAB1"
_MASK = 2**64 - 1


@cache
def hashed(key: Key) -> int:
    """FNV-1a over the function's name and what selects the answer, as nvml.c has it."""
    name, *more = key
    value = 0xCBF29CE484222325
    data = str(name).encode() + b"\0"
    data += b"".join(item if isinstance(item, bytes) else int(item).to_bytes(8, "little") for item in more)
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) & _MASK
    return value


Event = tuple[int, bytes]


def write(path: Path, rows: Iterable[Row], events: Sequence[Event], unknown_code: int, *, upgraded: bool) -> None:
    """`events` are (number, nvmlEventData_t), the oldest first; `unknown_code` is answered where there is no row.

    `upgraded`: whoever initialised the library before has the wrong version now.
    """
    by_hash: dict[int, Row] = {}
    for row in rows:
        other = by_hash.setdefault(hashed(row.key), row)
        if other.key != row.key:
            raise ValueError(f"{row.key} and {other.key} have the same hash")
        by_hash[hashed(row.key)] = row
    rows_at = _HEAD.size
    events_at = rows_at + _ROW.size * len(by_hash)
    at = events_at + 40 * len(events)
    packed, payloads = [], []
    for value in sorted(by_hash):
        row = by_hash[value]
        packed.append(_ROW.pack(value, row.code, len(row.payload), row.latency_ns, at))
        payloads.append(row.payload)
        at += len(row.payload)
    tail = [struct.pack("<Q", number) + data for number, data in events]
    head = _HEAD.pack(_MAGIC, 0, unknown_code, at, rows_at, len(by_hash), events_at, len(events), upgraded)
    _replace(path, b"".join([head, *packed, *tail, *payloads]))


def _replace(path: Path, content: bytes) -> None:
    fresh = path.with_name(path.name + ".new")
    fresh.write_bytes(content)
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        descriptor = -1
    fresh.replace(path)
    if descriptor >= 0:
        with mmap.mmap(descriptor, 4096) as old:  # who has mapped the old file sees this
            old[_REPLACED_AT] = 1
        os.close(descriptor)
