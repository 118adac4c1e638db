"""Requests as they begin and end → a file that tells the next start which of them a killed sidecar left behind.

The file is mapped into memory: what was stored there is the kernel's, and outlives the process, with no call to the
system for any request. A request keeps its slot until its end event is durable in the spool. So after kill -9 every
request that had begun is told exactly once: its end is in the spool or was delivered, or its slot is still taken and
the end is nowhere. After a power cut the file may be older than the spool: then a request can be told as lost that was
delivered before, which the agent takes for a repetition.
"""

import mmap
import os
import struct
from collections import deque
from pathlib import Path
from typing import NamedTuple

import structlog

from agent.core.ports import ConfigError

log = structlog.get_logger()

FILE_NAME = "inflight"
NOT_TRACKED = -1

FIRST_SLOTS = 1024
MOST_SLOTS = 65_536  # 32 MiB
HEADER_BYTES = 4096
SLOT_BYTES = 512
PATH_BYTES, TENANT_BYTES, UPSTREAM_BYTES, MODEL_BYTES = 72, 192, 80, 128  # 64 signs of a tenant may take 192

VERSION = 1
_MAGIC = b"\xe5RInflt\n"
_START = struct.Struct("<8sI")  # magic, version; of the header
_MARKS = struct.Struct("<QQ")  # alive at, released through; each is stored whole, never half of it
_MARKS_AT = 64
_NAME = struct.Struct("<H1024s")  # of the sidecar, 256 signs at most
_NAME_AT = 128
# state, told, ended at (0: as long as its process was alive), id, started at, path, tenant
_BEGUN = struct.Struct(f"<BB6xQ16sQ{PATH_BYTES}s{TENANT_BYTES}s")
_TOLD = struct.Struct(f"<{UPSTREAM_BYTES}s{MODEL_BYTES}s")  # what is known when the request goes to an engine
_TOLD_AT = _BEGUN.size
_NUMBER = struct.Struct("<Q")
_ENDED_AT = 8
_FREE, _TAKEN = 0, 1

_ID_TOLERANCE_MS = 60_000  # an id carries the instant at which it was made
_LONGEST_NS = 24 * 3600 * 1_000_000_000


class LostRequest(NamedTuple):
    """A request that a killed sidecar had begun. What is None was not known yet, or did not fit. Instants: Unix ns."""

    slot: int
    id: str
    started_at_ns: int
    ended_at_ns: int  # until when it surely ran
    path: str
    tenant: str | None
    model: str | None
    upstream: str | None


