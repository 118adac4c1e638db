"""What every exporter must do, against a destination that misbehaves: one line in SUBJECTS adds an exporter."""

import re
from collections.abc import Callable, Sequence
from email.utils import formatdate
from typing import Any, NamedTuple

import aiohttp
import anyio
import msgspec
import pytest

from agent.clock import NS, boot_ns, unix_ns
from agent.core.alerts.alert import Alert, AlertState
from agent.core.http_outcome import REASON_CHARACTERS
from agent.core.ports import Exporter, Paused, Rejected, TooLarge, TryLater
from agent.core.requests import RecordReceipt
from agent.sidecar.records.queue import SpooledEvent
from agent.sidecar.records.ship import RecordsExporter
from exporters.alertmanager import AlertmanagerExporter
from exporters.post import open_session
from exporters.webhook import WebhookExporter
from tests.support import hostile as acts
from tests.support.agent import free_port
from tests.support.hostile import Act, answer, bytes_only, echo, hostile

TIMEOUT = 0.3
TOKEN = "tok3n-in-the-address"
KEY = "k3y-that-signs"


class Subject(NamedTuple):
    """An exporter as the contract sees it: made for a base address, with a batch of one item."""

    name: str
    make: Callable[[str, aiohttp.ClientSession], Exporter[Any]]
    batch: Sequence[Any]
    good: Act = answer(200)  # what a destination says that has stored it
    secrets: tuple[str, ...] = ()  # never in a reason or a name


ALERT = Alert(
    rule="A",
    group="g",
    labels=(("alertname", "A"),),
    annotations=(),
    state=AlertState.FIRING,
    value=1.0,
    active_at_ns=unix_ns() - NS,
    fired_at_ns=unix_ns(),
    resolved_at_ns=None,
)

SUBJECTS = [
    Subject("alertmanager", lambda url, s: AlertmanagerExporter(url, s, unix_ns, timeout_seconds=TIMEOUT), [ALERT]),
    Subject(
        "webhook",
        lambda url, s: WebhookExporter("w", f"{url}/{TOKEN}", s, secret=KEY.encode(), timeout_seconds=TIMEOUT),
        [ALERT],
        secrets=(TOKEN, KEY, "127.0.0.1"),
    ),
    Subject(
        "agent",
        lambda url, s: RecordsExporter(
            url, s, timeout_seconds=TIMEOUT, credentials=lambda: {"authorization": f"Bearer {TOKEN}"}
        ),
        [SpooledEvent(7, "me", msgspec.Raw(msgspec.msgpack.encode({"type": "progress"})))],
        good=answer(200, msgspec.msgpack.encode(RecordReceipt(accepted_through=1))),
        secrets=(TOKEN,),
    ),
]

