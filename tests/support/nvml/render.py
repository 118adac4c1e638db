"""Asks the Python face of the simulator one function with every argument a client may have; rows of the table out."""

import ctypes
from collections.abc import Iterator
from typing import Any, NamedTuple

from agent.collect.gpu.raw import SUCCESS, Choices, Key, answers, named, selecting, words


class Row(NamedTuple):
    """One answer: NVML's code, or `HANG` or `CRASH`, and the outputs in the order of the arguments."""

    key: Key
    code: int
    payload: bytes = b""
    latency_ns: int = 0


def c_shape(function: str) -> str:
    """The shape in the C library's words: letters and sizes."""
    return " ".join(filter(None, (_c_word(word) for word in words(function))))


def _c_word(word: str) -> str:
    kind, *more = word.split(":")
    if kind in ("h", "g", "x"):
        return "h"
    if kind[0] in "ikqfsa":
        return kind if kind[0] in "sa" else kind[0]
    size = ctypes.sizeof(named(more[0]))
    if kind == "v":
        return f"v{size}.{selecting(more)}"
    if kind == "p":
        items, offset = named(more[2]), getattr(named(more[0]), more[3]).offset
        return f"p{ctypes.sizeof(items)}.4.{offset}"
    return f"{kind[0]}{size}.{kind[1:] or 0}"


def rows_of(library: Any, function: str, handles: dict[str, list[int]], known: Choices) -> Iterator[Row]:
    """Every answer of one function about `handles` (by ``h``, ``g``, ``x``)."""
    for call, code in answers(library, function, handles, known):
        yield Row(tuple(call.key), code, call.payload() if code == SUCCESS else b"")
