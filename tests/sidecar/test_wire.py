"""Heads: what is passed on keeps its order, name and value; what belongs to one hop does not get past it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sidecar.wire import HOP_BY_HOP, RequestHead, ResponseHead, field_of, origin_form, problem, tokens

Field = tuple[bytes, bytes]
OWN = frozenset((b"transfer-encoding", b"content-length", b"host", b"x-request-id", b"traceparent", b"connection"))

names = st.from_regex(rb"[A-Za-z][A-Za-z0-9-]{0,12}", fullmatch=True).filter(
    lambda name: name.lower() not in HOP_BY_HOP | OWN and not name.lower().startswith(b"x-forwarded-")
)
values = st.from_regex(rb"[!-~]([ -~]{0,20}[!-~])?", fullmatch=True)
fields = st.lists(st.tuples(names, values), max_size=8)
hops = st.lists(st.tuples(st.sampled_from(sorted(HOP_BY_HOP - {b"connection"})), values), max_size=4)


def engine_head(*headers: Field, upgrade: bool = False, method: bytes = b"POST") -> list[bytes]:
    head = RequestHead(method, b"/v1/completions?a=b", list(headers))
    sent = head.for_engine(peer="10.1.1.1", scheme=b"http", upgrade=upgrade, host=b"engine:8000")
    length = head.fields.get(b"content-length", b"")
    whole = sent.before + length + sent.after if sent.after else sent.before
    assert whole.endswith(b"\r\n")
    return whole[:-2].split(b"\r\n")


@given(fields, hops, st.data())
def test_fields_keep_order_name_and_value_and_hops_end_here(
    kept: list[Field], ended: list[Field], data: st.DataObject
) -> None:
    mixed = list(kept)
    for field in ended:
        mixed.insert(data.draw(st.integers(0, len(mixed))), field)
    lines = engine_head((b"Host", b"h"), *mixed)
    assert lines[0] == b"POST /v1/completions?a=b HTTP/1.1"
    assert lines[1 : 2 + len(kept)] == [b"Host: h", *(b"%b: %b" % field for field in kept)]
    assert {line.partition(b":")[0] for line in lines[2 + len(kept) :]} == {
        b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("headers", "present", "absent"),
    [
        ([], [b"host: engine:8000", b"x-forwarded-for: 10.1.1.1"], []),
        ([(b"X-Forwarded-For", b"1.2.3.4")], [b"x-forwarded-for: 1.2.3.4, 10.1.1.1"], [b"X-Forwarded-For: 1.2.3.4"]),
        ([(b"X-Forwarded-Proto", b"https")], [b"X-Forwarded-Proto: https"], [b"x-forwarded-proto: http"]),
        ([(b"X-Request-ID", b"theirs")], [b"X-Request-ID: theirs"], []),
        ([(b"Connection", b"close, X-A"), (b"x-a", b"1"), (b"X-B", b"2")], [b"X-B: 2"], [b"x-a: 1", b"X-A: 1"]),
        ([(b"Connection", b"Content-Length"), (b"Content-Length", b"3")], [b"Content-Length: 3"], []),
        ([(b"Transfer-Encoding", b"chunked")], [b"transfer-encoding: chunked"], []),
        ([(b"Upgrade", b"websocket"), (b"Connection", b"Upgrade")], [], [b"upgrade: websocket", b"Upgrade: websocket"]),
    ],
)
def test_the_head_for_the_engine(headers: list[Field], present: list[bytes], absent: list[bytes]) -> None:
    lines = engine_head(*headers)
    assert set(present) <= set(lines)
    assert not set(absent) & set(lines)
    assert len(lines) == len(set(lines))


def test_an_upgrade_is_asked_for_anew() -> None:
    lines = engine_head((b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"), upgrade=True)
    assert lines.count(b"connection: upgrade") == lines.count(b"upgrade: websocket") == 1


@pytest.mark.parametrize(
    ("headers", "has_body", "chunked"),
    [
        ([], False, False),
        ([(b"Content-Length", b"0")], False, False),
        ([(b"Content-Length", b"7")], True, False),
        ([(b"Transfer-Encoding", b"chunked")], True, True),
    ],
)
def test_what_is_read_of_a_request(headers: list[Field], has_body: bool, chunked: bool) -> None:
    head = RequestHead(b"POST", b"/a?b", headers)
    assert (head.has_body, head.chunked, head.path) == (has_body, chunked, "/a")


def test_repeated_fields_are_joined_when_read_and_kept_apart_when_sent() -> None:
    twice = [(b"Content-Encoding", b"gzip"), (b"content-encoding", b"br")]
    assert RequestHead(b"POST", b"/", twice).fields[b"content-encoding"] == b"gzip, br"
    assert {b"Content-Encoding: gzip", b"content-encoding: br"} <= set(engine_head(*twice))


@pytest.mark.parametrize(
    ("target", "path", "host"),
    [
        (b"/a?b", b"/a?b", b"said"),
        (b"*", b"*", b"said"),
        (b"http://host:1/a?b=c", b"/a?b=c", b"host:1"),
        (b"HTTP://host", b"/", b"host"),
        (b"http://user@host?x=/1", b"/?x=/1", b"host"),
        (b"/a?next=http://b/c", b"/a?next=http://b/c", b"said"),
        (b"file:///etc/passwd", b"file:///etc/passwd", b"said"),
    ],
)
def test_the_target_in_origin_form(target: bytes, path: bytes, host: bytes) -> None:
    headers = [(b"X-A", b"1"), (b"HOST", b"said")]
    assert origin_form(target, headers) == path
    assert [value for name, value in headers if name.lower() == b"host"] == [host]


@pytest.mark.parametrize(
    ("target", "headers", "fault"),
    [
        (b"/", [(b"Host", b"a"), (b"Transfer-Encoding", b" Chunked ")], ""),
        (b"*", [], ""),
        (b"/", [(b"Transfer-Encoding", b"gzip, chunked")], "transfer coding"),
        (b"/", [(b"Transfer-Encoding", b"chunked"), (b"Transfer-Encoding", b"chunked")], "transfer coding"),
        (b"/", [(b"Transfer-Encoding", b"chunked"), (b"Content-Length", b"1")], "both"),
        (b"/", [(b"Host", b"a"), (b"hOST", b"a")], "more than one Host"),
        (b"/a#b", [], "fragment"),
        (b"file:///a", [], "neither"),
    ],
)
def test_what_servers_could_read_differently_is_told(target: bytes, headers: list[Field], fault: str) -> None:
    said = RequestHead(b"POST", target, headers).fault()
    assert fault in said
    assert bool(fault) == bool(said)


def test_a_path_is_read_as_servers_read_it() -> None:
    assert RequestHead(b"POST", b"/v1/chat/%63ompletions?%63", []).path == "/v1/chat/completions"


def test_a_list_of_tokens() -> None:
    assert tokens(b" Close,, keep-alive ,X") == {b"close", b"keep-alive", b"x"}


def response(*lines: bytes, status: int = 200, version: bytes = b"1.1", to_head: bool = False) -> ResponseHead:
    raw = b"\r\n".join((b"HTTP/%b %d Fine" % (version, status), *lines, b"", b""))
    return ResponseHead.read(raw, status, to_head_request=to_head)


@pytest.mark.parametrize(
    ("head", "until_close", "chunked", "plain"),
    [
        (response(b"Content-Length: 5"), False, False, True),
        (response(b"Transfer-Encoding: chunked"), False, True, True),
        (response(b"x: y"), True, False, True),
        (response(b"x: y", to_head=True), False, False, True),
        (response(status=204), False, False, True),
        (response(status=304), False, False, True),
        (response(b"content-length: 5", version=b"1.0"), False, False, False),
        (response(b"content-length: 5", b"Connection: close"), False, False, False),
        (response(b"content-length: 5", b"Keep-Alive: timeout=5"), False, False, False),
        (response(b"content-length: 5", b"x: connection: close"), False, False, True),
    ],
)
def test_how_a_response_ends(head: ResponseHead, until_close: bool, chunked: bool, plain: bool) -> None:
    assert (head.until_close, head.chunked, head.plain) == (until_close, chunked, plain)


def test_the_type_of_a_response_is_found_whatever_its_case() -> None:
    head = response(
        b"CONTENT-TYPE:text/event-stream; charset=utf-8 ", b"x-content-encoding: no", b"Content-Encoding: br"
    )
    assert (head.content_type, head.content_encoding) == ("text/event-stream; charset=utf-8", "br")
    assert field_of(head.raw, head.lower, b"server") == ""


@given(fields, st.booleans(), st.booleans())
def test_a_response_head_keeps_its_fields(kept: list[Field], hop: bool, old: bool) -> None:
    lines = [b"%b: %b" % field for field in kept]
    ended = [b"Connection: keep-alive, Gone", b"gone: 1", b"Keep-Alive: 5"] if hop else []
    head = response(*ended, *lines, b"Content-Length: 1", version=b"1.0" if old else b"1.1")
    kept_lines = [line for line in lines if not (hop and line.partition(b":")[0].lower() == b"gone")]
    wanted = (b"HTTP/1.1 200 Fine", *kept_lines, b"Content-Length: 1", b"mine: 1", b"", b"")
    assert head.for_client(b"mine: 1\r\n") == b"\r\n".join(wanted)


def test_a_response_for_an_old_client_says_nothing_of_chunks() -> None:
    head = response(b"Transfer-Encoding: chunked", b"Trailer: x", b"a: b")
    assert head.for_client(b"", dechunk=True) == b"HTTP/1.1 200 Fine\r\na: b\r\n\r\n"


def test_the_head_of_a_tunnel_keeps_its_hop_by_hop_fields() -> None:
    head = response(b"Upgrade: websocket", b"Connection: Upgrade", status=101)
    assert head.for_client(b"", tunnel=True) == head.raw


@pytest.mark.parametrize("head_only", [False, True])
def test_a_problem_is_a_whole_response(head_only: bool) -> None:
    head, _, body = problem(504, "Time is up", 'a "quoted" é', head_only=head_only, added=b"a: b\r\n").partition(
        b"\r\n\r\n"
    )
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 504 Time is up"
    assert {b"content-type: application/problem+json", b"a: b"} <= set(lines)
    if head_only:
        assert body == b""
    else:
        assert b"content-length: %d" % len(body) in lines
        assert json.loads(body) == {
            "type": "about:blank", "title": "Time is up", "status": 504, "detail": 'a "quoted" é',
        }  # fmt: skip
