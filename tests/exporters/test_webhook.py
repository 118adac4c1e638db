"""The body against one captured from Alertmanager; the rest against a small server."""

import hashlib
import hmac
import json
import re
from pathlib import Path

import aiohttp
import anyio
import msgspec
import pytest
from aiohttp import web

from agent.clock import NS, unix_ns
from agent.core.alerts.alert import Alert, AlertState
from agent.core.ports import Paused, Rejected, TooLarge, TryLater
from agent.delivery.latest import LatestDelivery
from exporters.alertmanager import AlertmanagerExporter
from exporters.webhook import WebhookExporter, idempotency_key, webhook_body
from tests.support.alertmanager import alertmanagers, eventually
from tests.support.components import need

START = 1_795_424_121_816_000_000


def alert(state: AlertState = AlertState.FIRING, name: str = "A") -> Alert:
    return Alert(
        rule=name,
        group="g",
        labels=(("alertname", name), ("node", "n1")),
        annotations=(("summary", "s"),),
        state=state,
        value=1.0,
        active_at_ns=START - NS,
        fired_at_ns=START,
        resolved_at_ns=START + 5 * NS + 1 if state is AlertState.RESOLVED else None,
    )


def test_the_instants_of_a_body():
    (firing,) = webhook_body(alert())["alerts"]
    assert (firing["startsAt"], firing["endsAt"]) == ("2026-11-23T08:55:21.816Z", "0001-01-01T00:00:00Z")
    (resolved,) = webhook_body(alert(AlertState.RESOLVED))["alerts"]
    assert (resolved["status"], resolved["endsAt"]) == ("resolved", "2026-11-23T08:55:26.816000001Z")


def test_the_key_is_the_same_for_repeats_of_the_same_news_only():
    assert idempotency_key(alert()) == idempotency_key(msgspec.structs.replace(alert(), value=2.0, annotations=()))
    assert idempotency_key(alert()) != idempotency_key(alert(AlertState.RESOLVED))
    assert idempotency_key(alert()) != idempotency_key(msgspec.structs.replace(alert(), fired_at_ns=START + 1))


class Receiver:
    """Keeps what it gets; answers the statuses in line, then 200."""

    def __init__(self, *statuses: int) -> None:
        self.got: list[tuple[dict, bytes, dict]] = []
        self.arrived = anyio.Event()
        self.url = ""
        self._statuses = list(statuses)

    async def __aenter__(self) -> "Receiver":
        app = web.Application()
        app.router.add_post("/token", self._handle)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/token"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.got.append((dict(request.headers), body, json.loads(body)))
        self.arrived.set()
        return web.Response(status=self._statuses.pop(0) if self._statuses else 200, headers={"Retry-After": "4"})


@pytest.mark.component("prometheus-alertmanager")
async def test_the_body_has_the_shape_of_alertmanagers_own(tmp_path: Path):
    """The same alert through a real Alertmanager and from us: same fields, same values but for what is ours to say."""
    program = need("prometheus-alertmanager")
    async with Receiver() as receiver, aiohttp.ClientSession() as session:
        with alertmanagers(program, tmp_path) as (manager,):
            (tmp_path / "alertmanager-0" / "config.yaml").write_text(
                "route: {receiver: hook, group_wait: 0s, group_by: [alertname]}\n"
                f"receivers: [{{name: hook, webhook_configs: [{{url: '{receiver.url}'}}]}}]\n"
            )
            manager.start()
            await manager.ready()
            one = msgspec.structs.replace(alert(), fired_at_ns=unix_ns() // 1_000_000 * 1_000_000)
            await AlertmanagerExporter(manager.url, session, unix_ns).send([one])
            with anyio.fail_after(20):
                await receiver.arrived.wait()
            theirs = receiver.got[0][2]
    ours = json.loads(json.dumps(webhook_body(one)))
    own_words = {"receiver", "externalURL"}
    assert {k: v for k, v in ours.items() if k not in own_words} == {
        k: v for k, v in theirs.items() if k not in own_words
    }
    assert own_words <= set(theirs)


async def test_each_alert_is_posted_once_and_signed():
    async with Receiver() as receiver, aiohttp.ClientSession() as session:
        await WebhookExporter("pager", receiver.url, session, secret=b"s3").send([alert(name="A"), alert(name="B")])
    assert [body["groupLabels"]["alertname"] for _, _, body in receiver.got] == ["A", "B"]
    headers, raw, _ = receiver.got[0]
    assert headers["X-Engineroom-Signature"] == "sha256=" + hmac.new(b"s3", raw, hashlib.sha256).hexdigest()
    assert headers["Idempotency-Key"] == idempotency_key(alert(name="A"))


async def test_after_a_failure_half_way_only_the_rest_is_wanted_later():
    async with Receiver(200, 400, 503) as receiver, aiohttp.ClientSession() as session:
        exporter = WebhookExporter("pager", receiver.url, session)
        stored, refused, *later = await exporter.send([alert(name=name) for name in "ABCD"])
    assert stored == "delivered"
    assert isinstance(refused, Rejected)
    assert [type(verdict) for verdict in later] == [TryLater, TryLater]
    assert later[0].after_seconds == 4.0
    assert [body["groupLabels"]["alertname"] for _, _, body in receiver.got] == ["A", "B", "C"]


async def test_through_delivery_each_alert_arrives_once():
    """The batch fails half way, twice; what went well is not posted again."""
    async with (
        Receiver(200, 503, 200, 413, 503) as receiver,
        aiohttp.ClientSession() as session,
        anyio.create_task_group() as group,
    ):
        delivery = LatestDelivery(
            [WebhookExporter("pager", receiver.url, session)],
            state_of=lambda a: a.state,
            is_closed=lambda a: a.closed,
            jitter=lambda: 0.01,
        )
        for name in "ABCD":
            delivery.offer(name, alert(name=name))
        group.start_soon(delivery.run)
        (counts,) = delivery.counts().values()
        await eventually(lambda: counts.delivered == 3 and counts.rejected == 1)
        group.cancel_scope.cancel()
    assert [body["groupLabels"]["alertname"] for _, _, body in receiver.got] == ["A", "B", "B", "C", "D", "D"]


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, Rejected), (404, Paused), (401, Paused), (408, TryLater), (413, TooLarge), (429, TryLater), (302, Paused)],
)
async def test_answers(status, error):
    async with Receiver(status) as receiver, aiohttp.ClientSession() as session:
        with pytest.raises(error, match=f"HTTP {status}"):
            await WebhookExporter("pager", receiver.url, session).send([alert()])


async def test_the_address_stays_out_of_messages():
    async with aiohttp.ClientSession() as session:
        exporter = WebhookExporter("pager", "http://127.0.0.1:9/very-secret", session)
        with pytest.raises(TryLater) as caught:
            await exporter.send([alert()])
    assert not re.search("secret|127", str(caught.value) + exporter.name)
