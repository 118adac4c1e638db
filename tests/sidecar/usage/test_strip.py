"""A stream without what was asked for is as it would have been, however it is cut; little is held, and not for long."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.sidecar.usage.option import Asked
from agent.sidecar.usage.strip import MAX_CHUNK_BYTES, MAX_EVENT_BYTES, UsageStrip, usage_strip_for
from tests.support.json_style import tricky, values, written

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
ENDS = ("\n", "\r\n", "\r")

contents = st.one_of(tricky, st.just('","choices":[],"usage":{"a":1}'))


@st.composite
def content_chunks(draw: st.DrawFn) -> dict[str, Any]:
    """Chunks that stay, some of them close to one that goes."""
    head: dict[str, Any] = {"id": draw(contents), "object": "chat.completion.chunk", "model": "m"}
    choices = [{"index": 0, "delta": {"content": draw(contents)}, "x": []}]
    kind = draw(st.integers(0, 9))
    if kind == 0:
        head |= {"choices": [], "usage": None}
    elif kind == 1:
        head |= {"choices": [], "prompt_filter_results": {"usage": {"choices": []}}}
    elif kind == 2:
        head |= {"usage": USAGE}
    elif kind == 3:
        head |= {"error": {"message": draw(contents), "choices": [], "usage": {}}}
    elif kind == 4:
        head |= {"choices": [[]], "usage": USAGE}
    elif kind == 5:
        head |= {"x": {"choices": [], "usage": {}}, "choices": choices}
    else:
        head |= {"choices": choices, "usage": None} if draw(st.booleans()) else {"choices": choices}
    return dict(draw(st.permutations(list(head.items()))))


@st.composite
def framed(draw: st.DrawFn, text: str, ends: tuple[str, ...] = ENDS) -> bytes:
    """An event with this data, perhaps on several lines, perhaps with other fields."""
    end = draw(st.sampled_from(ends))
    space = draw(st.sampled_from(["", " ", " "]))
    lines = [f"data:{space}{line}" for line in text.replace("\r\n", "\n").split("\n")]
    if draw(st.integers(0, 5)) == 0:
        lines.insert(draw(st.integers(0, len(lines))), draw(st.sampled_from(["event: chunk", "id: 3", "x", "retry:1"])))
    return "".join(line + end for line in (*lines, "")).encode("utf-8", "surrogatepass")


@st.composite
def kept_pieces(draw: st.DrawFn) -> bytes:
    """One thing that stays: a chunk, a comment, an end mark, rubbish."""
    kind = draw(st.integers(0, 9))
    end = draw(st.sampled_from(ENDS))
    if kind == 0:
        return draw(st.sampled_from([": keep-alive", ":", ': {"choices":[],"usage":{}}'])).encode() + end.encode()
    if kind == 1:
        return end.encode()
    if kind == 2:
        rubbish = ["[DONE]", "", '{"choices":[],"usage":{}', "{", '{"choices": [] "usage": {}}', "null", "[]"]
        return draw(framed(draw(st.sampled_from(rubbish))))
    return draw(framed(draw(written(draw(content_chunks())))))


@st.composite
def usage_chunks(draw: st.DrawFn, ends: tuple[str, ...] = ENDS) -> bytes:
    chunk = {"id": draw(contents), "model": "m", "choices": [], "usage": USAGE | {"details": draw(values)}}
    chunk |= {"x": {"choices": [1]}} if draw(st.booleans()) else {}
    return draw(framed(draw(written(dict(draw(st.permutations(list(chunk.items())))))), ends))


def pieces_of(draw: st.DrawFn, body: bytes) -> list[bytes]:
    cuts = draw(st.lists(st.integers(0, len(body)), max_size=12))
    if draw(st.integers(0, 3)) == 0:
        cuts = list(range(len(body)))
    places = sorted({0, len(body), *cuts})
    return [body[a:b] for a, b in itertools.pairwise(places)]


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[bytes], bytes]:
    """A stream with the extra chunk somewhere, in pieces, and the same without it."""
    kept = draw(st.lists(kept_pieces(), max_size=6))
    extra = draw(usage_chunks())
    at = draw(st.integers(0, len(kept)))
    after = b"".join(kept[at:])
    if b"".join(kept[:at]).endswith(b"\r") and extra[:1] == b"\n":
        at = len(kept)
    if extra.endswith(b"\r") and after.startswith(b"\n"):
        after = b"\r" + after  # else this LF would be the rest of the chunk's own line end
    before = b"".join(kept[:at])
    return pieces_of(draw, before + extra + after), before + after


def stripped(pieces: list[bytes], *, continuous: bool = False) -> bytes:
    strip = UsageStrip(continuous=continuous)
    return b"".join([*(strip.feed(piece) for piece in pieces), strip.finish()])


@given(streams())
@settings(max_examples=250, deadline=None)
def test_the_stream_without_the_extra_chunk(made: tuple[list[bytes], bytes]) -> None:
    pieces, wanted = made
    assert stripped(pieces) == wanted


@given(st.lists(kept_pieces(), max_size=8), st.data())
@settings(max_examples=100, deadline=None)
def test_what_has_no_extra_chunk_passes(kept: list[bytes], data: st.DataObject) -> None:
    body = b"".join(kept)
    assert stripped(pieces_of(data.draw, body)) == body


@given(st.binary(max_size=60) | st.lists(st.sampled_from([b"data:", b"{", b"}", b'"choices":[]', b'"usage":{}', b",",
       b"\r", b"\n", b": c", b'"', b"\\"]), max_size=20).map(b"".join), st.booleans(), st.data())  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_the_cuts_do_not_matter(body: bytes, continuous: bool, data: st.DataObject) -> None:
    assert stripped(pieces_of(data.draw, body), continuous=continuous) == stripped([body], continuous=continuous)


def test_nothing_that_can_be_told_apart_is_held() -> None:
    """A content chunk flows on from the byte at which its choices are seen not to be empty; comments at once."""
    strip = UsageStrip()
    start = b'data: {"id":"1","choices":['
    assert strip.feed(b": ping") == b": ping"
    assert strip.feed(b"\n\n") == b"\n\n"
    assert strip.feed(start) == b""
    assert strip.feed(b"{") == start + b"{"
    assert strip.feed(b'"delta":{"content":"Hel') == b'"delta":{"content":"Hel'
    assert strip.feed(b'lo"}}]}\n') == b'lo"}}]}\n'
    assert strip.feed(b"\ndata: [") == b"\ndata: ["
    assert strip.feed(b"DONE]\n\n") == b"DONE]\n\n"


def test_the_chunk_is_held_until_it_is_known() -> None:
    strip = UsageStrip()
    assert strip.feed(b'data: {"choices":[],"usage":null}') == b""
    assert strip.feed(b"\n\n") == b'data: {"choices":[],"usage":null}\n\n'
    assert strip.feed(b'data: {"choices":[ ],"usage":{"a":1}}\r\n\r') == b""
    assert strip.removed == 1
    assert strip.feed(b"\ndata: [DONE]\r\n\r\n") == b"data: [DONE]\r\n\r\n"
    assert strip.finish() == b""


def test_comments_inside_the_chunk_stay() -> None:
    assert (
        stripped([b'data: {"choices":[],\n: ping\ndata: "usage":{}}\n\ndata: [DONE]\n\n'])
        == b": ping\ndata: [DONE]\n\n"
    )


@pytest.mark.parametrize("rest", [b"", b"\n", b"\r"])
def test_a_last_chunk_without_its_blank_line(rest: bytes) -> None:
    assert stripped([b'data: {"choices":[],"usage":{}}' + rest]) == b""
    assert stripped([b'data: {"choices":[],"usa' + rest]) == b'data: {"choices":[],"usa' + rest


def test_an_event_that_is_too_long_passes() -> None:
    padding = b'"' + b"x" * MAX_CHUNK_BYTES + b'"'
    event = b'data: {"id":%b,"choices":[],"usage":{}}\n\n' % padding
    strip = UsageStrip()
    assert strip.feed(event[:MAX_CHUNK_BYTES]) == b""
    assert strip.feed(event[MAX_CHUNK_BYTES : MAX_CHUNK_BYTES + 1]) == event[: MAX_CHUNK_BYTES + 1]
    assert strip.feed(event[MAX_CHUNK_BYTES + 1 :]) == event[MAX_CHUNK_BYTES + 1 :]
    assert stripped([event]) == event
    long = b'data: {"choices":[1],"usage":{"x":"%b"}}\n\n' % (b"y" * MAX_EVENT_BYTES)
    assert stripped([long], continuous=True) == stripped([long[:9], long[9:]], continuous=True) == long


# Usage in every chunk


@st.composite
def continuous_streams(draw: st.DrawFn) -> tuple[list[bytes], bytes]:
    """As engines write it: a member of its own on the chunk's one line, anywhere in the object."""
    kept, body = b"", b""
    for _ in range(draw(st.integers(0, 5))):
        members = {"id": draw(contents), "choices": [{"delta": {"content": draw(contents), "usage": {"x": 1}}}], "m": 1}
        texts = [f"{json.dumps(k)}:{draw(written(v, newlines=False)).strip()}" for k, v in members.items()]
        at = draw(st.integers(0, len(texts)))
        usage = f'"usage":{draw(written(USAGE, newlines=False)).strip()}'
        end = draw(st.sampled_from(ENDS))
        comma = draw(st.sampled_from([",", ", "]))
        for with_usage in (False, True):
            said = comma.join([*texts[:at], *((usage,) if with_usage else ()), *texts[at:]])
            event = f"data: {{{said}}}{end}{end}".encode("utf-8", "surrogatepass")
            if with_usage:
                body += event
            else:
                kept += event
        if body.endswith(b"\r"):
            kept += b": c\n"  # a CR at the end and a LF at the start of what follows would be one line end
            body += b": c\n"
    tail = b"data: [DONE]\n\n"
    return pieces_of(draw, body + draw(usage_chunks(("\n",))) + tail), kept + tail


