"""A response body fed to the meter of its path, whole or cut; the instant of a piece is the number of bytes so far."""

import itertools
import json
from collections.abc import Iterable
from typing import Any

from hypothesis import strategies as st

from agent.sidecar.meter.meters import meter_for
from agent.sidecar.meter.reading import Measured, Reading

SSE, LINES, JSON = "text/event-stream", "application/x-ndjson", "application/json"

cuts = st.lists(st.integers(0, 3000), max_size=25)

strange: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.sampled_from(["", "x", "message", "response.failed"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def events(*said: dict[str, Any] | str, named: bool = False) -> bytes:
    """Server-sent events; a string is written as it is."""
    out = ""
    for one in said:
        if isinstance(one, str):
            out += one + "\n\n"
        else:
            out += (f"event: {one.get('type')}\n" if named else "") + f"data: {json.dumps(one)}\n\n"
    return out.encode()


def lines(*said: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in said)


def measured(path: str, kind: str, body: bytes, at: Iterable[int] = ()) -> Measured:
    """What the meter says of a body cut at these places."""
    meter = meter_for(kind, "", path)
    assert meter is not None
    for start, stop in itertools.pairwise([0, *sorted(min(cut, len(body)) for cut in at), len(body)]):
        meter.feed(body[start:stop], stop)
    return meter.finish(len(body) + 1)


def assert_cut_alike(path: str, kind: str, body: bytes, at: list[int]) -> None:
    """Any cuts give what single bytes give; the first token counts when the piece with its last byte came."""
    exact = measured(path, kind, body, range(len(body)))
    found = measured(path, kind, body, at)
    first = exact.first_token_at_ns
    if first is not None:
        edges = sorted([*(min(cut, len(body)) for cut in at), len(body)])
        first = next(edge for edge in edges if edge >= first)
    assert found.first_token_at_ns == first
    fields = ("usage", "finish_reason", "model", "error", "queue_full", "complete")
    assert [getattr(found, name) for name in fields] == [getattr(exact, name) for name in fields]


def take_strange(reading: Reading, keys: Iterable[str], values: list[Any]) -> None:
    """Objects of known keys with strange values must never raise."""
    said = dict(zip(keys, itertools.cycle(values), strict=False))
    reading.take(said)
    reading.take_document([said])
    reading.take_document(said)
    reading.usage_of(said)
    reading.usage(None)
    reading.usage(3)
