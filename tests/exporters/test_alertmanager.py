"""The payload by tables, the answers against a small server, the whole against a real Alertmanager."""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path

import aiohttp
import anyio
import msgspec
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from agent.clock import NS, unix_ns
from agent.core.alerts.alert import Alert, AlertState
from agent.core.ports import Paused, Rejected, TooLarge, TryLater
from agent.delivery.latest import LatestDelivery
from exporters.alertmanager import AlertmanagerExporter, payload, rfc3339
from tests.support.alertmanager import alertmanagers, eventually
from tests.support.components import need

NOW = 1_795_424_121_816 * 1_000_000
HOLD = 120 * NS


def alert(state: AlertState = AlertState.FIRING, name: str = "GPUTemperatureHigh", **changes: object) -> Alert:
    made = Alert(
        rule=name,
        group="gpu",
        labels=(("alertname", name), ("gpu", "2"), ("node", "n1")),
        annotations=(("summary", "GPU 2 at 88.3 °C"),),
        state=state,
        value=88.3,
        active_at_ns=NOW - 150 * NS,
        fired_at_ns=NOW - 30 * NS,
        resolved_at_ns=NOW if state is AlertState.RESOLVED else None,
    )
    return msgspec.structs.replace(made, **changes)


def test_a_firing_alert():
    assert payload(alert(), NOW, HOLD) == {
        "labels": {"alertname": "GPUTemperatureHigh", "gpu": "2", "node": "n1"},
        "annotations": {"summary": "GPU 2 at 88.3 °C"},
        "startsAt": "2026-11-23T08:54:51.816Z",
        "endsAt": "2026-11-23T08:57:21.816Z",
    }


@pytest.mark.parametrize(
    ("changes", "starts", "ends"),
    [
        ({"state": AlertState.RESOLVED, "resolved_at_ns": NOW - NS}, NOW - 30 * NS, NOW - NS),
        # The wall clock went back after it fired: nothing begins in the future, nothing ends before it began.
        ({"fired_at_ns": NOW + 3600 * NS}, NOW, NOW + HOLD),
        ({"state": AlertState.RESOLVED, "fired_at_ns": NOW, "resolved_at_ns": NOW - 3600 * NS}, NOW - NS, NOW - NS),
        # It went forward and came back: the end is not ahead of now either, or the alert would go on.
        ({"state": AlertState.RESOLVED, "resolved_at_ns": NOW + 3600 * NS}, NOW - 30 * NS, NOW - NS),
        # Just now: a second earlier, so that it is surely past by their clock too.
        ({"state": AlertState.RESOLVED}, NOW - 30 * NS, NOW - NS),
    ],
)
def test_instants_are_clamped(changes, starts, ends):
    made = payload(alert(**changes), NOW, HOLD)
    assert (made["startsAt"], made["endsAt"]) == (rfc3339(starts), rfc3339(ends))


def test_an_end_is_past_for_those_whose_clock_is_behind():
    made = payload(alert(AlertState.RESOLVED), NOW, HOLD, ahead_ns=3 * NS)
    assert made["endsAt"] == rfc3339(NOW - 4 * NS)


@given(st.integers(-10_000, 10_000), st.integers(-10_000, 10_000), st.integers(0, 5000), st.sampled_from(AlertState))
def test_no_clock_makes_an_end_before_its_start(fired_ms, resolved_ms, ahead_ms, state):
    one = alert(state, fired_at_ns=NOW + fired_ms * 1_000_000, resolved_at_ns=NOW + resolved_ms * 1_000_000)
    made = payload(one, NOW, HOLD, ahead_ns=ahead_ms * 1_000_000)
    assert made["startsAt"] <= made["endsAt"]
    assert made["startsAt"] <= rfc3339(NOW)
    assert (made["endsAt"] <= rfc3339(NOW - ahead_ms * 1_000_000)) == (state is AlertState.RESOLVED)