@given(continuous_streams())
@settings(max_examples=200, deadline=None)
def test_the_stream_without_usage_in_every_chunk(made: tuple[list[bytes], bytes]) -> None:
    pieces, wanted = made
    assert stripped(pieces, continuous=True) == wanted


@given(content_chunks(), st.data())
@example({"usage": {"a": 1}, "choices": [1]}, None)
@settings(max_examples=120, deadline=None)
def test_a_chunk_on_many_lines_says_the_same_without_usage(chunk: dict[str, Any], data: st.DataObject | None) -> None:
    text = json.dumps(chunk) if data is None else data.draw(written(chunk))
    body = b'data: {"choices":[1],\ndata: "usage":\ndata: {}}\n\n'
    if data is not None:
        body = data.draw(framed(text))
        if "\ud800" <= max(text) <= "\udfff":
            return
    found = stripped([body], continuous=True)
    said = "\n".join(
        line[5:] for line in found.decode().replace("\r\n", "\n").replace("\r", "\n").split("\n") if line[:5] == "data:"
    )
    wanted = {"choices": [1]} if data is None else dict(chunk)
    if isinstance(wanted.get("choices"), list) and isinstance(wanted.get("usage"), dict):
        del wanted["usage"]
    assert json.loads(said) == wanted


def test_the_strip_is_for_plain_event_streams_that_were_asked_for() -> None:
    asked = Asked(b"", False)
    assert usage_strip_for(asked, "text/event-stream; charset=utf-8", "") is not None
    assert usage_strip_for(asked, "Text/Event-Stream", "identity") is not None
    assert usage_strip_for(None, "text/event-stream", "") is None
    assert usage_strip_for(asked, "text/event-stream", "gzip") is None
    assert usage_strip_for(asked, "application/json", "") is None
