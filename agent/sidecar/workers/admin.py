"""The workers' admin sockets → the one admin address: metrics of all, readiness of each, everybody's dead letters."""

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager

import anyio
import msgspec
import structlog
from anyio.abc import TaskStatus
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from agent.core.metrics.samples import Sample
from agent.lifecycle import Health, until_signal
from agent.sidecar.admin.families import families
from agent.sidecar.admin.site import Action, Change, NotDone, Site, serve_site
from agent.sidecar.records.shipping import spool_folder
from agent.sidecar.settings import SidecarSettings
from agent.sidecar.sockets.settings import ListenSettings
from agent.sidecar.workers.metrics import MergedPages, read_page
from agent.sidecar.workers.orphans import Orphans, orphan_folders
from agent.sidecar.workers.workers import LISTENING, Command, Worker, Workers, running_workers

log = structlog.get_logger()

PREFIX = "engineroom_sidecar_"
LOOK_SECONDS = 2.0  # longest wait for one worker's metrics or readiness
ACT_SECONDS = 30.0  # and for its work on dead letters
STATES = ("running", "silent", "down")


async def serve_workers(
    settings: SidecarSettings, count: int, command: Command, listening: ListenSettings = LISTENING
) -> None:
    """The parent: workers, their common admin address and what earlier ones have left, until SIGTERM or SIGINT.

    Raises `ConfigError` when an address or folder cannot be used, or a worker refuses its settings.
    """
    health = Health()
    stop = anyio.Event()

    async def wait(*, task_status: TaskStatus[None]) -> None:
        await until_signal(health, task_status=task_status)
        stop.set()

    orphans = Orphans(settings, orphan_folders(settings, count))
    async with anyio.create_task_group() as group:
        await group.start(wait)  # before anybody is told that we are here: a signal then must not just kill us
        async with (
            running_workers(settings, count, command, listening) as workers,
            serve_common_admin(settings, workers, orphans, health) as port,
        ):
            group.start_soon(orphans.run)
            log.info("workers_started", listen=workers.address, admin_port=port, workers=count)
            await stop.wait()
            await workers.end()
        group.cancel_scope.cancel()


class _Common(Collector):
    """What all workers say at this moment, gathered by `look`; then `collect` puts it together."""

    def __init__(self, workers: Workers, orphans: Orphans, doors: Callable[[], Iterable[Sample]]) -> None:
        self._workers = workers
        self._orphans = orphans
        self._doors = doors
        self._merged = MergedPages()
        self._states = dict.fromkeys(STATES, 0)
        self._process = ProcessCollector(registry=None)
        workers.on_replaced = lambda worker: self._merged.replaced(str(worker.index))

    async def look(self) -> None:
        """Ask every worker for its page."""
        states = dict.fromkeys(STATES, 0)

        async def one(worker: Worker) -> None:
            restarts = worker.restarts
            answer = await worker.ask("/metrics", LOOK_SECONDS)
            if worker.restarts != restarts:
                answer = None  # it has died meanwhile, and what it had counted is already put away
            page = None
            if answer is not None and answer[0] == 200:
                page = read_page(answer[1])
            self._merged.take(str(worker.index), page)
            states["down" if not worker.runs else "silent" if page is None else "running"] += 1

        async with anyio.create_task_group() as group:
            for worker in self._workers.places:
                group.start_soon(one, worker)
        self._states = states

    def collect(self) -> Iterator[Metric]:
        restarts = sum(worker.restarts for worker in self._workers.places)
        yield CounterMetricFamily(PREFIX + "worker_restarts", "Workers replaced because they died.", value=restarts)
        workers = GaugeMetricFamily(PREFIX + "workers", "Worker processes by what they do.", labels=["state"])
        for state, number in self._states.items():
            workers.add_metric([state], number)
        yield workers
        own = [_marked(metric) for metric in self._process.collect()]
        yield from self._merged.families([*own, *families(self._doors()), *self._orphans.families()])


def _marked(metric: Metric) -> Metric:
    marked = Metric(metric.name, metric.documentation, metric.type)
    for sample in metric.samples:
        marked.add_sample(sample.name, {**sample.labels, "worker": "parent"}, sample.value)
    return marked


async def _ready(workers: Workers, orphans: Orphans, health: Health) -> tuple[bool, Iterable[str]]:
    """Ready means that one worker is: clients reach it, whatever the others do."""
    told: dict[int, tuple[bool, str]] = {}

    async def one(worker: Worker) -> None:
        answer = await worker.ask("/readyz", LOOK_SECONDS)
        if answer is None:
            told[worker.index] = False, "does not answer" if worker.runs else "down, will be started again"
        else:
            told[worker.index] = answer[0] == 200, answer[1].rstrip("\n").replace("\n", "; ")

    async with anyio.create_task_group() as group:
        for worker in workers.places:
            group.start_soon(one, worker)
    ready = sum(is_ready for is_ready, _ in told.values())
    first = f"{'ready' if ready else 'not ready'}: {ready} of {len(told)} workers"
    lines = (f"worker {index}: {text}" for index, (_, text) in sorted(told.items()))
    return bool(ready) and not health.draining, (
        "not ready: draining" if health.draining else first,
        *lines,
        *orphans.told(),
    )


def _change_at(worker: Worker) -> Change:
    """The letters of a worker's folder, by its admin."""

    async def change(action: Action, numbers: Collection[int] | None) -> int:
        body = msgspec.json.encode({"all": True} if numbers is None else {"numbers": list(numbers)})
        answer = await worker.ask(f"/admin/v1/dlq/{action}", ACT_SECONDS, body)
        if answer is None:
            raise NotDone("no answer")
        if answer[0] != 200:
            raise NotDone(f"status {answer[0]}: {answer[1][:200]}")
        done = msgspec.json.decode(answer[1])
        return int(done["replayed" if action == "replay" else "discarded"])

    return change


@asynccontextmanager
async def serve_common_admin(
    settings: SidecarSettings, workers: Workers, orphans: Orphans, health: Health
) -> AsyncIterator[int]:
    """The parent's admin address for the length of the body; gives the real port. Raises `ConfigError`."""

    def letters() -> Mapping[str, Change]:
        return {worker.admin.parent.name: _change_at(worker) for worker in workers.places} | orphans.letters()

    def site(doors: Callable[[], Iterable[Sample]]) -> Site:
        common = _Common(workers, orphans, doors)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(common)
        return Site(registry, lambda: _ready(workers, orphans, health), letters, own=None, look=common.look)

    async with serve_site(settings, spool_folder(settings), site) as port:
        yield port
