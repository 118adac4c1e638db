"""Items ⇄ the bytes of frames and segment headers. Pure; the format is told in docs/spool-format.md.

A frame carries the identity of its stream and the generation of its segment, so that what an earlier life of a
recycled file left behind, or another stream's file, can never be read as new.
"""

import struct
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from isal.isal_zlib import crc32

VERSION = 1
ALIGN = 8
LARGE_ITEM_BYTES = 16 << 10
MOST_IN_PLACE = 256  # the system takes 1,024 buffers at once (writev(2))

_FRAME_MAGIC = b"\xe5RFm"
_SEGMENT_MAGIC = b"\xe5RSegmt\n"
_START = struct.Struct("<4sBBHQQ")  # magic, version, flags, reserved, stream, generation
_FRAME = struct.Struct("<4sBBHQQQQIII")  # ..., first sequence, written at, count, length, body CRC; then header CRC
_SEGMENT = struct.Struct("<8sHHIQQQQ12x")  # magic, version, flags, reserved, stream, generation, first, created; CRC
_CRC = struct.Struct("<I")
_BIN32 = struct.Struct(">BI")  # msgpack: bytes with a length of 32 bits

FRAME_HEADER_BYTES = _FRAME.size + _CRC.size
SEGMENT_HEADER_BYTES = _SEGMENT.size + _CRC.size

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[bytes])


class NewerFormat(Exception):
    """The bytes were written by a newer version of this program."""

    def __init__(self, version: int) -> None:
        super().__init__(f"format version {version}; this program reads up to {VERSION}")
        self.version = version


class FrameHeader(NamedTuple):
    """What a frame says of itself. `first` is the sequence number of its first item."""

    first: int
    at_ns: int
    items: int
    length: int
    body_crc: int

    @property
    def last(self) -> int:
        return self.first + self.items - 1

    @property
    def size(self) -> int:
        """Bytes on disk, padding included."""
        return padded(FRAME_HEADER_BYTES + self.length)


class SegmentHeader(NamedTuple):
    """What a segment file says of itself. Generations grow with every use of any file of the stream."""

    stream: int
    generation: int
    first: int
    created_at_ns: int


def padded(size: int, step: int = ALIGN) -> int:
    """`size` rounded up to a multiple of `step`: to where the next frame may begin."""
    return -(-size // step) * step


def frame_start(stream: int, generation: int) -> bytes:
    """The bytes that every frame of this use of a segment begins with."""
    return _START.pack(_FRAME_MAGIC, VERSION, 0, 0, stream, generation)


def encode_frame(stream: int, generation: int, first: int, at_ns: int, items: Sequence[bytes]) -> list[bytes]:
    """The buffers of one frame, to be written one after the other."""
    few_and_large = len(items) <= MOST_IN_PLACE and sum(map(len, items)) >= LARGE_ITEM_BYTES * len(items)
    body = _in_place(items) if few_and_large else [_encoder.encode(items)]
    length = crc = 0
    for piece in body:
        length += len(piece)
        crc = crc32(piece, crc)
    head = _FRAME.pack(_FRAME_MAGIC, VERSION, 0, 0, stream, generation, first, at_ns, len(items), length, crc)
    size = FRAME_HEADER_BYTES + length
    return [head + _CRC.pack(crc32(head)), *body, bytes(padded(size) - size)]


def _in_place(items: Sequence[bytes]) -> list[bytes]:
    """The buffers of a body with the items as they are: copying large ones costs more than the headers do."""
    buffers = [_encoder.encode([None] * len(items))[: -len(items)]]
    for item in items:
        buffers += [_BIN32.pack(0xC6, len(item)), item]
    return buffers


def frame_bytes(items_bytes: int, count: int) -> int:
    """The most that a frame of so many items with so many bytes in all may take."""
    return padded(
        FRAME_HEADER_BYTES + items_bytes + 5 * count + 5
    )  # msgpack: 5 bytes at most for each and for the list


def read_frame_header(data: bytes, stream: int, generation: int) -> FrameHeader | None:
    """The header at the start of `data`, or None when there is none of this stream and generation."""
    if len(data) < FRAME_HEADER_BYTES or not data.startswith(_FRAME_MAGIC):
        return None
    if crc32(data[: _FRAME.size]) != _CRC.unpack_from(data, _FRAME.size)[0]:
        return None
    _, version, flags, _, own, life, first, at_ns, count, length, body_crc = _FRAME.unpack_from(data)
    if (own, life) != (stream, generation):
        return None
    if version > VERSION or flags:
        raise NewerFormat(version)
    return FrameHeader(first, at_ns, count, length, body_crc)


def decode_body(header: FrameHeader, body: bytes) -> list[bytes] | None:
    """The items, or None when the body is not what was written."""
    if len(body) != header.length or crc32(body) != header.body_crc:
        return None
    try:
        items = _decoder.decode(body)
    except msgspec.DecodeError:
        return None
    return items if len(items) == header.items else None


def encode_segment_header(header: SegmentHeader) -> bytes:
    """The first bytes of a segment file."""
    head = _SEGMENT.pack(_SEGMENT_MAGIC, VERSION, 0, 0, *header)
    return head + _CRC.pack(crc32(head))


def read_segment_header(data: bytes) -> SegmentHeader | None:
    """The header of a segment file, or None when its first bytes are none. Raises `NewerFormat`."""
    if len(data) < SEGMENT_HEADER_BYTES or not data.startswith(_SEGMENT_MAGIC):
        return None
    if crc32(data[: _SEGMENT.size]) != _CRC.unpack_from(data, _SEGMENT.size)[0]:
        return None
    _, version, flags, _, stream, generation, first, created = _SEGMENT.unpack_from(data)
    if version > VERSION or flags:
        raise NewerFormat(version)
    return SegmentHeader(stream, generation, first, created)


def find_newest(data: bytes, stream: int | None) -> SegmentHeader | None:
    """What the newest whole frame headers in `data` say of their segment: for a file whose own header is damaged.

    `first` is that of the first such frame, so the segment may have begun before it; `created_at_ns` likewise. Only
    frames of `stream` count, or of any where that is None.
    """
    found: SegmentHeader | None = None
    at = data.find(_FRAME_MAGIC)
    while at >= 0:
        head = data[at : at + FRAME_HEADER_BYTES]
        whole = len(head) == FRAME_HEADER_BYTES and at == padded(at)
        if whole and crc32(head[: _FRAME.size]) == _CRC.unpack_from(head, _FRAME.size)[0]:
            own, generation, first, at_ns = _FRAME.unpack_from(head)[4:8]
            if stream in (None, own) and (found is None or generation > found.generation):
                found = SegmentHeader(own, generation, first, at_ns)
        at = data.find(_FRAME_MAGIC, at + 1)
    return found
