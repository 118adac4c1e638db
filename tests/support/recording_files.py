"""A disk in memory that remembers what was done to it, and every state that a power cut may leave (as ALICE does).

The model is harsher than ext4. What counts as done is only what a sync made so: the bytes and size of a file by a sync
of that file, names by a sync of their folder. Of the rest anything may be there: each 512-byte sector of each write for
itself, each length that was reserved, and for each name any number of the changes to it. Only a sector is never torn.
"""

import errno
import itertools
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from agent.spool.files import Files

SECTOR = 512


class Do(NamedTuple):
    """One thing done: create, remove, write, reserve, sync or sync_folder. `node` stands for the file itself."""

    kind: str
    path: Path
    node: int = -1
    offset: int = 0
    data: bytes = b""
    size: int = 0


class Killed(BaseException):
    """kill -9 between two things done."""


class RecordingFiles(Files):
    """Names and bytes in memory, as the running system sees them; `done` is all that was done."""

    def __init__(self, names: dict[Path, bytes] | None = None) -> None:
        self.done: list[Do] = []
        self.kill_after: int | None = None  # so many more things are done, then the process dies
        self.names_to_nodes: dict[Path, int] = {}
        self.nodes: dict[int, bytearray] = {}
        self._handles: dict[int, tuple[Path, int]] = {}
        self._counter = itertools.count(1000)
        for path, data in (names or {}).items():
            node = next(self._counter)
            self.names_to_nodes[path] = node
            self.nodes[node] = bytearray(data)
        self.base = dict(names or {})
        self.base_nodes = dict(self.names_to_nodes)

    def names(self, folder: Path) -> list[str]:
        return sorted(path.name for path in self.names_to_nodes if path.parent == folder)

    def _do(self, do: Do) -> None:
        if self.kill_after is not None:
            if self.kill_after == 0:
                self.kill_after = None
                raise Killed
            self.kill_after -= 1
        self.done.append(do)

    def open(self, path: Path, *, create: bool = False) -> int:
        if path not in self.names_to_nodes:
            if not create:
                raise FileNotFoundError(errno.ENOENT, "No such file", str(path))
            node = next(self._counter)
            self._do(Do("create", path, node))
            self.names_to_nodes[path] = node
            self.nodes[node] = bytearray()
        handle = next(self._counter)
        self._handles[handle] = (path, self.names_to_nodes[path])
        return handle

    def open_to_read(self, path: Path) -> int:
        return self.open(path)

    def close(self, fd: int) -> None:
        del self._handles[fd]

    def size(self, fd: int) -> int:
        return len(self.nodes[self._handles[fd][1]])

    def reserve(self, fd: int, size: int) -> None:
        path, node = self._handles[fd]
        self._do(Do("reserve", path, node, size=size))
        _grow(self.nodes[node], size)

    def write(self, fd: int, buffers: Sequence[bytes | bytearray | memoryview], offset: int) -> None:
        path, node = self._handles[fd]
        data = b"".join(buffers)
        self._do(Do("write", path, node, offset, data))
        _put(self.nodes[node], offset, data)

    def read(self, fd: int, size: int, offset: int) -> bytes:
        return bytes(self.nodes[self._handles[fd][1]][offset : offset + size])

    def sync(self, fd: int) -> None:
        path, node = self._handles[fd]
        self._do(Do("sync", path, node))

    def sync_folder(self, folder: Path) -> None:
        self._do(Do("sync_folder", folder))

    def remove(self, path: Path) -> None:
        if path in self.names_to_nodes:
            self._do(Do("remove", path, self.names_to_nodes[path]))
            del self.names_to_nodes[path]

    def free_bytes(self, folder: Path) -> int:
        return 1 << 50

    def open_handles(self) -> int:
        return len(self._handles)


def _grow(data: bytearray, size: int) -> None:
    if len(data) < size:
        data.extend(bytes(size - len(data)))


def _put(data: bytearray, offset: int, piece: bytes) -> None:
    _grow(data, offset)
    data[offset : offset + len(piece)] = piece


def _pieces(do: Do) -> Iterator[Do]:
    """What may reach the disk for itself."""
    if do.kind == "reserve":
        yield do
        return
    at, end = do.offset, do.offset + len(do.data)
    while at < end:
        until = min(end, (at // SECTOR + 1) * SECTOR)
        yield Do("write", do.path, do.node, at, do.data[at - do.offset : until - do.offset])
        at = until


class CutState:
    """What is sure on the disk when the power goes after the first `count` things done, and what is open."""

    def __init__(self, files: RecordingFiles, count: int) -> None:
        done = files.done[:count]
        synced = {do.node: at for at, do in enumerate(done) if do.kind == "sync"}
        folders = {do.path: at for at, do in enumerate(done) if do.kind == "sync_folder"}
        self.nodes = {files.base_nodes[path]: bytearray(data) for path, data in files.base.items()}
        self.names: dict[Path, int | None] = dict(files.base_nodes)
        self.pieces: list[Do] = []
        self.changes: dict[Path, list[int | None]] = {}
        for at, do in enumerate(done):
            if do.kind in ("create", "remove"):
                node = do.node if do.kind == "create" else None
                if do.kind == "create":
                    self.nodes.setdefault(do.node, bytearray())
                if at < folders.get(do.path.parent, -1):
                    self.names[do.path] = node
                else:
                    self.changes.setdefault(do.path, []).append(node)
            elif do.kind in ("write", "reserve"):
                if at < synced.get(do.node, -1):
                    _apply(self.nodes[do.node], do)
                else:
                    self.pieces.extend(_pieces(do))

    def choices(self) -> list[int]:
        """How many ways there are for each open thing."""
        return [2] * len(self.pieces) + [len(changes) + 1 for changes in self.changes.values()]

    def build(self, chosen: Sequence[int]) -> dict[Path, bytes]:
        """The files of one of the states."""
        nodes: dict[int, bytearray] = {}
        kept = [piece for piece, choice in zip(self.pieces, chosen, strict=False) if choice]
        for piece in kept:
            if piece.node not in nodes:
                nodes[piece.node] = bytearray(self.nodes[piece.node])
            _apply(nodes[piece.node], piece)
        names = dict(self.names)
        for (path, changes), choice in zip(self.changes.items(), chosen[len(self.pieces) :], strict=True):
            if choice:
                names[path] = changes[choice - 1]
        return {path: bytes(nodes.get(node, self.nodes[node])) for path, node in names.items() if node is not None}

    def states(self, most: int, dice: random.Random) -> Iterator[dict[Path, bytes]]:
        """All states where they are no more than `most`, else as many: the edges first, then by chance."""
        choices = self.choices()
        ways = 1
        for choice in choices:
            ways *= choice
        if ways <= most:
            for chosen in itertools.product(*map(range, choices)):
                yield self.build(chosen)
            return
        seen: set[tuple[int, ...]] = set()
        full = [choice - 1 for choice in choices]
        edges = [[0] * len(choices), full]
        for at in range(len(choices)):
            edges.append([*full[:at], 0, *full[at + 1 :]])
            edges.append([0] * at + [full[at]] + [0] * (len(choices) - at - 1))
        dice.shuffle(edges)
        for chosen in edges[: most // 2]:
            seen.add(tuple(chosen))
        while len(seen) < most:
            seen.add(tuple(dice.randrange(choice) for choice in choices))
        for chosen in seen:
            yield self.build(chosen)


def _apply(data: bytearray, do: Do) -> None:
    if do.kind == "reserve":
        _grow(data, do.size)
    else:
        _put(data, do.offset, do.data)