def test_texts_are_made_acceptable():
    made = payload(
        alert(labels=(("alertname", "A"), ("bad-name", "x"), ("1st", "y"), ("gone", ""), ("odd", "a\ud800b"))),
        NOW,
        HOLD,
    )
    assert made["labels"] == {"alertname": "A", "bad_name": "x", "_1st": "y", "odd": "a?b"}


@given(st.integers(0, 4_000_000_000_000))
def test_rfc3339_cuts_to_milliseconds(ms):
    from datetime import datetime

    text = rfc3339(ms * 1_000_000 + 999_999)
    assert text.endswith("Z")
    assert len(text) == 24
    assert round(datetime.fromisoformat(text).timestamp() * 1000) == ms


@asynccontextmanager
async def server(answer: Callable[[list[dict]], web.Response]) -> AsyncIterator[str]:
    """A server whose `answer` makes the response from the posted alerts."""

    async def handle(request: web.Request) -> web.Response:
        return answer(json.loads(await request.read()))

    app = web.Application()
    app.router.add_post("/prefix/api/v2/alerts", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/prefix"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("status", "headers", "error", "after"),
    [
        (400, {}, Rejected, None),
        (422, {}, Rejected, None),
        (413, {}, TooLarge, None),
        (401, {}, Paused, None),
        (429, {"Retry-After": "17"}, TryLater, 17.0),
        (408, {}, TryLater, None),
        (425, {}, TryLater, None),
        (500, {}, TryLater, None),
        (503, {"Retry-After": "3"}, TryLater, 3.0),
        (404, {}, Paused, None),
        (302, {"Location": "/elsewhere"}, Paused, None),
    ],
)
async def test_answers_become_errors_of_the_port(status, headers, error, after):
    async with (
        server(lambda _: web.Response(status=status, headers=headers, text='"what is wrong"')) as url,
        aiohttp.ClientSession() as session,
    ):
        exporter = AlertmanagerExporter(url, session, unix_ns)
        with pytest.raises(error, match=f"HTTP {status}: .*what is wrong") as caught:
            await exporter.send([alert()])
    assert type(caught.value) is error
    assert getattr(caught.value, "after_seconds", None) == after


async def test_a_web_page_is_not_alertmanagers_answer():
    async with (
        server(lambda _: web.Response(text="<html>Welcome to nginx", content_type="text/html")) as url,
        aiohttp.ClientSession() as session,
    ):
        with pytest.raises(Paused, match="web page"):
            await AlertmanagerExporter(url, session, unix_ns).send([alert()])


async def test_nobody_there_and_no_answer_in_time():
    async with aiohttp.ClientSession() as session:
        with pytest.raises(TryLater, match="Connect"):
            await AlertmanagerExporter("http://127.0.0.1:9", session, unix_ns).send([alert()])
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as silent:
            port = silent.extra(anyio.abc.SocketAttribute.local_port)
            exporter = AlertmanagerExporter(f"http://127.0.0.1:{port}", session, unix_ns, timeout_seconds=0.1)
            with pytest.raises(TryLater, match="Timeout"):
                await exporter.send([alert()])


async def test_a_differing_clock_is_measured_and_corrected_at_once():
    """Their clock is an hour ahead: without correction every alert would be over on arrival."""
    seen = []

    def answer(alerts):
        seen.append(alerts[0])
        return web.Response(headers={"Date": formatdate(NOW / NS + 3600, usegmt=True)})

    async with server(answer) as url, aiohttp.ClientSession() as session:
        exporter = AlertmanagerExporter(url, session, lambda: NOW)
        await exporter.send([alert()])
    assert exporter.skew_seconds == pytest.approx(3600, abs=1)
    assert [a["endsAt"][:16] for a in seen] == ["2026-11-23T08:57", "2026-11-23T09:57"]


