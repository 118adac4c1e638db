"""JSON as text: where the members of an object begin and end, so that one can be changed and no other byte. Pure.

For text that is known to be JSON, or the beginning of some; other text gives no sense, but no error either.
"""

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_KEY = re.compile(rb"[ \t\r\n]*+(" + _STRING + rb")[ \t\r\n]*+:[ \t\r\n]*+", re.DOTALL)
_STRING_VALUE = re.compile(_STRING, re.DOTALL)
_SCALAR = re.compile(rb"[^,}\]\s]*+")
_TO_BRACKET = re.compile(rb'(?:[^"{}\[\]]++|' + _STRING + rb")*+([{}\[\]])", re.DOTALL)
SPACE = re.compile(rb"[ \t\r\n]*+")
_COMMA, _OPENING, _QUOTE = ord(","), b"{[", ord('"')


Edit = tuple[int, int, bytes]
"""From where to where in a text, and what comes there instead."""


class Member(NamedTuple):
    """One member of an object, by its place in the text."""

    name: str
    at: int  # of the name's quotation mark
    value_at: int
    end: int | None  # after the value; None when the text ends before it is surely whole


def object_begins(text: bytes) -> int | None:
    """The place after the brace that opens the text; None when something else does, or nothing yet."""
    match = SPACE.match(text)
    at = match.end() if match else 0
    return at + 1 if text[at : at + 1] == b"{" else None


def members(text: bytes, at: int) -> Iterator[Member]:
    """The members of the object whose opening brace is before `at`, as far as the text goes."""
    while (key := _KEY.match(text, at)) is not None:
        end = value_end(text, key.end())
        yield Member(_name(key[1]), key.start(1), key.end(), end)
        if end is None:
            return
        space = SPACE.match(text, end)
        at = space.end() if space else end
        if at >= len(text) or text[at] != _COMMA:
            return
        at += 1


def value_end(text: bytes, at: int) -> int | None:
    """The place after the value that begins at `at`; None when the text ends before it is surely whole."""
    if at >= len(text):
        return None
    if text[at] == _QUOTE:
        string = _STRING_VALUE.match(text, at)
        return string.end() if string else None
    if text[at] not in _OPENING:
        scalar = _SCALAR.match(text, at)
        end = scalar.end() if scalar else at
        return end if end < len(text) else None
    depth = 0
    while (bracket := _TO_BRACKET.match(text, at)) is not None:
        at = bracket.end()
        depth += 1 if bracket[1] in (b"{", b"[") else -1
        if depth == 0:
            return at
    return None


def edited(text: bytes, edits: list[Edit]) -> bytes:
    """The text with these changes, which do not overlap; all else as it was."""
    parts: list[bytes] = []
    at = 0
    for start, end, instead in sorted(edits):
        parts += (text[at:start], instead)
        at = end
    return b"".join((*parts, text[at:]))


def _name(literal: bytes) -> str:
    if b"\\" in literal:
        try:
            return str(json.loads(literal))
        except ValueError:
            return ""
    return literal[1:-1].decode("utf-8", "replace")
