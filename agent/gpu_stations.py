"""Everything about the GPUs of a node but the money: settings in; readings, errors, holders and users out.

Part of the composition root: the reader of NVML, the kernel log, the workload watch, the ledger of errors, and the page
that stands in for dcgm-exporter.
"""

import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import structlog
from anyio.abc import TaskGroup

from agent.api.dcgm import build_dcgm, dcgm_doors
from agent.api.dcgm_settings import DcgmSettings
from agent.api.server import listen, serve
from agent.clock import unix_ns
from agent.collect.gpu.settings import GpuSettings
from agent.collect.gpu.supervisor import GpuReader
from agent.collect.kernel_log import KernelLog
from agent.collect.workloads.settings import WorkloadSettings
from agent.collect.workloads.watch import WorkloadWatch
from agent.core.attribution.samples import attribution_samples
from agent.core.board import Board
from agent.core.gpu_readings import GpuSnapshot
from agent.core.metrics.samples import Sample
from agent.core.workloads import Attribution, Feature
from agent.doors.hosts import own_names
from agent.doors.tls import ServerTls
from agent.runners.xids import XidDesk
from agent.settings import split_address
from exporters.dcgm import DcgmOptions, DcgmPage

log = structlog.get_logger()

LISTEN_KEY = "exporters.dcgm.listen"


class GpuStations:
    """Publishes each `GpuSnapshot` through `on_gpus`, after its errors were counted, and each `Attribution` through
    `on_workloads`. The board's `workloads` is written here."""

    def __init__(
        self,
        settings: GpuSettings,
        workloads: WorkloadSettings,
        board: Board,
        on_gpus: Callable[[GpuSnapshot], None],
        on_workloads: Callable[[Attribution], None],
        reader_command: Sequence[str] | None,
    ) -> None:
        self.settings = settings
        self.observers: list[Callable[[GpuSnapshot], None]] = []
        self._board = board
        self._on_gpus = on_gpus
        self._on_workloads = on_workloads
        self._leaving = False
        self.xids = XidDesk(settings.interval_seconds, lambda: board.workloads)
        self.reader = GpuReader(settings, self._snapshot, reader_command)
        self.workloads = WorkloadWatch(workloads, self._attributed)
        log = settings.kernel_log
        self.kernel_log = KernelLog(log, self.xids.on_kernel, self.xids.on_history) if log.enabled else None

    def start(self, group: TaskGroup) -> None:
        """Start reading in `group`; nothing where `gpus.enabled` is off."""
        if not self.settings.enabled:
            return
        group.start_soon(self.reader.run)
        group.start_soon(self.workloads.run)
        if self.kernel_log is not None:
            group.start_soon(self.kernel_log.run)

    def _snapshot(self, snapshot: GpuSnapshot) -> None:
        self.xids.on_gpus(snapshot)
        self._on_gpus(snapshot)
        self.workloads.see(snapshot)
        for observe in self.observers:
            observe(snapshot)
        if self.settings.stop_when_access_is_lost and self.reader.access_lost and not self._leaving:
            self._leaving = True
            log.error("agent_stops", reason="this container has lost its GPUs; it must be made anew to get them back")
            os.kill(os.getpid(), signal.SIGTERM)  # the way in which everything else ends, too: nothing is lost

    def _attributed(self, attribution: Attribution) -> None:
        self._board.workloads = attribution
        self._on_workloads(attribution)

    @property
    def errors_are_heard(self) -> bool:
        """Whether an Xid would be noticed."""
        watched = self._board.gpus is not None and self._board.gpus.events_watched is True
        return watched or (self.kernel_log is not None and self.kernel_log.feature.enabled)

    def samples(self) -> Iterator[Sample]:
        """Errors, holders and users, for /metrics and the history."""
        if not self.settings.enabled:
            return
        log, board = self.kernel_log, self._board
        yield from self.xids.samples(board.node, log.feature if log else None, log.lost_lines if log else 0)
        if board.gpus is not None and board.workloads is not None:
            yield from attribution_samples(board.node, board.gpus, board.workloads, self.workloads.idle_watts)

    def features(self) -> tuple[Feature, ...]:
        """What `doctor` cannot read off the board."""
        return (self.kernel_log.feature,) if self.kernel_log is not None and self.settings.enabled else ()


class DcgmServer:
    """The page under dcgm-exporter's names, on a port of its own. Made only where it is switched on."""

    def __init__(self, settings: DcgmSettings, stations: GpuStations, board: Board, hosts: frozenset[str]) -> None:
        """Binds the address. Raises `ConfigError` for an address that is taken and for files that cannot be read."""
        self._settings = settings
        self._stations = stations
        self._board = board
        self._hosts = hosts | own_names(board.node)
        self._doors = dcgm_doors(settings)
        self._tls = ServerTls(settings.tls, key="exporters.dcgm.tls") if settings.tls.enabled else None
        self.page = DcgmPage(
            DcgmOptions(
                node=settings.node_name or board.node,
                profile=settings.profile,
                hostname_label=settings.hostname_label,
                metrics=settings.metrics,
                utilization_as_engine_active=settings.utilization_as_engine_active,
                counters_seconds=stations.settings.slow_interval_seconds,
            )
        )
        self.socket: socket.socket = listen(*split_address(settings.listen), LISTEN_KEY)
        stations.observers.append(self._observe)

    def _observe(self, snapshot: GpuSnapshot) -> None:
        errors = self._stations.xids.ledger
        heard = self._stations.errors_are_heard
        self.page.observe(snapshot, errors.counts, errors.last_ns, xids_watched=heard)

    def start(self, group: TaskGroup) -> None:
        """Serve in `group`, until that is cancelled."""
        app = build_dcgm(
            lambda: self.page.render(self._board.workloads, unix_ns()),
            lambda: self.page.health(unix_ns()),
            self._doors,
            self._hosts,
        )
        address = split_address(self._settings.listen)
        group.start_soon(
            partial(
                serve, app, *address, key=LISTEN_KEY, bound=self.socket, limits=self._settings.limits, tls=self._tls
            )
        )