@pytest.mark.parametrize(
    ("given_url", "sent"), [("http://n1:9440/#alerts", "http://n1:9440/#alerts"), ("n1:9440", None), ("http://[", None)]
)
async def test_a_generator_url_that_would_be_refused_is_left_out(given_url, sent):
    seen = []

    def answer(alerts):
        seen.append(alerts[0])
        return web.Response()

    async with server(answer) as url, aiohttp.ClientSession() as session:
        await AlertmanagerExporter(url, session, unix_ns, generator_url=given_url).send([alert()])
    assert seen[0].get("generatorURL") == sent


async def test_a_date_that_is_none_measures_nothing():
    async with server(lambda _: web.Response(headers={"Date": "yesterday"})) as url, aiohttp.ClientSession() as session:
        exporter = AlertmanagerExporter(url, session, unix_ns)
        await exporter.send([alert()])
    assert exporter.skew_seconds is None


def deliverer(exporters: Sequence[AlertmanagerExporter], resend: float = 30.0) -> LatestDelivery[Alert]:
    return LatestDelivery(
        exporters,
        state_of=lambda a: (a.closed, a.fired_at_ns),
        is_closed=lambda a: a.closed,
        resend_seconds=resend,
        jitter=lambda: 0.1,
    )


def now_alert(state: AlertState = AlertState.FIRING) -> Alert:
    at = unix_ns()
    return alert(state, fired_at_ns=at - NS, resolved_at_ns=at if state is AlertState.RESOLVED else None)


@pytest.mark.component("prometheus-alertmanager")
async def test_a_real_alertmanager_through_kills(tmp_path: Path):
    program = need("prometheus-alertmanager")
    with alertmanagers(program, tmp_path) as (manager,):
        async with aiohttp.ClientSession() as session, anyio.create_task_group() as group:
            delivery = deliverer([AlertmanagerExporter(manager.url, session, unix_ns)], resend=0.3)
            group.start_soon(delivery.run)

            # Not there yet: the alert waits and arrives with its own start.
            fired = now_alert()
            delivery.offer(fired.fingerprint, fired)
            manager.start()
            await manager.ready()
            (found,) = await manager.until(lambda alerts: len(alerts) == 1)
            assert found["labels"] == dict(fired.labels)
            assert found["startsAt"] == rfc3339(fired.fired_at_ns or 0)
            assert found["status"]["state"] == "active"
            assert found["fingerprint"] == fired.fingerprint

            # Killed while it fires: alerts live in its memory only, so the repeats bring it back.
            manager.kill()
            manager.start()
            await manager.ready()
            await manager.until(lambda alerts: [a["fingerprint"] for a in alerts] == [fired.fingerprint])

            # Killed while it resolves, with another one firing: the resolved one must not be there afterwards.
            manager.kill()
            resolved = now_alert(AlertState.RESOLVED)
            delivery.offer(resolved.fingerprint, resolved)
            other = msgspec.structs.replace(now_alert(), labels=(("alertname", "Other"),))
            delivery.offer(other.fingerprint, other)
            manager.start()
            await manager.ready()
            await manager.until(lambda alerts: [a["fingerprint"] for a in alerts] == [other.fingerprint])

            # And without a kill in between.
            other = msgspec.structs.replace(other, state=AlertState.RESOLVED, resolved_at_ns=unix_ns())
            delivery.offer(other.fingerprint, other)
            await manager.until(lambda alerts: alerts == [])
            group.cancel_scope.cancel()


