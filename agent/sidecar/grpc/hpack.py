"""Header fields ↔ header blocks (RFC 7541), quick for blocks that come again and again, as those of gRPC do.

What is sent uses no table that changes: every block stands for itself, and no value of a client is ever kept by the
other side ("never indexed"). What is received is read by the library, once for each distinct block.
"""

from collections.abc import Iterable

from hpack import Decoder, HeaderTuple
from hpack.table import HeaderTable

MAX_CACHED_BYTES = 256
MAX_CACHED = 2048
_EMPTY_TABLE = b"\x20"  # "I use a table of 0 bytes"
# Different in every call, or secret: not kept.
_PASSING = frozenset((b"traceparent", b"x-request-id", b"x-engineroom-request-id", b"grpc-timeout", b"authorization"))
_NAMES = {name: index for index, (name, _) in reversed(list(enumerate(HeaderTable.STATIC_TABLE, 1)))}
_PAIRS = {pair: bytes((0x80 | index,)) for index, pair in enumerate(HeaderTable.STATIC_TABLE, 1)}
_fields: dict[tuple[bytes, bytes], bytes] = dict(_PAIRS)


def _integer(value: int, prefix_bits: int, flags: int) -> bytes:
    most = (1 << prefix_bits) - 1
    if value < most:
        return bytes((flags | value,))
    out = bytearray((flags | most,))
    value -= most
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _literal(pair: tuple[bytes, bytes]) -> bytes:
    name, value = pair
    index = _NAMES.get(name)
    head = _integer(index, 4, 0x10) if index else b"\x10" + _integer(len(name), 7, 0) + name
    field = head + _integer(len(value), 7, 0) + value
    if len(field) <= MAX_CACHED_BYTES and name not in _PASSING:
        if len(_fields) > MAX_CACHED:
            _fields.clear()
            _fields.update(_PAIRS)
        _fields[(name, value)] = field
    return field


class BlockEncoder:
    """Takes the place of `hpack.Encoder` in h2."""

    def __init__(self) -> None:
        self._update = _EMPTY_TABLE

    @property
    def header_table_size(self) -> int:
        """Bytes of the table: none."""
        return 0

    @header_table_size.setter
    def header_table_size(self, _: int) -> None:
        self._update = _EMPTY_TABLE  # said again, for a reader that waits to hear it

    def encode(self, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """The block for these fields, whose names are in lower case."""
        update, self._update = self._update, b""
        return update + b"".join([_fields.get(pair) or _literal(pair) for pair in headers])


class _Table(HeaderTable):
    version = 0  # grows with every change

    def add(self, name: bytes, value: bytes) -> None:
        self.version += 1
        super().add(name, value)


class BlockDecoder(Decoder):
    """Remembers blocks that did not change the table, for as long as it does not change."""

    def __init__(self, max_header_list_size: int) -> None:
        super().__init__(max_header_list_size)
        self.header_table: _Table = _Table()
        self._blocks: dict[bytes, tuple[list[HeaderTuple], set[type]]] = {}
        self._version = 0
        self.checked: set[type] = set()  # as what the last block was found valid; for the caller to read and to fill

    def decode(self, data: bytes, raw: bool = True) -> list[HeaderTuple]:
        """Fields of a block. Raises `hpack.HPACKError`."""
        table = self.header_table
        known = self._blocks.get(data)
        if known is not None and table.version == self._version:
            self.checked = known[1]
            return known[0]
        self.checked = set()
        if data and data[0] & 0xE0 == 0x20:  # changes the size of the table
            table.version += 1
            return list(super().decode(data, raw))
        version = table.version
        found = list(super().decode(data, raw))
        if table.version == version and len(data) <= MAX_CACHED_BYTES:
            if self._version != version or len(self._blocks) >= MAX_CACHED:
                self._blocks.clear()
                self._version = version
            self._blocks[bytes(data)] = found, self.checked
        return found
