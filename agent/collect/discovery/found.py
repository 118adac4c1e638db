"""Engines found among processes and among pods in, one target for each out, under names that stay. Pure.

A container that both know is one target: its address from the processes, which know on what they listen; its name,
group and role from the pod.
"""

from collections.abc import Iterable, Sequence
from itertools import chain, count

from msgspec.structs import replace

from agent.collect.discovery.kubernetes.objects import Container, Pod
from agent.collect.discovery.kubernetes.pods import PodEngine, describe
from agent.collect.discovery.processes.engines import FoundEngine
from agent.collect.engines.targets import EngineTarget
from agent.core.workloads import Workload

OPTED_OUT = "prometheus.io/scrape"


def targets_of(found: Sequence[FoundEngine], pods: Sequence[PodEngine]) -> list[EngineTarget]:
    """All targets, each under a name of its own; those found by their processes first."""
    joined = [_pod_of(one, pods) for one in found]
    taken = [id(pod) for pod in joined if pod is not None]
    alone = [one for one in pods if one.engine is not None and id(one) not in taken]
    served = [pod.name for one, pod in zip(found, joined, strict=True) if pod is not None and _is_own_server(one)]
    names = _Names([*served, *(one.name for one in alone)])
    targets = []
    for one, container in zip(found, joined, strict=True):
        pod = describe(container.pod, container.container, one.engine) if container is not None else None
        targets.append(_of_process(one, pod, names.of(one, pod)))
    return [*targets, *(_of_pod(one, names.of_pod(one)) for one in alone)]


def _pod_of(one: FoundEngine, pods: Sequence[PodEngine]) -> PodEngine | None:
    """The container that the process runs in; by its pod alone while the list does not have a restarted one yet."""
    place = one.workload
    if place is None or not (place.container_id or place.pod_uid):
        return None
    for pod in pods:
        if place.container_id and pod.container.container_id == place.container_id:
            return pod
    beside = [pod for pod in pods if place.pod_uid and pod.pod.uid == place.pod_uid]
    fitting = [pod for pod in beside if pod.engine is one.engine] or beside
    return fitting[0] if len(fitting) == 1 else None


class _Names:
    """Gives each engine its name: its pod's, else its address; with more words only where two would be the same."""

    def __init__(self, in_pods: Sequence[str]) -> None:
        self._given: set[str] = set()
        self._pids: dict[int, str] = {}
        self._crowded = {name for name in in_pods if in_pods.count(name) > 1}

    def of(self, one: FoundEngine, pod: PodEngine | None) -> str:
        return self._unique(self._wanted(one, pod), one)

    def of_pod(self, one: PodEngine) -> str:
        kind = one.engine.kind if one.engine is not None else ""
        wanted = f"{kind} {one.group}" if one.part == "worker" and one.group else one.name
        return self._free(wanted, [f":{one.port}" if one.port is not None else "", f" {one.container.name}"])

    def _wanted(self, one: FoundEngine, pod: PodEngine | None) -> str:
        kind = one.engine.kind
        if one.inside is not None and one.inside in self._pids:
            return f"{self._pids[one.inside]} {kind}"
        if one.part == "worker":
            group = (pod.group if pod is not None else "") or one.recognised.group
            place = pod.name if pod is not None else _short(one.workload)
            return f"{kind} {group or place or f'pid {one.pids[0]}'}"
        if pod is not None:
            return f"{pod.name}:{one.port}" if pod.name in self._crowded and one.port is not None else pod.name
        place = one.shown or _short(one.workload) or f"pid {one.pids[0]}"
        return f"{place}:{one.port}" if one.port is not None and not place.startswith("pid ") else f"{kind} {place}"

    def _unique(self, wanted: str, one: FoundEngine) -> str:
        place = _short(one.workload)
        suffixes = [f":{one.port}" if one.port is not None else "", f" {place}" if place else ""]
        name = self._free(wanted, [*suffixes, *(f" pid {pid}" for pid in one.pids[:1])])
        if one.pids:
            self._pids.setdefault(one.pids[0], name)
        return name

    def _free(self, wanted: str, suffixes: Iterable[str]) -> str:
        """The name with the first of the suffixes, or else a number, that makes it nobody else's."""
        tried = chain([""], suffixes, (f" {number}" for number in count(2)))
        name = next(name for suffix in tried if (name := f"{wanted}{suffix}") not in self._given)
        self._given.add(name)
        return name


