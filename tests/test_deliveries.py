from pathlib import Path

import anyio
import pytest

from agent.core.alerts.alert import Alert, AlertState
from agent.core.ports import ConfigError
from agent.deliveries import Deliveries
from agent.delivery.settings import AlertsDeliverySettings, WebhookSettings
from agent.lifecycle import running
from tests.support.alertmanager import eventually
from tests.support.http import answer, told_server

ALERT = Alert(
    rule="GPUTemperatureHigh",
    group="gpu",
    labels=(("alertname", "GPUTemperatureHigh"), ("gpu", "0")),
    annotations=(("summary", "hot"),),
    state=AlertState.FIRING,
    value=93.0,
    active_at_ns=1,
    fired_at_ns=2,
)


async def test_every_destination_gets_the_alert_on_its_own_account(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hunter2\n")
    async with told_server({"/api/v2/alerts": answer(b""), "/hook": answer(b"")}) as server:
        (tmp_path / "address").write_text(server.url + "/hook\n")
        settings = AlertsDeliverySettings(
            alertmanagers=(server.url, "http://127.0.0.1:9"),
            webhooks=(WebhookSettings(name="pager", url_file=tmp_path / "address", secret_file=tmp_path / "secret"),),
        )
        deliveries = Deliveries(settings, "n", "http://n:9440/")
        deliveries.offer([ALERT], 3)
        with anyio.fail_after(10):
            async with running() as group:
                group.start_soon(deliveries.run)
                await eventually(lambda: all(view.ok is not None for view in deliveries.views()))
    views = {view.destination: view for view in deliveries.views()}
    assert views[f"alertmanager {server.url}"].delivered == 1
    assert views["webhook pager"].delivered == 1
    assert views["alertmanager http://127.0.0.1:9"].ok is False
    assert views["alertmanager http://127.0.0.1:9"].pending == 1
    assert any("X-Engineroom-Signature: sha256=" in head for head in server.heads)


async def test_a_missing_secret_is_named_with_its_key(tmp_path: Path) -> None:
    hook = WebhookSettings(name="pager", url="http://127.0.0.1:9", secret_file=tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"exporters\.webhooks\.0\.secret_file: .*cannot be read: No such"):
        Deliveries(AlertsDeliverySettings(webhooks=(hook,)), "n", "")


def test_a_webhook_has_one_address() -> None:
    with pytest.raises(ValueError, match="exactly one of `url` and `url_file`"):
        WebhookSettings(name="pager")