STORED = "stored"
UNKNOWN = {
    "hang": acts.hang,
    "hang without reading": acts.hang_unread,
    "hang in the middle": acts.hang_in_the_middle,
    "reset before reading": acts.reset_before_reading,
    "reset after reading": acts.reset_after_reading,
    "answer cut": acts.cut_answer,
    "chunks cut": acts.cut_chunks,
    "no answer": acts.closed_without_a_word,
    "drip": acts.drip,
    "not HTTP": bytes_only(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "broken head": bytes_only(b"HTTP/1.1 200\r\nno colon here\r\n\r\n"),
    "broken chunks": bytes_only(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nxx"),
    "endless header": bytes_only(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n"),
    "broken encoding": answer(200, b"no gzip at all", Content_Encoding="gzip"),
}
ODD = {  # 2xx all the same: it is for each exporter to say whether that proves anything
    "HTML 200": answer(200, b"<!DOCTYPE html><title>Welcome</title>", Content_Type="text/html"),
    "empty 200": answer(200),
    "204": answer(204),
    "wrong JSON": answer(200, b'{"unexpected": [1, 2'),
    "other JSON": answer(200, b"[[[[]]]]"),
    "no UTF-8": answer(200, b"\xff\xfe\x00"),
    "huge": acts.huge,
}
STATUSES: dict[int, type[Exception]] = {
    301: Paused,
    307: Paused,
    400: Rejected,
    401: Paused,
    403: Paused,
    404: Paused,
    405: Paused,
    408: TryLater,
    413: TooLarge,
    415: Paused,
    422: Rejected,
    425: TryLater,
    429: TryLater,
    500: TryLater,
    501: Paused,
    502: TryLater,
    503: TryLater,
    504: TryLater,
    599: TryLater,
}

subjects = pytest.mark.parametrize("subject", SUBJECTS, ids=lambda s: s.name)


async def send(exporter: Exporter[Any], batch: Sequence[Any]) -> "str | Exception":
    """`stored`, or what the port's errors say, as a verdict or raised; anything else fails the test."""
    began = boot_ns()
    try:
        with anyio.fail_after(TIMEOUT + 5):
            verdicts = await exporter.send(batch)
    except (TryLater, TooLarge, Rejected) as error:
        found: str | Exception = error
    else:
        assert verdicts is None or len(verdicts) == len(batch)
        found = STORED if verdicts is None or isinstance(verdicts[0], str) else verdicts[0]
    assert (boot_ns() - began) / NS < TIMEOUT + 2
    return found


def check_reason(found: "str | Exception", subject: Subject, exporter: Exporter[Any]) -> None:
    if isinstance(found, TryLater | TooLarge | Rejected):
        assert found.reason
        assert found.reason.isprintable()
        assert len(found.reason) <= REASON_CHARACTERS
        assert str(found) == found.reason
        for secret in subject.secrets:
            assert secret not in found.reason + exporter.name
        seen = found.__cause__
        assert seen is None or not any(secret in str(seen) for secret in subject.secrets)


async def once(subject: Subject, act: Act) -> "str | Exception":
    """Send into this act, look at everything that holds always, then see that the next request is well again."""
    async with hostile(subject.good, [act]) as server, open_session() as session:
        exporter = subject.make(server.url, session)
        found = await send(exporter, subject.batch)
        check_reason(found, subject, exporter)
        assert len(server.begun) == 1, "sent more than once by itself"
        assert await send(exporter, subject.batch) == STORED
        assert len(server.begun) == 2
        assert server.requests[-1].method == "POST"
    return found


@subjects
@pytest.mark.parametrize("fault", UNKNOWN)
async def test_without_a_whole_answer_the_outcome_is_unknown(subject, fault):
    found = await once(subject, UNKNOWN[fault])
    assert type(found) is TryLater


@subjects
@pytest.mark.parametrize("fault", ODD)
async def test_odd_good_answers_are_stored_or_asked_again(subject, fault):
    found = await once(subject, ODD[fault])
    assert found == STORED or isinstance(found, TryLater)


@subjects
@pytest.mark.parametrize("status", STATUSES)
async def test_statuses(subject, status):
    found = await once(subject, answer(status, b'{"error": "what is wrong"}', Location="/elsewhere"))
    assert type(found) is STATUSES[status]
    assert str(status) in str(found)


@subjects
@pytest.mark.parametrize("status", [400, 401, 413, 500])
async def test_an_error_page_that_repeats_the_request_gives_nothing_away(subject, status):
    assert type(await once(subject, echo(status))) is STATUSES[status]


@subjects
async def test_a_long_and_dirty_reason_is_cut_and_cleaned(subject):
    found = await once(subject, answer(503, b"\x1b[31mred\r\nalert: forged line\0" + b"x" * 50_000))
    assert type(found) is TryLater


@subjects
@pytest.mark.parametrize("status", [429, 503, 401])
@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ({"Retry_After": "17"}, 17, 17),
        ({"Retry_After": "0"}, 0, 0),
        ({"Retry_After": "+20s"}, 17, 20),
        ({"Retry_After": "-20s"}, 0, 0),
        ({"Retry_After": "99999999999999"}, 3600, 3600),
        ({"Retry_After": "Fri, 31 Dec 9999 23:59:59 GMT"}, 3600, 3600),
        ({"Retry_After": "soon"}, None, None),
        ({"Retry_After": "-5"}, None, None),
        ({"Retry_After": "1.5"}, None, None),
        ({}, None, None),
    ],
)
async def test_retry_after_reaches_whoever_waits(subject, status, header, least, most):
    now = unix_ns() / NS
    if found := re.fullmatch(r"([+-]\d+)s", header.get("Retry_After", "")):
        header = {"Retry_After": formatdate(now + int(found[1]), usegmt=True)}
    told = await once(subject, answer(status, Date=formatdate(now, usegmt=True), **header))
    assert isinstance(told, TryLater)
    assert told.after_seconds is None if least is None else least <= told.after_seconds <= most


@subjects
async def test_nobody_there(subject):
    async with open_session() as session:
        exporter = subject.make(f"http://127.0.0.1:{free_port()}", session)
        found = await send(exporter, subject.batch)
        assert type(found) is TryLater
        check_reason(found, subject, exporter)


@subjects
async def test_a_name_that_does_not_resolve(subject):
    async with open_session() as session:
        exporter = subject.make("http://nobody.invalid:9", session)
        found = await send(exporter, subject.batch)
        assert type(found) is TryLater
        check_reason(found, subject, exporter)


@subjects
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(subject, status):
    async with hostile() as elsewhere:
        found = await once(subject, answer(status, Location=f"{elsewhere.url}/steal"))
        assert type(found) is Paused
        assert elsewhere.begun == []


@subjects
async def test_a_huge_answer_is_not_read(subject):
    async with hostile(subject.good, [acts.huge]) as server, open_session() as session:
        exporter = subject.make(server.url, session)
        await send(exporter, subject.batch)
        await server.until(lambda: server.in_flight == 0)
        assert server.bytes_sent < 16 << 20  # what lay in the sockets' buffers


@subjects
@pytest.mark.parametrize("too_many", [acts.two_answers, acts.late_answer])
async def test_an_answer_too_many_is_not_taken_for_the_next_one(subject, too_many):
    """Or an item would count as stored that nobody has seen."""
    async with hostile(subject.good, [too_many, answer(400)]) as server, open_session() as session:
        exporter = subject.make(server.url, session)
        assert type(await send(exporter, subject.batch)) is TryLater
        await server.until(lambda: server.in_flight == 0)
        assert await send(exporter, subject.batch) != STORED
        assert await send(exporter, subject.batch) == STORED


@subjects
async def test_100_continue_is_no_answer_yet(subject):
    assert await once(subject, acts.continue_first) == STORED


@subjects
async def test_connections_closed_between_requests_lose_and_repeat_nothing(subject):
    """The client may notice only when it sends: then it says so, and does not send by itself again."""
    async with (
        hostile(subject.good, [acts.closed_after_a_good_answer] * 6) as server,
        open_session() as session,
    ):
        exporter = subject.make(server.url, session)
        found = [await send(exporter, subject.batch) for _ in range(8)]
        assert found[0] == STORED
        assert found.count(STORED) == len(server.requests) >= 4
        assert all(one == STORED or type(one) is TryLater for one in found)


@subjects
async def test_what_is_cancelled_leaves_the_session_well(subject):
    async with hostile(subject.good, [acts.hang]) as server, open_session() as session:
        exporter = subject.make(server.url, session)
        async with anyio.create_task_group() as group:
            group.start_soon(exporter.send, subject.batch)
            await server.until(lambda: len(server.requests) == 1)
            group.cancel_scope.cancel()
        assert await send(exporter, subject.batch) == STORED


@subjects
async def test_what_it_is_called(subject):
    async with open_session() as session:
        name = subject.make("http://127.0.0.1:9", session).name
    assert subject.name in name
    assert not any(secret in name for secret in subject.secrets)
