"""Statuses of engines, and who holds and uses slots, in; the statuses with every process that is theirs out. Pure.

A scraper sees the processes that listen and their descendants. Others work for an engine without being either: workers
that Ray or MPI started, processes of the same container or pod. Which rules hold, and which do not, is in
`docs/decisions/0008-engines-over-several-nodes.md`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from agent.core.readings import EngineSnapshot, EngineState, EngineStatus
from agent.core.workloads import Attribution, SlotUser, Workload

# Names (as the kernel cuts them) of processes that are on GPUs for somebody else, whatever container they are in.
NO_ENGINES = ("nvidia-cuda-mps", "ray::RayTrain", "torchrun")
ANSWERING: tuple[EngineState, ...] = ("starting", "ready", "not_ready", "unknown_format")
_NOWHERE = Workload()
_SERVICE = re.compile(r"(?!user@|session-).+\.service")


class Unit(Struct, frozen=True, kw_only=True):
    """An engine on this node: the processes of its tree and of its workers, and where they are known to run."""

    engine: str
    pids: frozenset[int]
    places: tuple[Workload, ...]
    answers: bool = True


def complete(statuses: Iterable[EngineStatus], attribution: Attribution | None) -> dict[str, EngineStatus]:
    """The statuses of all engines of this node, by name, with `pids`, `group` and `workload` made whole.

    No process is given to two engines, and none is taken from a server that was told to have it. The order of
    `statuses` does not matter.
    """
    told = {status.engine: status for status in statuses}
    users = attribution.users if attribution is not None and attribution.users_known else ()
    placed = {name: _placed(told[name], users) for name in sorted(told)}
    units = _units(placed)
    pids = {unit.engine: set(unit.pids) for unit in units}
    taken = frozenset[int]().union(*(unit.pids for unit in units))
    given = _places_with_devices(attribution)
    found: dict[int, set[str]] = {}
    for user in users:
        if user.pid not in taken and not user.name.startswith(NO_ENGINES):
            owner = _owner(user.workload, units, given)
            if owner is not None:
                found.setdefault(user.pid, set()).add(owner)
    for pid, owners in found.items():
        if len(owners) == 1:  # on several slots, of which each may name another container of its pod
            pids[owners.pop()].add(pid)
    return {name: replace(status, pids=_ordered(status.pids, pids.get(name, set()))) for name, status in placed.items()}


def _ordered(told: Sequence[int], now: set[int]) -> tuple[int, ...]:
    """As they were told; then the others."""
    kept = [pid for pid in told if pid in now]
    return (*kept, *sorted(now.difference(kept)))


def group_of(status: EngineStatus) -> str:
    """The group of a status; a worker that does not tell its group is named after its pod or job."""
    if status.group or status.part != "worker" or status.workload is None:
        return status.group
    place = status.workload
    pod = f"{place.namespace}/{place.pod}" if place.pod else place.pod_uid
    return pod or place.job or place.container_id[:12]


def _placed(status: EngineStatus, users: Sequence[SlotUser]) -> EngineStatus:
    """Where a status does not say where its processes run, the one of them with the lowest pid on a GPU does."""
    if status.workload is None:
        own = frozenset(status.pids)
        known = [(user.pid, user.workload) for user in users if user.pid in own and user.workload is not None]
        if known:
            status = replace(status, workload=min(known, key=lambda one: one[0])[1])
    group = group_of(status)
    return status if group == status.group else replace(status, group=group)


def _units(statuses: Mapping[str, EngineStatus]) -> list[Unit]:
    """Servers with the workers that work for them on this node; then the workers whose server is elsewhere."""
    servers = [status for status in statuses.values() if status.part == "server"]
    pids = {status.engine: set(status.pids) for status in statuses.values()}
    places = {status.engine: [status.workload] for status in statuses.values()}
    silent = [status.engine for status in servers if status.state not in ANSWERING]
    taken = {pid for status in servers if status.state in ANSWERING for pid in status.pids}
    units = {status.engine for status in servers}
    for worker in statuses.values():
        if worker.part == "server":
            continue
        name, left = worker.engine, pids[worker.engine] - taken
        taken |= left  # two workers that name one process: it is the first one's
        pids[name] = left
        for one in silent:
            pids[one] -= left  # nobody answers there; that these work is known all the same
        server = _server_of(worker, servers)
        if server is not None:
            pids[server.engine] |= left
            places[server.engine].append(worker.workload)
        elif left or not worker.pids:
            units.add(name)
    found = [
        Unit(
            engine=name,
            pids=frozenset(pids[name]),
            places=tuple(place for place in places[name] if place is not None),
            answers=name not in silent,
        )
        for name in sorted(units)
    ]
    return [one for one in found if not _is_inside_another(one, found)]


def _is_inside_another(unit: Unit, units: Iterable[Unit]) -> bool:
    """Answers without a process of its own: another engine of its container started it, as Ollama does llama-server."""
    if unit.pids or not unit.answers:
        return False
    others = [place for one in units if one.pids for place in one.places]
    return any(_same_container(place, other) for place in unit.places for other in others)


def _server_of(worker: EngineStatus, servers: Iterable[EngineStatus]) -> EngineStatus | None:
    """The only server of this node that answers and that the worker works for."""
    found = [one for one in servers if one.state in ANSWERING and _is_one_engine(worker, one)]
    return found[0] if len(found) == 1 else None


def _is_one_engine(worker: EngineStatus, server: EngineStatus) -> bool:
    """By their group; a worker whose group nobody told works for the server of its container or pod."""
    if worker.kind != server.kind and worker.kind is not None and server.kind is not None:
        return False
    if worker.group != group_of(replace(worker, group="")):
        return worker.group == server.group
    a, b = worker.workload, server.workload
    return a is not None and b is not None and (_same_container(a, b) or _same_pod(a, b))


def _owner(place: Workload | None, units: Sequence[Unit], given: Mapping[str, frozenset[str]]) -> str | None:
    """The engine that a process of `place` belongs to: the only one in its container, else the only one in its pod."""
    if place is None or place == _NOWHERE:
        return None
    inside = [unit.engine for unit in units if any(_same_container(place, one) for one in unit.places)]
    if inside:
        return inside[0] if len(inside) == 1 else None
    around = [(unit.engine, one) for unit in units for one in unit.places if _same_pod(place, one)]
    if len({engine for engine, _ in around}) != 1:
        return None
    containers = frozenset[str]().union(*(given.get(name, ()) for name in _pods(place)))
    # Containers that were each given devices of their own work each for itself.
    apart = place.container in containers and any(one.container in containers for _, one in around)
    return None if apart else around[0][0]


def _same_container(a: Workload, b: Workload) -> bool:
    """Whether two places are known to be one container, or one service of the machine."""
    if a.container_id and b.container_id:
        return a.container_id == b.container_id
    if a.container and b.container:
        return a.container == b.container and _same_pod(a, b)
    bare = not any(one.pod_uid or one.pod or one.container_id for one in (a, b))
    return bare and a.job == b.job and _SERVICE.fullmatch(a.job) is not None


def _same_pod(a: Workload, b: Workload) -> bool:
    if a.pod_uid and b.pod_uid:
        return a.pod_uid == b.pod_uid
    return bool(a.pod) and (a.namespace, a.pod) == (b.namespace, b.pod)


def _pods(place: Workload) -> list[str]:
    """Its pod by uid and by name, as far as they are known: either may be all that somebody else knows."""
    return [name for name in (place.pod_uid, f"{place.namespace}/{place.pod}" if place.pod else "") if name]


def _places_with_devices(attribution: Attribution | None) -> dict[str, frozenset[str]]:
    """Pod -> those of its containers that were given slots."""
    found: dict[str, set[str]] = {}
    for holding in attribution.holdings if attribution is not None else ():
        for pod in _pods(holding.workload) if holding.workload.container else ():
            found.setdefault(pod, set()).add(holding.workload.container)
    return {pod: frozenset(containers) for pod, containers in found.items()}


class EngineJoin:
    """Between the scrapers and everybody who reads statuses. One for each node; all calls from one event loop.

    Each call answers with the snapshots that are others now: what is told of one engine, or of who uses the slots, may
    change whose a process of another engine is. Those of other engines are their last ones, with the new processes.
    """

    def __init__(self) -> None:
        self._told: dict[str, EngineSnapshot] = {}
        self._attribution: Attribution | None = None
        self._done: dict[str, EngineStatus] = {}
        self._shown: dict[str, tuple[object, ...]] = {}

    def on_engine(self, snapshot: EngineSnapshot) -> tuple[EngineSnapshot, ...]:
        """The newest scrape round of an engine in; the same with its processes made whole out, before all others."""
        name = snapshot.status.engine
        before = self._told.get(name)
        self._told[name] = snapshot
        if before is not None and _what_counts(before.status) == _what_counts(snapshot.status):
            return (self._completed(name),)
        self._shown.pop(name, None)
        changed = self._look_again()
        return tuple(sorted(changed, key=lambda one: one.status.engine != name))

    def on_attribution(self, attribution: Attribution) -> tuple[EngineSnapshot, ...]:
        """Who holds and uses slots in; the snapshots of the engines whose processes are others now out."""
        before, self._attribution = self._attribution, attribution
        if before is not None and _who(before) == _who(attribution):
            return ()
        return self._look_again()

    def forget(self, name: str) -> tuple[EngineSnapshot, ...]:
        """The engine is no target any more; the snapshots of the engines whose processes are others now out."""
        if self._told.pop(name, None) is None:
            return ()
        self._shown.pop(name, None)
        return self._look_again()

    def _look_again(self) -> tuple[EngineSnapshot, ...]:
        self._done = complete((one.status for one in self._told.values()), self._attribution)
        now = {name: _what_counts(status) for name, status in self._done.items()}
        changed = [name for name, counts in now.items() if self._shown.get(name) != counts]
        self._shown = now
        return tuple(map(self._completed, changed))

    def _completed(self, name: str) -> EngineSnapshot:
        told, done = self._told[name], self._done[name]
        if _what_counts(told.status) == _what_counts(done):
            return told
        status = replace(told.status, pids=done.pids, group=done.group, workload=done.workload)
        return replace(told, status=status)


def _what_counts(status: EngineStatus) -> tuple[object, ...]:
    return (status.pids, status.group, status.workload, status.part, status.state in ANSWERING)


def _who(attribution: Attribution) -> tuple[object, ...]:
    return (attribution.users, attribution.holdings, attribution.users_known)
