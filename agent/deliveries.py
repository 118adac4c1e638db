"""The alerts' part of the composition root: settings in, every Alertmanager and webhook kept at the latest state."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import anyio

from agent.api.services import DeliveryView
from agent.clock import unix_ns
from agent.core.alerts.alert import Alert, AlertState
from agent.core.cost.report_forms import ReportNews
from agent.core.metrics.samples import Sample
from agent.core.ports import ConfigError, Exporter
from agent.delivery.latest import LatestDelivery
from agent.delivery.settings import AlertsDeliverySettings
from agent.runners.reports_settings import ReportsSettings
from agent.runners.self_samples import delivery_samples
from exporters.alertmanager import AlertmanagerExporter
from exporters.post import open_session
from exporters.report_webhook import ReportWebhook
from exporters.webhook import WebhookExporter


class Deliveries:
    """Alerts of this node to every Alertmanager and webhook. Made inside the event loop; `run` closes its session.

    Raises `ConfigError` when a file with an address or a secret cannot be read.
    """

    def __init__(self, settings: AlertsDeliverySettings, node: str, page_url: str) -> None:
        secrets = [
            (
                hook.url or _secret(hook.url_file, f"exporters.webhooks.{number}.url_file"),
                _secret(hook.secret_file, f"exporters.webhooks.{number}.secret_file").encode(),
            )
            for number, hook in enumerate(settings.webhooks)
        ]
        self._node = node
        self._session = open_session()
        managers = [
            AlertmanagerExporter(
                url,
                self._session,
                unix_ns,
                hold_seconds=4 * settings.resend_seconds,
                timeout_seconds=settings.timeout_seconds,
                generator_url=page_url,
            )
            for url in settings.alertmanagers
        ]
        hooks = [
            WebhookExporter(
                hook.name,
                address,
                self._session,
                secret=secret,
                external_url=page_url,
                timeout_seconds=settings.timeout_seconds,
            )
            for hook, (address, secret) in zip(settings.webhooks, secrets, strict=True)
        ]
        # Alertmanagers forget what is not repeated; people behind a webhook do not.
        self._lanes = (
            _latest(managers, settings.resend_seconds),
            _latest(hooks, settings.webhook_repeat_seconds),
        )

    def report_webhooks(self, reports: ReportsSettings) -> dict[str, Exporter[ReportNews]]:
        """Schedule -> who is sent its reports. Raises `ConfigError` for a file that cannot be read."""
        found: dict[str, Exporter[ReportNews]] = {}
        for number, schedule in enumerate(reports.schedules):
            hook, key = schedule.webhook, f"reports.schedules.{number}.webhook"
            if hook is not None:
                found[schedule.name] = ReportWebhook(
                    schedule.name,
                    hook.url or _secret(hook.url_file, f"{key}.url_file"),
                    self._session,
                    secret=_secret(hook.secret_file, f"{key}.secret_file").encode(),
                    authorization=_secret(hook.authorization_file, f"{key}.authorization_file"),
                )
        return found

    def offer(self, alerts: Sequence[Alert], _now_ns: int) -> None:
        """The newest state of each alert. Never waits."""
        for alert in alerts:
            for lane in self._lanes:
                lane.offer(alert.fingerprint, alert)

    async def run(self) -> None:
        """Deliver until cancelled, then once more for what is unconfirmed."""
        async with self._session, anyio.create_task_group() as group:
            for lane in self._lanes:
                group.start_soon(lane.run)

    def samples(self) -> Iterator[Sample]:
        """For /metrics."""
        for lane in self._lanes:
            yield from delivery_samples(self._node, lane.counts(), lane.pending())

    def views(self) -> list[DeliveryView]:
        """For the page."""
        return [
            DeliveryView(
                destination=name,
                ok=not count.failing if count.delivered or count.failing else None,
                reason=count.failing,
                pending=lane.pending()[name],
                delivered=count.delivered,
                rejected=count.rejected,
            )
            for lane in self._lanes
            for name, count in lane.counts().items()
        ]


def _latest(destinations: Sequence[Exporter[Alert]], repeat_seconds: float) -> LatestDelivery[Alert]:
    return LatestDelivery(
        destinations,
        state_of=lambda alert: (alert.state, alert.fired_at_ns),
        is_closed=lambda alert: alert.state is AlertState.RESOLVED,
        resend_seconds=repeat_seconds,
    )


def _secret(file: Path | None, key: str) -> str:
    """The content of a secret's file, without the newline at its end; empty when there is no file."""
    if file is None:
        return ""
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(key, f"{file} cannot be read: {reason}") from error
