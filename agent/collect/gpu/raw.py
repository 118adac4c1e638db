"""NVML's functions called alike, below pynvml's wrappers: a shape and chosen arguments in, code and outputs out."""

import ctypes
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import pynvml

from agent.collect.gpu.shapes import SHAPES

SUCCESS, NOT_FOUND, TOO_SMALL = 0, 6, 7
MANY = 4096  # processes, pages or samples in one list, at most

Key = tuple[str | int | bytes, ...]  # name of the function, then what selects the answer


class Choices(NamedTuple):
    """What arguments may be on this node."""

    gpus: int
    texts: dict[str, Sequence[str]]  # uuid, pci_bus_id
    pids: Sequence[int]


def named(name: str) -> Any:
    """A ctypes type, or a constant, by the name that it has in pynvml."""
    return getattr(pynvml, name)


def device_at(handle: int) -> Any:
    """A handle as pynvml has it."""
    return ctypes.cast(ctypes.c_void_p(handle), pynvml.c_nvmlDevice_t)


def words(function: str) -> list[str]:
    """The shape of a function as words."""
    return SHAPES[function].split()


def selecting(more: Sequence[str]) -> int:
    """How many bytes at the beginning of a versioned struct select the answer."""
    return 4 * (1 + len(more[2:]))


class Call:
    """One call that is about to be made: the C arguments, and how to read them afterwards."""

    def __init__(self, function: str) -> None:
        self.key: list[str | int | bytes] = [function]
        self.arguments: list[Any] = []
        self.outs: list[tuple[str, Any, Any]] = []  # kind, object, count

    def add(self, word: str, choice: Any, room: int) -> None:
        """The arguments of one word. `room`: for how many items lists have room."""
        kind, *more = word.split(":")
        if kind in ("h", "g", "x"):
            self.key.append(choice)
            pointer = {"h": pynvml.c_nvmlDevice_t, "g": pynvml.c_nvmlGpuInstance_t, "x": pynvml.c_nvmlComputeInstance_t}
            self.arguments.append(ctypes.cast(ctypes.c_void_p(choice), pointer[kind]))
        elif kind[0] == "i":
            self.key.append(choice)
            self.arguments.append(ctypes.c_uint(choice))
        elif kind[0] == "k":
            self.key.append(choice.encode())
            self.arguments.append(ctypes.c_char_p(choice.encode()))
        elif kind[0] == "a":
            array = (ctypes.c_ulong * int(kind[1:]))()
            self.arguments += [ctypes.c_uint(len(array)), array]
            self.outs.append(("o", array, None))
        elif kind == "q":
            self.arguments.append(ctypes.c_ulonglong(0))
        elif kind[0] == "s":
            buffer = ctypes.create_string_buffer(int(kind[1:]))
            self.arguments += [buffer, ctypes.c_uint(len(buffer))]
            self.outs.append(("s", buffer, None))
        elif kind[0] in "cC":
            self._list(kind[0], named(more[0]), room)
        elif kind == "p":
            self._list_in_struct(more, room)
        else:
            self._plain(kind, more, choice)

    def _plain(self, kind: str, more: Sequence[str], choice: Any) -> None:
        out = named(more[0])()
        if kind == "v":
            out.version = named(more[1])
            for member, value in zip((part.split("=")[0] for part in more[2:]), choice, strict=True):
                setattr(out, member, value)
            self.key.append(bytes(out)[: selecting(more)])
        self.arguments.append(ctypes.byref(out))
        self.outs.append(("o", out, None))

    def _list(self, kind: str, item: Any, room: int) -> None:
        count, items = ctypes.c_uint(room), (item * room)() if room else None
        pair = [ctypes.byref(count), items]
        self.arguments += pair if kind == "c" else pair[::-1]
        self.outs.append(("c", items, count))

    def _list_in_struct(self, more: Sequence[str], room: int) -> None:
        out, item = named(more[0])(), named(more[2])
        out.version = named(more[1])
        setattr(out, more[3], room)
        items = (item * room)() if room else None
        if items is not None:
            setattr(out, more[4], ctypes.cast(items, ctypes.POINTER(item)))
        self.key.append(bytes(out)[:4])
        self.arguments.append(ctypes.byref(out))
        self.outs.append(("p", items, (out, more[3])))

    def wanted(self) -> int:
        """How many items the lists have that were asked for."""
        return max((self._count(count) for _, _, count in self.outs if count is not None), default=0)

    @staticmethod
    def _count(count: Any) -> int:
        return int(getattr(count[0], count[1]) if isinstance(count, tuple) else count.value)

    def payload(self) -> bytes:
        """All outputs, as the C library copies them."""
        found = []
        for kind, out, count in self.outs:
            if kind == "s":
                found.append(out.value + b"\0")
            elif kind == "o":
                found.append(bytes(out))
            else:
                number = self._count(count)
                size = ctypes.sizeof(out) // len(out) if out is not None else 0
                found.append(number.to_bytes(4, "little") + (bytes(out)[: number * size] if number else b""))
        return b"".join(found)


def choices_of(word: str, known: Choices) -> Iterable[Any]:
    """What a word's argument may be; handles are not chosen here."""
    if word.startswith("i="):
        named_set = {"i=gpus": range(known.gpus), "i=pids": known.pids}
        return named_set[word] if word in named_set else [int(value) for value in word[2:].split(",")]
    if word.startswith("k="):
        return known.texts[word[2:]]
    if word.startswith("v:"):
        return itertools.product(*([int(v) for v in part.split("=")[1].split(",")] for part in word.split(":")[3:]))
    return (None,)


class Answer(NamedTuple):
    """One call that was made. `call` holds the outputs if `code` is 0."""

    call: Call
    code: int


def answers(library: Any, function: str, handles: dict[str, list[int]], known: Choices) -> Iterator[Answer]:
    """Every answer of one function about `handles` (by ``h``, ``g``, ``x``). A list is asked for its length first."""
    ask = getattr(library, function)
    shape = words(function)
    ranges = [handles[word] if word in handles else list(choices_of(word, known)) for word in shape]
    for chosen in itertools.product(*ranges):
        call = made(shape, function, chosen, 0)
        code = ask(*call.arguments)
        room = call.wanted()
        if room and code in (SUCCESS, TOO_SMALL):
            call = made(shape, function, chosen, min(2 * room + 5, MANY))
            code = ask(*call.arguments)
        yield Answer(call, code)


def made(shape: Sequence[str], function: str, chosen: Sequence[Any], room: int) -> Call:
    """The call with these arguments; lists have room for `room` items."""
    call = Call(function)
    for word, choice in zip(shape, chosen, strict=True):
        call.add(word, choice, room)
    return call