def _is_own_server(one: FoundEngine) -> bool:
    return one.part == "server" and one.inside is None


def _of_process(one: FoundEngine, pod: PodEngine | None, name: str) -> EngineTarget:
    said = one.recognised
    target = EngineTarget(
        name=name,
        kind=one.engine.kind,
        found_by="process",
        pids=one.pids,
        started_at_ns=one.started_at_ns,
        workload=one.workload,
        part=said.part,
        group=said.group or "",
        nodes=said.nodes,
        node_rank=said.node_rank,
        role=said.role,
        model=said.model or "",
    )
    if said.part == "server":
        target = _addressed(target, one)
    return target if pod is None else _with_pod(target, one, pod)


def _addressed(target: EngineTarget, one: FoundEngine) -> EngineTarget:
    if not one.host:
        return replace(target, unreachable=one.why, listens=one.listens)
    metrics = one.recognised.metrics_port
    scheme = "https" if one.recognised.tls else "http"
    paths = one.engine.metrics_paths
    page = f"{scheme}://{one.host}:{metrics}{paths[0]}" if metrics and paths else ""
    return replace(target, url=f"{scheme}://{one.host}:{one.port}", metrics_url=page)


def _with_pod(target: EngineTarget, one: FoundEngine, pod: PodEngine) -> EngineTarget:
    target = replace(
        target,
        workload=_workload(pod.pod, pod.container, target.workload),
        # The leader's name is the same on all nodes; what command lines say of the meeting point may be spelt apart.
        group=pod.group or target.group,
        nodes=target.nodes if target.nodes is not None else pod.nodes,
        node_rank=target.node_rank if target.node_rank is not None else pod.node_rank,
        role=target.role or pod.role,
        service=pod.service,
    )
    if target.part != "server":
        return target
    if pod.why and OPTED_OUT in pod.why:
        return replace(target, url="", metrics_url="", unreachable=pod.why)
    if target.url:
        page = target.metrics_url or _metrics_url(pod, one.host, one.port)
        return replace(target, url=_with_scheme(target.url, pod), metrics_url=_with_scheme(page, pod))
    return target


def _of_pod(one: PodEngine, name: str) -> EngineTarget:
    assert one.engine is not None
    target = EngineTarget(
        name=name,
        kind=one.engine.kind,
        found_by="kubernetes",
        workload=_workload(one.pod, one.container),
        part=one.part,
        group=one.group,
        nodes=one.nodes,
        node_rank=one.node_rank,
        role=one.role,
        service=one.service,
        model=one.model,
    )
    if one.part == "worker":
        return target
    if one.why:
        return replace(target, unreachable=one.why)
    host = f"[{one.pod.address}]" if ":" in one.pod.address else one.pod.address
    return replace(target, url=f"{one.scheme}://{host}:{one.port}", metrics_url=_metrics_url(one, host, one.port))


def _metrics_url(pod: PodEngine, host: str, port: int | None) -> str:
    """Where an annotation says that the page is, if that is not where it would be looked for anyway."""
    assert pod.engine is not None
    if not pod.path and pod.metrics_port in (None, port):
        return ""
    path = pod.path or (pod.engine.metrics_paths or ("/metrics",))[0]
    return f"{pod.scheme}://{host}:{pod.metrics_port or pod.engine.metrics_port or port}{path}"


def _with_scheme(url: str, pod: PodEngine) -> str:
    return url.replace("http://", "https://", 1) if pod.scheme == "https" else url


def _workload(pod: Pod, container: Container, seen: Workload | None = None) -> Workload:
    return Workload(
        namespace=pod.namespace,
        pod=pod.name,
        container=container.name,
        pod_uid=pod.uid,
        container_id=(seen.container_id if seen is not None else "") or container.container_id,
    )


def _short(workload: Workload | None) -> str:
    """What people call a container or a job that has no name."""
    if workload is None:
        return ""
    return workload.container_id[:12] or workload.pod_uid or workload.job


def same_engine(old: EngineTarget, others: Iterable[EngineTarget]) -> bool:
    """Whether one of `others` is the engine that was found as `old`, under another name now."""
    return any(
        (old.pids and old.pids[0] in other.pids[:1])
        or (old.url and old.url == other.url)
        or (other.found_by == "process" and old.found_by == "kubernetes" and old.workload == other.workload)
        for other in others
    )
