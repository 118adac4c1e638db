"""Processes and pods of this node in, engines to watch out: for the engines that nobody configured.

Asks nobody but the API server. What is found is handed over with the address that its process listens on, or that its
pod has; whoever scrapes it judges it. A port behind which no engine is recognised gets not one byte.
"""

import ipaddress
from collections.abc import Callable, Collection
from functools import partial

import structlog
from msgspec import Struct
from msgspec.structs import replace

from agent.clock import NS, boot_ns
from agent.collect.discovery.features import process_features, stranger_words
from agent.collect.discovery.found import same_engine, targets_of
from agent.collect.discovery.kubernetes.client import PodList
from agent.collect.discovery.kubernetes.notes import pod_notes
from agent.collect.discovery.kubernetes.objects import Pod
from agent.collect.discovery.kubernetes.pods import PodEngine, pod_engines
from agent.collect.discovery.processes.engines import FoundEngine, engines_of, strangers
from agent.collect.discovery.processes.table import ProcessTable
from agent.collect.engines.ports_of import resolve
from agent.collect.engines.targets import EngineTarget
from agent.core.workloads import Feature
from agent.engines.addresses import endpoint

log = structlog.get_logger()

DISCOVER_SECONDS = 15.0  # the interval at which `step` is meant to run
FORGET_SECONDS = 600.0
_RESOLVE_SECONDS = 300.0
_ENDED = "its process has ended"
_STALE = "the API server has not answered for minutes, and its pod's address may be another pod's by now"


class _Looked(Struct, frozen=True, kw_only=True):
    """What one look at the processes gave."""

    found: list[FoundEngine]
    left: frozenset[str]  # containers whose engine is configured, or ours
    refused: dict[str, str]
    features: tuple[Feature, ...]


