"""The composition root of `engineroom run`: settings in, resources opened, stations wired, tasks nested.

Shutdown is the nesting read backwards: first the API (nothing more comes in), then the readers and rules, then the
last ticks are booked, then the last alerts go out, then the ledger and the folder are closed.
"""

import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import structlog
from anyio.abc import TaskGroup

from agent import __version__
from agent.api.adapters import HistoryQueries, runner_groups
from agent.api.app import build_api
from agent.api.doors import doors_of
from agent.api.probes import serve_probes
from agent.api.server import listen, serve
from agent.api.services import NodeServices
from agent.config import Settings
from agent.core.alerts.rulefile import KeptHistory, RuleGroup
from agent.core.board import Board
from agent.core.cost.prices import PriceBook
from agent.core.gpu_readings import GpuSnapshot
from agent.core.metrics.series import History
from agent.core.requests import RequestRecord
from agent.core.traffic import Traffic
from agent.core.workloads import Attribution
from agent.cost_stations import CostStations, check_money
from agent.datafolder import DataFolder, default_folder, machine_id
from agent.deliveries import Deliveries
from agent.doors.hosts import own_names
from agent.doors.numbers import door_samples
from agent.doors.tls import ServerTls
from agent.engine_stations import EngineStations
from agent.gpu_stations import DcgmServer, GpuStations
from agent.ledger.ledger import Ledger
from agent.ledger.postgresql import database_of
from agent.ledger.pricefile import load_prices
from agent.lifecycle import Health, every, record_success, rest_from_collecting, running, until_signal
from agent.runners.owners_settings import owners
from agent.runners.publish import Publisher
from agent.runners.rules import RuleRunner, load_rules
from agent.runners.self_samples import money_samples, rule_samples, slot_samples
from agent.settings import split_address
from exporters.prometheus import render

log = structlog.get_logger()

PUBLISH_SECONDS = 5.0


def rules_of(settings: Settings) -> tuple[RuleGroup, ...]:
    """The rule files, read and checked against the history that is kept. Raises `ConfigError`."""
    kept = KeptHistory(int(settings.storage.history_seconds * 1000), "storage.history_seconds")
    return load_rules(settings.rules.files, kept)


def tls_of(settings: Settings) -> ServerTls | None:
    """TLS of `api.listen`, if it is on. Raises `ConfigError`."""
    return ServerTls(settings.api.tls, key="api.tls") if settings.api.tls.enabled else None


def check_settings(settings: Settings) -> Iterator[str]:
    """What the settings lead to, in lines for people; reads the files they name. Raises `ConfigError`."""
    groups = rules_of(settings)
    yield f"rules: {sum(len(group.rules) for group in groups)} in {len(groups)} groups"
    prices = load_prices(settings.prices)
    yield from check_money(settings, prices)
    targets = settings.engines.targets
    doors_of(settings.api)
    tls = tls_of(settings)
    callers = "callers with credentials" if settings.api.auth.configured else "everybody who reaches it"
    yield f"api: {'https' if tls else 'http'}://{settings.api.listen}/ for {callers}"
    yield f"engines: {', '.join(t.name or t.url for t in targets)}" if targets else "engines: found by themselves"


async def run(settings: Settings, reader_command: Sequence[str] | None = None) -> None:
    """Run the agent until SIGTERM or SIGINT.

    `reader_command` replaces the GPU reader's process (simulation). Raises `ConfigError` for what a user can mend, at
    the start; a crash of a station later raises and ends the process.
    """
    groups, prices = rules_of(settings), load_prices(settings.prices)
    list(check_money(settings, prices))
    path = settings.storage.data_dir or default_folder(dict(os.environ), is_root=os.geteuid() == 0)
    api_host, api_port = split_address(settings.api.listen)
    with DataFolder(path) as folder, closing(listen(api_host, api_port, "api.listen")) as api_socket:
        node = settings.node.name or socket.gethostname()
        where = database_of(settings.storage.ledger, settings.storage.ledger_file) or folder.path / "ledger.sqlite"
        zone = settings.node.time_zone
        with closing(await Ledger.open(where, node, time_zone=zone, owners=owners(settings.tariff.owners))) as ledger:
            log.info("starting", version=__version__, node=node, node_id=folder.node_id(machine_id()), data=str(path))
            await Agent(settings, node, ledger, groups, prices, folder.path, reader_command).run(api_socket)
    log.info("stopped")


