"""Asking for usage changes one key of a request and nothing else."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.sidecar.usage.option import Asked, ask_for_usage
from tests.support.json_style import tricky, values, written

CHAT = "/v1/chat/completions"


def asked_of(body: Any, *, continuous: bool) -> dict[str, Any] | None:
    """What the request should become, read plainly; None for one to leave alone."""
    if not isinstance(body, dict) or body.get("stream") is not True:
        return None
    options = body.get("stream_options")
    options = {} if options is None else options
    if not isinstance(options, dict):
        return None
    names = ("include_usage", "continuous_usage_stats")
    if any(options[name] is not None and options[name] is not False for name in names if name in options):
        return None
    return body | {"stream_options": options | dict.fromkeys(names if continuous else names[:1], True)}


@st.composite
def requests(draw: st.DrawFn) -> tuple[dict[str, Any], bytes]:
    body = draw(st.dictionaries(tricky, values, max_size=4))
    truths = st.sampled_from([True, False, None, 1, "true"])
    if draw(st.integers(0, 9)):
        body["stream"] = draw(st.sampled_from([True, True, True, True, False, 1, "true", [True]]))
    if draw(st.booleans()):
        options = draw(st.dictionaries(tricky, values, max_size=2))
        if draw(st.booleans()):
            options["include_usage"] = draw(truths)
        if draw(st.booleans()):
            options["continuous_usage_stats"] = draw(truths)
        body["stream_options"] = draw(st.sampled_from([options, options, options, None, [], "x"]))
    body = dict(draw(st.permutations(list(body.items()))))
    return body, draw(written(body)).encode("utf-8", "surrogatepass")


@given(requests(), st.booleans())
@settings(max_examples=200)
def test_only_the_one_key_changes(made: tuple[dict[str, Any], bytes], continuous: bool) -> None:
    said, body = made
    try:
        body.decode()
    except UnicodeDecodeError:
        return  # lone surrogates: no JSON on the wire
    asked = ask_for_usage(body, CHAT, continuous=continuous)
    wanted = asked_of(said, continuous=continuous)
    assert (asked and json.loads(asked.body)) == wanted
    if asked is not None:
        assert asked.continuous is continuous
        assert ask_for_usage(asked.body, CHAT) is None
        untouched(body, asked.body)


def untouched(before: bytes, after: bytes) -> None:
    """Every byte that is not one of the answers yes or no is still there, in its order."""
    for word in (b"false", b"null"):
        before = before.replace(word, b"")
    rest = iter(after)
    assert all(byte in rest for byte in before)


TABLE = [
    (b'{"stream":true}', b'{"stream":true,"stream_options":{"include_usage":true}}'),
    (b'{ "stream" : true , "n":1}', b'{ "stream" : true,"stream_options":{"include_usage":true} , "n":1}'),
    (b'{"stream_options":null,"stream":true}', b'{"stream_options":{"include_usage":true},"stream":true}'),
    (b'{"stream_options":{},"stream":true}', b'{"stream_options":{"include_usage":true},"stream":true}'),
    (
        b'{"stream":true,"stream_options":{"include_obfuscation":false}}',
        b'{"stream":true,"stream_options":{"include_usage":true,"include_obfuscation":false}}',
    ),
    (
        b'{"stream":true,"stream_options":{"include_usage": false}}',
        b'{"stream":true,"stream_options":{"include_usage": true}}',
    ),
    (
        rb'{"str\u0065am":true,"messages":[{"content":"{\"stream\":false}"}]}',
        rb'{"str\u0065am":true,"stream_options":{"include_usage":true},"messages":[{"content":"{\"stream\":false}"}]}',
    ),
]


@pytest.mark.parametrize(("body", "wanted"), TABLE)
def test_where_the_wish_is_put(body: bytes, wanted: bytes) -> None:
    assert ask_for_usage(body, CHAT) == Asked(wanted, False)
    assert ask_for_usage(body, "/v1/completions") == Asked(wanted, False)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'[{"stream":true}]',
        b'{"stream":true}{"stream":true}',
        b'{"stream":true}x',
        b'\xef\xbb\xbf{"stream":true}',
        b'\x1f\x8b\x08{"stream":true}',
        '{"stream":true}'.encode("utf-16"),
        b'{"stream":true,"stream":true}',
        b'{"stream":false,"stream":true}',
        rb'{"stream":false,"s\u0074ream":true}',
        b'{"stream":true,"Stream":false}',
        '{"stream":true,"ſtream_options":{}}'.encode(),
        b'{"stream":true,"stream_options":{},"stream_options":{"include_usage":true}}',
        b'{"stream":true,"stream_options":{"include_usage":false,"include_usage":true}}',
        b'{"stream":true,"stream_options":{"Include_Usage":true}}',
        b'{"stream":true,"stream_options":{"continuous_usage_stats":true}}',
        b'{"stream":true,"stream_options":{"include_usage":true}}',
        b'{"stream":true,"stream_options":true}',
        b'{"stream":1}',
        b'{"x":{"stream":true}}',
        b'{"stream":true,"x":' + b"[" * 5000 + b"]" * 5000 + b"}",
    ],
)
def test_left_alone(body: bytes) -> None:
    assert ask_for_usage(body, CHAT) is None
    assert ask_for_usage(body, CHAT, continuous=True) is None


def test_left_alone_by_path_and_size() -> None:
    body = b'{"stream":true}'
    for path in ("/v1/responses", "/v1/messages", "/api/chat", "/generate", "/v1/chat/completions/batch"):
        assert ask_for_usage(body, path) is None
    assert ask_for_usage(body, CHAT, most_bytes=len(body) - 1) is None
    assert ask_for_usage(body, CHAT, most_bytes=len(body)) is not None


def test_both_wishes() -> None:
    body = b'{"stream":true,"stream_options":{"continuous_usage_stats":false,"x":1}}'
    asked = ask_for_usage(body, CHAT, continuous=True)
    assert asked is not None
    assert asked.body == (
        b'{"stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true,"x":1}}'
    )