class InFlight:
    """The open file. Made by `open_inflight`; used from one thread. Never raises once it is open."""

    def __init__(
        self, file: Path, descriptor: int, name: str, now_ns: int, *, first_slots: int, most_slots: int
    ) -> None:
        self.file = file
        self.left_by = name  # the sidecar that `left` belongs to
        self.left: list[LostRequest] = []  # of those who were killed; their slots are taken until `ended`
        self.unreadable = 0  # slots that made no sense; counted here once
        self.untracked = 0  # requests for which there was no slot
        self.released_through = 0  # of the stream; the ends of slots that are taken come later
        self._fd = descriptor
        self._first_slots = first_slots
        self._most_slots = most_slots
        self._slots = 0
        self._free: list[int] = []
        self._closing: deque[tuple[int, int]] = deque()  # (number of the end's item, slot), ascending
        self._may_grow = True
        self._trouble = ""  # why it could not grow; it is told when that changes
        self._map: mmap.mmap | None = None
        self._adopt(name, now_ns)

    # The request path

    def begin(self, hex_id: str, started_at_ns: int, path: str, tenant: str | None = None) -> int:
        """A slot for a request whose head has come, before it goes anywhere. `hex_id`: 32 digits of a UUIDv7.

        `NOT_TRACKED` when there is none.
        """
        if not self._free and not self._grow():
            self.untracked += 1
            return NOT_TRACKED
        slot = self._free.pop()
        at = HEADER_BYTES + slot * SLOT_BYTES
        name = tenant.encode("utf-8", "replace") if tenant else b""
        if len(name) > TENANT_BYTES:
            name = b""  # a cut name would be somebody else's
        view = self._map
        assert view is not None
        key = bytes.fromhex(hex_id)
        _BEGUN.pack_into(view, at, _FREE, 0, 0, key, started_at_ns, path.encode("utf-8", "replace"), name)
        view[at] = _TAKEN  # last: whoever is killed before has not begun it
        return slot

    def tell(self, slot: int, upstream: str, model: str | None) -> None:
        """The request goes to `upstream`, and asks for `model`; may be told again when it goes to another one."""
        if slot == NOT_TRACKED or self._map is None:
            return
        at = HEADER_BYTES + slot * SLOT_BYTES
        address = upstream.encode("utf-8", "replace")
        if len(address) > UPSTREAM_BYTES:
            address = b""
        self._map[at + 1] = 0
        _TOLD.pack_into(self._map, at + _TOLD_AT, address, model.encode("utf-8", "replace") if model else b"")
        self._map[at + 1] = 1

    def ended(self, slot: int, number: int) -> None:
        """Its end event is item `number` of the stream; 0 when it is not there: dropped, and counted as such."""
        if slot == NOT_TRACKED:
            return
        if number:
            self._closing.append((number, slot))
        else:
            self._let_go(slot)

    # Now and then

    def release(self, durable_through: int) -> None:
        """Let go of requests whose end is durable: item `durable_through` or before. To be called before such an item
        is settled, so that what the spool does not hold any more has no slot."""
        closing = self._closing
        while closing and closing[0][0] <= durable_through:
            self._let_go(closing.popleft()[1])
        if durable_through > self.released_through:
            self.released_through = durable_through
            if self._map is not None:
                _NUMBER.pack_into(self._map, _MARKS_AT + 8, durable_through)

    def alive(self, now_ns: int) -> None:
        """The requests that are open now are still running. `now_ns`: by the clock of their starts."""
        self._may_grow = True
        if self._map is not None:
            _NUMBER.pack_into(self._map, _MARKS_AT, now_ns)

    @property
    def taken(self) -> int:
        """Slots in use: requests that run, and ended ones whose end is not durable yet."""
        return self._slots - len(self._free)

    @property
    def slots(self) -> int:
        """Requests that fit without growing."""
        return self._slots

    def close(self) -> None:
        """Leave the file to the next start, which compares what is still taken with the spool."""
        if self._map is not None:
            self._map.close()
            self._map = None
        self._free, self._slots, self._may_grow, self._most_slots = [], 0, False, 0
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _let_go(self, slot: int) -> None:
        if self._map is not None:
            self._map[HEADER_BYTES + slot * SLOT_BYTES] = _FREE
            self._free.append(slot)

    # The file

    def _grow(self) -> bool:
        """Twice the slots, or the first ones. False: the bound is reached, or the disk is full."""
        slots = min(max(self._first_slots, 2 * self._slots), self._most_slots)
        if slots <= self._slots or not self._may_grow:
            return False
        return self._stretch(slots)

    def _stretch(self, slots: int) -> bool:
        """Map a file of so many slots. Its blocks are all there: a store into a hole of a full disk would be fatal."""
        size = HEADER_BYTES + slots * SLOT_BYTES
        try:
            os.posix_fallocate(self._fd, 0, size)
            view = mmap.mmap(self._fd, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        except OSError as error:
            self._may_grow = False  # until the next `alive`: an attempt for each request would be dear
            trouble = error.strerror or "unknown error"
            if trouble != self._trouble:
                log.error("inflight_file_cannot_grow", file=str(self.file), slots=self._slots, reason=trouble)
            self._trouble = trouble
            return False
        if self._map is not None:
            self._map.close()
        else:
            _START.pack_into(view, 0, _MAGIC, VERSION)
        self._map = view
        self._free[:0] = range(slots - 1, self._slots - 1, -1)  # the lowest is used first, again and again
        self._slots, self._trouble = slots, ""
        return True

    def _adopt(self, name: str, now_ns: int) -> None:
        """Read what a predecessor left. Its requests keep their slots until their ends are durable."""
        found = os.pread(self._fd, HEADER_BYTES, 0)
        kept = (os.fstat(self._fd).st_size - HEADER_BYTES) // SLOT_BYTES
        alive_ns = 0
        if len(found) == HEADER_BYTES and _START.unpack_from(found) == (_MAGIC, VERSION):
            alive_ns, self.released_through = _MARKS.unpack_from(found, _MARKS_AT)
            length, name_bytes = _NAME.unpack_from(found, _NAME_AT)
            self.left_by = _whole(name_bytes[:length]) or name
        elif found.strip(b"\0"):
            self.unreadable += 1
            log.warning("inflight_file_unreadable", file=str(self.file), consequence="its slots are judged one by one")
        if not self._stretch(max(self._first_slots, min(kept, self._most_slots))):
            return
        view = self._map
        assert view is not None
        for slot in range(min(kept, self._slots)):
            if view[HEADER_BYTES + slot * SLOT_BYTES] != _FREE:
                self._adopt_slot(view, slot, min(alive_ns, now_ns))
        lost = {request.slot for request in self.left}
        self._free = [slot for slot in self._free if slot not in lost]
        _START.pack_into(view, 0, _MAGIC, VERSION)
        _MARKS.pack_into(view, _MARKS_AT, now_ns, self.released_through)
        _NAME.pack_into(view, _NAME_AT, len(name.encode()), name.encode())

    def _adopt_slot(self, view: mmap.mmap, slot: int, alive_ns: int) -> None:
        at = HEADER_BYTES + slot * SLOT_BYTES
        request = _read(view[at : at + SLOT_BYTES], slot, alive_ns)
        if request is None:
            self.unreadable += 1
            view[at] = _FREE
            return
        _NUMBER.pack_into(view, at + _ENDED_AT, request.ended_at_ns)  # should we be killed too, it is known already
        self.left.append(request)


def _read(slot_bytes: bytes, slot: int, alive_ns: int) -> LostRequest | None:
    """What a slot says, or None when that cannot be: the id is no UUIDv7 of about the instant of the start."""
    state, told, ended_ns, request_id, started_ns, path, tenant = _BEGUN.unpack_from(slot_bytes)
    made_ms = int.from_bytes(request_id[:6], "big")
    if state != _TAKEN or request_id[6] >> 4 != 7 or request_id[8] >> 6 != 2:
        return None
    if abs(made_ms - started_ns // 1_000_000) > _ID_TOLERANCE_MS:
        return None
    upstream, model = _TOLD.unpack_from(slot_bytes, _TOLD_AT) if told == 1 else (b"", b"")
    end = min(ended_ns or alive_ns, started_ns + _LONGEST_NS)
    return LostRequest(
        slot=slot,
        id=_text_of(request_id),
        started_at_ns=started_ns,
        ended_at_ns=max(started_ns, end),
        path=_shown(path),
        tenant=_whole(tenant),
        model=_shown(model) or None,
        upstream=_whole(upstream),
    )


def _text_of(request_id: bytes) -> str:
    digits = request_id.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _shown(text: bytes) -> str:
    """Text that may have been cut within a sign."""
    return "".join(sign for sign in text.rstrip(b"\0").decode("utf-8", "ignore") if sign.isprintable())


def _whole(text: bytes) -> str | None:
    """A name, or None where there is none that could be told."""
    try:
        name = text.rstrip(b"\0").decode()
    except UnicodeDecodeError:
        return None
    return name if name and name.isprintable() else None


def open_inflight(
    folder: Path, name: str, now_ns: int, *, first_slots: int = FIRST_SLOTS, most_slots: int = MOST_SLOTS
) -> InFlight:
    """The file in the folder of the sidecar `name`, which this process has locked. `now_ns`: Unix ns.

    Raises `ConfigError` when it cannot be used, or a newer version wrote it. On a full disk it opens without slots.
    """
    file = folder / FILE_NAME
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError("sidecar.spool_dir", f"{file} cannot be used: {error.strerror}") from error
    try:
        start = os.pread(descriptor, _START.size, 0)
        if len(start) == _START.size and start.startswith(_MAGIC) and (version := _START.unpack(start)[1]) > VERSION:
            raise ConfigError(
                "sidecar.spool_dir",
                f"{file} was written by a newer engineroom (format version {version}; this one reads up to {VERSION}); "
                "use that one, or move the file away",
            )
        return InFlight(file, descriptor, name, now_ns, first_slots=first_slots, most_slots=most_slots)
    except OSError as error:
        os.close(descriptor)
        raise ConfigError("sidecar.spool_dir", f"{file} cannot be used: {error.strerror}") from error
    except ConfigError:
        os.close(descriptor)
        raise