class Discovery:
    """Finds the engines of this node; run `step` every `DISCOVER_SECONDS`.

    `on_found` is called with each engine, and again under the same name when its facts change. One whose process has
    ended is handed over once more without its address, so that nobody asks a port that may be another's by now; after
    `forget_seconds`, or at once when its pod is deleted or it is configured, `on_gone` is called with its name.
    `taken` gives the `host:port` of configured engines, `gpu_pids` the processes on GPUs, `skip_ports` are our own.
    `refused` says what was looked at and left alone, and why; with `features` it is for `engineroom doctor`.
    """

    def __init__(
        self,
        *,
        table: ProcessTable,
        on_found: Callable[[EngineTarget], None],
        on_gone: Callable[[str], None],
        pods: PodList | None = None,
        taken: Callable[[], Collection[str]] = tuple,
        gpu_pids: Callable[[], Collection[int]] = tuple,
        skip_ports: Collection[int] = (),
        forget_seconds: float = FORGET_SECONDS,
    ) -> None:
        self._table = table
        self._on_found = on_found
        self._on_gone = on_gone
        self._pods = pods
        self._taken = taken
        self._gpu_pids = gpu_pids
        self._skip_ports = frozenset(skip_ports)
        self._forget_ns = int(forget_seconds * NS)
        self._known: dict[str, EngineTarget] = {}
        self._missing_since: dict[str, int] = {}
        self._resolved: dict[str, tuple[int, frozenset[str]]] = {}
        self._features: tuple[Feature, ...] = ()
        self.refused: dict[str, str] = {}

    def features(self) -> tuple[Feature, ...]:
        """The rights that finding engines needs, as the last look found them."""
        return (*self._features, *((self._pods.feature,) if self._pods is not None else ()))

    async def step(self) -> None:
        """One look."""
        if self._pods is not None:
            await self._pods.step()
        taken, gpu_pids = frozenset(self._taken()), frozenset(self._gpu_pids())
        looked = await self._table.ask(partial(self._look, taken=taken, gpu_pids=gpu_pids))
        pods = await self._pods_of(looked.found)
        engines = [
            replace(one, why=one.why or _STALE) if self._pods is not None and self._pods.stale else one
            for one in pod_engines(pods or (), self._table.engines)
            if not _configured(one, taken) and one.container.container_id not in looked.left
        ]
        self._features = looked.features
        self._refuse({**looked.refused, **pod_notes(pods or (), self._table.engines)})
        self._hand_over({target.engine: target for target in targets_of(looked.found, engines)}, pods)

    async def _pods_of(self, found: Collection[FoundEngine]) -> Collection[Pod] | None:
        """The pods, asked for again when a process runs in one that was not there at the last answer."""
        if self._pods is None:
            return None
        uids = {pod.uid for pod in self._pods.pods or ()}
        if any(one.workload is not None and one.workload.pod_uid and one.workload.pod_uid not in uids for one in found):
            await self._pods.step(somebody_new=True)
        return self._pods.pods

    def _look(self, table: ProcessTable, *, taken: frozenset[str], gpu_pids: frozenset[int]) -> _Looked:
        """All that blocks."""
        found = engines_of(table)
        configured = self._addresses(taken)
        free = [one for one in found if not one.places & configured and not self._is_ours(one)]
        words = {
            f"process {row.pid} ({row.process.name})": stranger_words(row) for row in strangers(table, gpu_pids, found)
        }
        ids = [{one.workload.container_id for one in some if one.workload} for some in (found, free)]
        left = frozenset(ids[0] - ids[1] - {""})
        return _Looked(found=free, left=left, refused=words, features=process_features(table))

    def _is_ours(self, one: FoundEngine) -> bool:
        return one.shared_network and one.port in self._skip_ports

    def _addresses(self, taken: frozenset[str]) -> frozenset[str]:
        """Those of configured engines, host names also as the addresses that they stand for."""
        now = boot_ns()
        found: set[str] = set(taken)
        for place in taken:
            host, _, port = place.rpartition(":")
            if _is_address(host):
                continue
            known = self._resolved.get(place)
            if known is None or now - known[0] > _RESOLVE_SECONDS * NS:
                known = (now, frozenset(endpoint(f"//{_in_url(one)}:{port}") for one in map(str, resolve(host))))
                self._resolved[place] = known
            found |= known[1]
        return frozenset(found)

    def _refuse(self, refused: dict[str, str]) -> None:
        for what, reason in refused.items():
            if what not in self.refused:
                log.info("not_taken_for_an_engine", what=what, reason=reason)
        self.refused = refused

    def _hand_over(self, targets: dict[str, EngineTarget], pods: Collection[Pod] | None) -> None:
        for name, target in targets.items():
            self._missing_since.pop(name, None)
            if self._known.get(name) != target:
                if name not in self._known:
                    log.info("engine_found", engine=name, kind=target.kind, url=target.url, reason=target.unreachable)
                self._known[name] = target
                self._on_found(target)
        for name in [name for name in self._known if name not in targets]:
            self._miss(name, targets, pods)

    def _miss(self, name: str, targets: dict[str, EngineTarget], pods: Collection[Pod] | None) -> None:
        """An engine that was found before is not there any more."""
        target, now = self._known[name], boot_ns()
        since = self._missing_since.setdefault(name, now)
        if (
            now - since >= self._forget_ns
            or same_engine(target, targets.values())
            or _pod_is_gone(target, pods)
            or endpoint(target.url) in self._taken()
        ):
            del self._known[name], self._missing_since[name]
            log.info("engine_gone", engine=name)
            self._on_gone(name)
        elif target.url:
            # Its pids stay: whoever watches it sees that none of them runs any more.
            self._known[name] = replace(target, url="", metrics_url="", unreachable=_ENDED)
            self._on_found(self._known[name])


def _configured(one: PodEngine, taken: frozenset[str]) -> bool:
    return one.port is not None and endpoint(f"//{_in_url(one.pod.address)}:{one.port}") in taken


def _pod_is_gone(target: EngineTarget, pods: Collection[Pod] | None) -> bool:
    uid = target.workload.pod_uid if target.workload is not None and target.workload.pod else ""
    return bool(uid) and pods is not None and uid not in {pod.uid for pod in pods}


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
