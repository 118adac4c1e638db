"""The body of a request → one that asks the engine for token counts too. Pure.

It changes in as few places as possible; every other byte stays as it was. `usage_strip` is the other half.
"""

from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from agent.sidecar.usage.json_text import Edit, Member, edited, members, object_begins

MAX_ASK_BYTES = 1 << 20
_NEVER = (b"false", b"null")


class Asked(NamedTuple):
    """A request body that asks for usage."""

    body: bytes
    continuous: bool  # in every chunk, not only in an extra one at the end


class _Said(Struct):
    stream: Any = None


_decoder = msgspec.json.Decoder(_Said)


def ask_for_usage(body: bytes, path: str, *, continuous: bool = False, most_bytes: int = MAX_ASK_BYTES) -> Asked | None:
    """The body of a streaming OpenAI chat or completion request with the wish for usage added; None: leave it be.

    None for a request that is no such thing, that has asked already, or whose meaning is not the same to every
    parser: names given twice, or in another case (Go's parser takes those as well), values that are only nearly true.
    """
    if len(body) > most_bytes or not path.endswith("/completions"):
        return None
    try:
        if _decoder.decode(body).stream is not True:
            return None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    begins = object_begins(body)
    found = _only(body, begins, ("stream", "stream_options")) if begins is not None else None
    if found is None:
        return None
    wanted = ("include_usage", "continuous_usage_stats")[: 2 if continuous else 1]
    options = found.get("stream_options")
    if options is None:
        place = found["stream"].end or 0
        edits: list[Edit] | None = [(place, place, b',"stream_options":{%b}' % _all_true(wanted))]
    else:
        edits = _in_options(body, options, wanted)
    if edits is None:
        return None
    return Asked(edited(body, edits), continuous)


def _in_options(body: bytes, options: Member, wanted: tuple[str, ...]) -> list[Edit] | None:
    """What to change in the options that there are; None where usage is asked for, or where that is not clear."""
    at, end = options.value_at, options.end or 0
    if body[at:end] == b"null":
        return [(at, end, b"{%b}" % _all_true(wanted))]
    if body[at : at + 1] != b"{":
        return None
    found = _only(body, at + 1, ("include_usage", "continuous_usage_stats"))
    if found is None or any(body[m.value_at : m.end] not in _NEVER for m in found.values()):
        return None
    edits = [(m.value_at, m.end or 0, b"true") for name, m in found.items() if name in wanted]
    missing = tuple(name for name in wanted if name not in found)
    if missing:
        empty = next(members(body, at + 1), None) is None
        edits.append((at + 1, at + 1, _all_true(missing) + (b"" if empty else b",")))
    return edits


def _only(text: bytes, at: int, names: tuple[str, ...]) -> dict[str, Member] | None:
    """These members of an object; None when one is there twice or in another case."""
    found: dict[str, Member] = {}
    for member in members(text, at):
        name = member.name.casefold()
        if name in names:
            if name in found or name != member.name:
                return None
            found[name] = member
    return found


def _all_true(names: tuple[str, ...]) -> bytes:
    return b",".join([b'"%b":true' % name.encode() for name in names])
