"""GPU snapshots in, an `Attribution` out whenever somebody may have come or gone, and now and then besides.

Kubelet is asked, and files are read, on threads; nobody waits for them. A kubelet that does not answer delays no user:
what /proc shows is published at once, and the holders follow.
"""

from collections.abc import Callable

import anyio
import anyio.to_thread
import structlog

from agent.clock import NS, boot_ns, unix_ns
from agent.collect.workloads.features import Access, features
from agent.collect.workloads.files import LogFolders, NotThere, read_checkpoint
from agent.collect.workloads.kubelet import Kubelet, KubeletAway
from agent.collect.workloads.proc import Processes
from agent.collect.workloads.settings import WorkloadSettings
from agent.core.attribution.assemble import Seen, Told, attribute, pids_of
from agent.core.attribution.holders import Matcher
from agent.core.attribution.idle_power import IdlePower
from agent.core.attribution.users import processes_on_slots
from agent.core.gpu_readings import GpuSnapshot
from agent.core.workloads import Attribution, Feature

log = structlog.get_logger()

LEAST_GAP_SECONDS = 1.0  # processes that come and go all the time do not make us look all the time
ANSWER_PATIENCE_SECONDS = 0.5  # a healthy kubelet answers within milliseconds


class WorkloadWatch:
    """Publishes an `Attribution` through `on_attribution` for as long as `run` runs.

    `see` takes each GPU snapshot and returns at once. For others: `attribution` (the last; None before the first) and
    `idle_watts` (uuid -> power with nobody on it), which the samples of power need.
    """

    def __init__(self, settings: WorkloadSettings, on_attribution: Callable[[Attribution], None]) -> None:
        self._settings = settings
        self._on_attribution = on_attribution
        self._kubelet = Kubelet(settings.kubelet_sockets, settings.timeout_seconds)
        self._folders = LogFolders(settings.pod_logs, settings.container_logs)
        self._processes = Processes(settings.proc)
        self._matcher = Matcher(settings.resources, settings.dra_drivers)
        self._idle = IdlePower()
        self.attribution: Attribution | None = None
        self._snapshot: GpuSnapshot | None = None
        self._known: frozenset[tuple[object, ...]] | None = None
        self._changed = False  # since kubelet was asked last
        self._news = anyio.Event()
        self._ask = anyio.Event()
        self._answered = anyio.Event()
        self._told: Told | None = None
        self._told_boot_ns = 0
        self._away = "it has not answered yet"
        self._shown: dict[str, Feature] = {}

    @property
    def idle_watts(self) -> dict[str, float]:
        """uuid -> watts, where it is known."""
        return self._idle.watts

    def see(self, snapshot: GpuSnapshot) -> None:
        """The newest snapshot; somebody new on a slot, or another slot, makes us look at once."""
        if not self._settings.enabled:
            return
        self._snapshot = snapshot
        self._idle.see(snapshot)
        known = _who_and_what(snapshot)
        if known != self._known:
            self._known = known
            self._changed = True
            self._news.set()

    async def run(self) -> None:
        """For ever; cancel it to end. Does not raise for anything that kubelet, files or processes do."""
        if not self._settings.enabled:
            await anyio.sleep_forever()
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._answer_forever)
                await self._look_forever()
        finally:
            self._kubelet.stop()

    async def _look_forever(self) -> None:
        ask_due_ns = 0
        while True:
            if self._snapshot is None:
                await self._news.wait()
            self._news = anyio.Event()
            began = boot_ns()
            if self._changed or began >= ask_due_ns:
                self._changed = False
                ask_due_ns = began + int(self._settings.interval_seconds * NS)
                self._answered = anyio.Event()
                self._ask.set()
            with anyio.move_on_after(ANSWER_PATIENCE_SECONDS):
                await self._answered.wait()
            await self._look()
            with anyio.move_on_after(max(0.0, (ask_due_ns - boot_ns()) / NS)):
                await self._news.wait()
            await anyio.sleep(max(0.0, LEAST_GAP_SECONDS - (boot_ns() - began) / NS))

    async def _answer_forever(self) -> None:
        """Ask kubelet when told to. It may take its time: meanwhile the rest goes on."""
        while True:
            await self._ask.wait()
            self._ask = anyio.Event()
            began = boot_ns()
            try:
                answer = await anyio.to_thread.run_sync(self._kubelet.ask, abandon_on_cancel=True)
            except KubeletAway as error:
                if str(error) != self._away:
                    # Most machines have no kubelet; one that had one and lost it is another matter.
                    write = log.info if self._told is None else log.warning
                    write("kubelet_away", reason=str(error), detail=error.detail)
                self._away = str(error)
            else:
                if self._away:
                    log.info("kubelet_answers")
                self._away = ""
                self._told = Told(at_ns=unix_ns(), given=answer.given, allocatable=answer.allocatable)
                self._told_boot_ns = boot_ns()
            self._answered.set()
            if boot_ns() - began > ANSWER_PATIENCE_SECONDS * NS:
                self._news.set()  # the look that asked did not wait for this

    async def _look(self) -> None:
        snapshot = self._snapshot
        if snapshot is None:
            return
        told = self._told
        if told is not None and self._away and boot_ns() - self._told_boot_ns > self._settings.keep_seconds * NS:
            told = self._told = None
        seen, access = await anyio.to_thread.run_sync(self._read, snapshot, told, self._away)
        found = features(access)
        self._log_changes(found)
        self.attribution = attribute(snapshot, told, seen, self._matcher, found)
        self._on_attribution(self.attribution)

    def _read(self, snapshot: GpuSnapshot, told: Told | None, away: str) -> tuple[Seen, Access]:
        """All that is read from files. Blocking, short."""
        pids = pids_of(snapshot)
        # A simulated driver is a process of this machine, so its pids are ours in every namespace.
        simulated = bool(snapshot.gpus) and all(gpu.simulated for gpu in snapshot.gpus)
        host_pids = simulated or self._processes.are_the_hosts()
        processes = self._processes.look(pids) if host_pids else {}
        checkpoint, checkpoint_problem = None, ""
        try:
            checkpoint = read_checkpoint(self._settings.checkpoints)
        except NotThere as error:
            checkpoint_problem = str(error)
        uids = {one.place.pod_uid for one in processes.values() if one.place is not None}
        names = self._folders.read(uids)
        source = ("kept" if away else "pod_resources") if told else "checkpoint" if checkpoint else ""
        access = Access(
            kubelet=away,
            checkpoint=checkpoint_problem,
            pod_logs=self._folders.pods,
            container_logs=self._folders.containers,
            host_pids=host_pids,
            pids_seen=bool(processes) or not pids,
            process_files=self._processes.may_see_files(processes),
            slurm_without_job=self._processes.slurm_without_job,
            holders_from=source,
        )
        seen = Seen(at_ns=unix_ns(), checkpoint=checkpoint, names=names, processes=processes, host_pids=host_pids)
        return seen, access

    def _log_changes(self, found: tuple[Feature, ...]) -> None:
        for feature in found:
            if self._shown.get(feature.name) != feature:
                log.info("workload_feature", feature=feature.name, enabled=feature.enabled, reason=feature.reason)
        self._shown = {feature.name: feature for feature in found}


def _who_and_what(snapshot: GpuSnapshot) -> frozenset[tuple[object, ...]]:
    """Who is on which slot, and which slots there are, under which numbers."""
    slots: set[tuple[object, ...]] = set()
    for gpu in snapshot.gpus:
        slots.add((gpu.uuid, gpu.details.minor_number if gpu.details else None))
        slots.update((mig.uuid, mig.gpu_instance, mig.compute_instance) for mig in gpu.mig or ())
    slots.update((uuid, process.pid) for uuid, process in processes_on_slots(snapshot))
    return frozenset(slots)