class Agent:
    """Every station of one node, built once and handed to each other."""

    def __init__(
        self,
        settings: Settings,
        node: str,
        ledger: Ledger,
        groups: Sequence[RuleGroup],
        prices: PriceBook | None,
        data: Path,
        reader_command: Sequence[str] | None,
    ) -> None:
        self.settings = settings
        self.node = node
        self.ledger = ledger
        self.prices = prices
        self.health = Health()
        self.clock = ledger.clock
        self.board = Board(node=node)
        storage = settings.storage
        self.history = History(retention_seconds=storage.history_seconds, max_bytes=storage.history_bytes)
        self.doors = doors_of(settings.api)
        self.tls = tls_of(settings)
        self.delivery = Deliveries(settings.exporters, node, self._page_url())
        webhooks = self.delivery.report_webhooks(settings.reports)
        self.cost = CostStations(settings, node, ledger, prices, self.board, data, self._on_ended, webhooks)
        self.settlement = self.cost.settlement
        self.rules = RuleRunner(groups, self.history, self.delivery.offer, node, settings.rules.hold_scale)
        self.publisher = Publisher(
            node=node,
            version=__version__,
            board=self.board,
            history=self.history,
            traffic=Traffic(),
            health=self.health,
            clock=self.clock,
            in_flight=self.settlement.in_flight,
            extra=(
                partial(rule_samples, node, self.rules),
                partial(money_samples, node, self.settlement, self.board),
                self.cost.samples,
                lambda: slot_samples(node, self.settlement.present_slots()),
                self.delivery.samples,
                lambda: self.gpus.samples(),
                lambda: self.engines.samples(),
                lambda: door_samples(node, "api", self.doors.errors(), self.tls),
            ),
        )
        self.gpus = GpuStations(
            settings.gpus,
            settings.workloads,
            self.board,
            self._on_gpus,
            self._on_workloads,
            reader_command,
        )
        dcgm = settings.exporters.dcgm
        hosts = frozenset(settings.api.allowed_hosts)
        self.dcgm = DcgmServer(dcgm, self.gpus, self.board, hosts) if dcgm.enabled else None
        own = (settings.api.listen, settings.api.probes_listen, *((dcgm.listen,) if dcgm.enabled else ()))
        own_ports = {split_address(address)[1] for address in own}
        self.engines = EngineStations(
            settings.engines,
            self.board,
            self.publisher,
            self.settlement,
            self.health,
            own_ports,
            settings.workloads.proc,
        )
        self._gpu_cycle = self.health.cycle("gpus", settings.gpus.interval_seconds, essential=settings.gpus.enabled)

    async def run(self, api_socket: socket.socket) -> None:
        """Start from the outside in, wait for a signal, stop from the inside out."""
        probes = split_address(self.settings.api.probes_listen)
        api = split_address(self.settings.api.listen)
        async with running() as outermost:
            outermost.start_soon(partial(serve_probes, self.health, *probes, key="api.probes_listen"))
            async with running() as deliveries:
                deliveries.start_soon(self.delivery.run)
                async with running() as stations:
                    self._start_stations(stations)
                    async with running() as inside:
                        if self.dcgm is not None:
                            self.dcgm.start(inside)
                        app = build_api(self.services(), self.doors)
                        inside.start_soon(
                            partial(serve, app, *api, bound=api_socket, limits=self.doors.limits, tls=self.tls)
                        )
                        rest_from_collecting()
                        await until_signal(self.health)
                await self.cost.book_the_rest()

    def _start_stations(self, group: TaskGroup) -> None:
        def pulse(name: str, seconds: float, step: Callable[[], Awaitable[None]], *, essential: bool) -> None:
            group.start_soon(partial(every, name, seconds, step, self.health, essential=essential))

        self.gpus.start(group)
        self.engines.start(group)
        self.cost.start(pulse)
        pulse("publish", PUBLISH_SECONDS, self.publisher.step, essential=False)
        pulse("rules", self.settings.rules.interval_seconds, self._evaluate_rules, essential=True)

    async def _evaluate_rules(self) -> None:
        await self.rules.step(self.publisher.now_ms())

    def _on_gpus(self, snapshot: GpuSnapshot) -> None:
        if snapshot.driver != "starting":
            self._gpu_cycle.last_seconds = self.gpus.reader.last_tick_seconds
            record_success("gpus", self._gpu_cycle)
        self.publisher.on_gpus(snapshot)
        self.settlement.observe_gpus(snapshot)

    def _on_workloads(self, attribution: Attribution) -> None:
        self.settlement.observe_workloads(attribution)
        self.engines.on_workloads(attribution)

    def _on_ended(self, record: RequestRecord) -> None:
        self.publisher.on_ended(self.settlement.engine_of(record.upstream), record)

    def _page_url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.settings.api.listen}/"

    def services(self) -> NodeServices:
        """What the API reads of this node."""
        prices, scale = self.settings.prices, self.settings.rules.hold_scale
        return NodeServices(
            node=self.node,
            version=__version__,
            board=self.board,
            health=self.health,
            queries=HistoryQueries(self.history),
            ledger=self.ledger,
            accept=self.settlement.accept,
            lease=self.cost.quotas.answer,
            render_metrics=lambda open_metrics: render(self.publisher.samples(), open_metrics=open_metrics),
            rule_groups=runner_groups(self.rules, self.settings.rules.interval_seconds),
            prices=self.settlement.prices_in_force,
            price_source=str(prices.file or "the configuration file") if self.prices else "",
            deliveries=self.delivery.views,
            slots=self.settlement.present_slots,
            features=lambda: (*self.gpus.features(), *self.engines.features(), *self.cost.features()),
            refused=self.engines.refused,
            hold_scale=f"Rules hold {scale:g} times as long as their file says." if scale != 1 else "",
            hosts=frozenset(self.settings.api.allowed_hosts) | own_names(self.node),
            unix_ns=self.clock.now_ns,
            time_zone=self.settings.node.time_zone,
            focus=self.settings.reports.focus.to_names(),
            standings=lambda: self.cost.budgets.standings,
            budgets=self.cost.budget_figures,
            tariff=self.cost.work.views,
            variance=self.cost.invoices.variance,
            savings=self.cost.savings,
        )