@pytest.mark.component("prometheus-alertmanager")
@pytest.mark.parametrize("seconds", [-3600, 3600, -4, 4])
async def test_a_wrong_clock_on_our_side_loses_nothing(seconds, tmp_path: Path):
    """Behind, every alert would arrive as long resolved; ahead, a resolved one would stay for an hour."""

    def wrong_ns() -> int:
        return unix_ns() + seconds * NS

    with alertmanagers(need("prometheus-alertmanager"), tmp_path) as (manager,):
        manager.start()
        await manager.ready()
        async with aiohttp.ClientSession() as session:
            exporter = AlertmanagerExporter(manager.url, session, wrong_ns)
            fired = alert(fired_at_ns=wrong_ns() - NS)
            await exporter.send([fired])
            await manager.until(lambda alerts: len(alerts) == 1)
            over = msgspec.structs.replace(fired, state=AlertState.RESOLVED, resolved_at_ns=wrong_ns())
            await exporter.send([over])
            await manager.until(lambda alerts: alerts == [], seconds=5)
            assert exporter.skew_seconds == pytest.approx(-seconds, abs=2)


@pytest.mark.component("prometheus-alertmanager")
async def test_two_alertmanagers_of_which_one_is_down(tmp_path: Path):
    program = need("prometheus-alertmanager")
    with alertmanagers(program, tmp_path, 2) as (up, down):
        up.start()
        await up.ready()
        async with aiohttp.ClientSession() as session, anyio.create_task_group() as group:
            delivery = deliverer([AlertmanagerExporter(m.url, session, unix_ns) for m in (up, down)], resend=0.3)
            group.start_soon(delivery.run)
            fired = now_alert()
            delivery.offer(fired.fingerprint, fired)
            await up.until(lambda alerts: len(alerts) == 1)
            assert delivery.pending() == {f"alertmanager {up.url}": 0, f"alertmanager {down.url}": 1}
            down.start()
            await down.ready()
            await down.until(lambda alerts: len(alerts) == 1)

            # The resolve reaches one; the other is told when it is back, each by its own account.
            down.kill()
            resolved = now_alert(AlertState.RESOLVED)
            delivery.offer(resolved.fingerprint, resolved)
            await up.until(lambda alerts: alerts == [])
            assert delivery.pending()[f"alertmanager {down.url}"] == 1
            down.start()
            await down.ready()
            await eventually(lambda: not delivery.pending()[f"alertmanager {down.url}"])
            assert await down.alerts() == []
            group.cancel_scope.cancel()


@pytest.mark.component("prometheus-alertmanager")
async def test_one_bad_alert_does_not_take_the_others_along(tmp_path: Path):
    """An alert without labels is refused with 400 by Alertmanager; the batch is halved until it stands alone."""
    program = need("prometheus-alertmanager")
    with alertmanagers(program, tmp_path) as (manager,):
        manager.start()
        await manager.ready()
        async with aiohttp.ClientSession() as session, anyio.create_task_group() as group:
            exporter = AlertmanagerExporter(manager.url, session, unix_ns)
            delivery = deliverer([exporter])
            for number in range(9):
                one = msgspec.structs.replace(now_alert(), labels=(("alertname", f"A{number}"),))
                delivery.offer(one.fingerprint, one)
            bad = msgspec.structs.replace(now_alert(), labels=())
            delivery.offer(bad.fingerprint, bad)
            group.start_soon(delivery.run)
            await manager.until(lambda alerts: len(alerts) == 9)
            await eventually(lambda: delivery.counts()[exporter.name].rejected == 1)
            assert delivery.counts()[exporter.name].delivered == 9
            assert delivery.pending()[exporter.name] == 1
            group.cancel_scope.cancel()


@pytest.mark.component("prometheus-alertmanager")
async def test_what_is_pending_is_handed_over_at_shutdown(tmp_path: Path):
    program = need("prometheus-alertmanager")
    with alertmanagers(program, tmp_path) as (manager,):
        manager.start()
        await manager.ready()
        async with aiohttp.ClientSession() as session:
            delivery = deliverer([AlertmanagerExporter(manager.url, session, unix_ns)])
            fired = now_alert()
            async with anyio.create_task_group() as group:
                group.start_soon(delivery.run)
                await anyio.lowlevel.checkpoint()
                delivery.offer(fired.fingerprint, fired)
                group.cancel_scope.cancel()
            assert len(await manager.alerts()) == 1
