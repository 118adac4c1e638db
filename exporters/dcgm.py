"""GPUs, their holders and their past in, the page of dcgm-exporter out: same names, labels, order, units, numbers.

Always text/plain 0.0.4: DCGM's counters have no suffix `_total`, which OpenMetrics does not allow.

What is shared. A MIG GPU instance has lines of its own, once even where several compute instances are in it; what is
measured for the whole GPU only (power, energy, temperature, clocks, errors) stands on each of them with the GPU's
value, as with DCGM: add it up by `max by (UUID)` first. A GPU or instance with several holders (time-slicing, MPS, a
shared claim) has its values once, without a pod, so that no power is counted twice; GPU_UTIL, FB_USED and
PROF_GR_ENGINE_ACTIVE have one more line for each holder, with the part that its own processes have. Sums over all
lines of these three must choose either `pod=""` or `pod!=""`.

A GPU whose last reading is too old, or that does not answer, has no values: only its last Xid and their count.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from agent.core.attribution.shares import NOBODY, Use, Who, uses
from agent.core.gpu_readings import GpuReading, GpuSnapshot
from agent.core.workloads import Attribution
from agent.core.xids import fact
from exporters.dcgm_entity import Entity
from exporters.dcgm_fields import ENGINE_ACTIVE, FIELDS, OF_THE_SLICE, Field
from exporters.dcgm_labels import (
    NO_HOLDER,
    Holder,
    HolderIndex,
    Holders,
    HostnameLabel,
    Profile,
    configured,
    identity,
    of_pod,
)
from exporters.dcgm_memory import NS, WINDOW_NS, Memory
from exporters.dcgm_numbers import mebibytes, percent, six

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
XID_COUNT = "DCGM_EXP_XID_ERRORS_COUNT"
_UTILIZATION, _XID, _MEMORY_USED = 203, 230, 252
Line = str  # labels in braces, and the value: a line without its name
_NO_COUNTS: Mapping[tuple[str, int], int] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class DcgmOptions:
    """How the page is written. `metrics`: ``default`` is what dcgm-exporter gives without being asked, and FB_TOTAL.

    `counters_seconds`: how often the reader asks for byte counters.
    """

    node: str
    profile: Profile = "classic"
    hostname_label: HostnameLabel = "Hostname"
    metrics: Literal["default", "all"] = "all"
    utilization_as_engine_active: bool = False
    max_age_seconds: float = 30.0
    counters_seconds: float = 10.0


class DcgmPage:
    """The newest snapshot and what is remembered; writes the page whenever it is asked for."""

    def __init__(self, options: DcgmOptions) -> None:
        self.options = options
        self._memory = Memory(options.counters_seconds)
        self._snapshot: GpuSnapshot | None = None

    def observe(
        self,
        snapshot: GpuSnapshot,
        xid_counts: Mapping[tuple[str, int], int] = _NO_COUNTS,
        xid_last_ns: Mapping[tuple[str, int], int] = _NO_COUNTS,
        *,
        xids_watched: bool = False,
    ) -> None:
        """A tick of the GPU reader. Xids by (uuid, code), as `agent.core.xid_ledger.XidLedger` counts them.

        `xids_watched`: NVML's events or the kernel log are being read; without, no Xid is not shown as a 0.
        """
        self._snapshot = snapshot
        self._memory.observe(snapshot, xid_counts, xid_last_ns, watched=xids_watched)

    def render(self, attribution: Attribution | None, now_ns: int) -> bytes:
        """The page at `now_ns` (Unix time)."""
        if self._snapshot is None:
            return b""
        return render(self._snapshot, attribution, self._memory, self.options, now_ns)

    def health(self, now_ns: int) -> tuple[bool, str]:
        """Whether there is fresh data of any GPU, and lines that say what of it is missing."""
        return health(self._snapshot, self.options.max_age_seconds, now_ns)


def render(
    snapshot: GpuSnapshot, attribution: Attribution | None, memory: Memory, options: DcgmOptions, now_ns: int
) -> bytes:
    """One complete page. Empty while there are no GPUs."""
    oldest_ns = now_ns - int(options.max_age_seconds * NS)
    index, used = HolderIndex(attribution), uses(snapshot, attribution) if attribution else {}
    gpus = [
        [
            _Row(entity, index.of(entity), used, options)
            for entity in _entities(gpu if _fresh(gpu, oldest_ns) else _bare(gpu), memory, options)
        ]
        for gpu in sorted(snapshot.gpus, key=lambda one: one.index)
    ]
    parts: list[str] = []
    for field in FIELDS:
        if field.stock or options.metrics == "all":
            lines: list[Line] = []
            for rows in gpus:
                of_the_gpu = field.text(rows[0].entity)
                for row in rows:
                    text = field.text(row.entity) if field.number in OF_THE_SLICE else of_the_gpu
                    row.add(field.number, text, lines)
            for name in _names(field, options.profile):
                parts += _family(name, field.type, field.help, lines)
    if options.metrics == "all":
        lines = [line for rows in gpus for row in rows for line in row.xid_counts(memory, now_ns)]
        parts += _family(XID_COUNT, "gauge", "Xid errors in the window, by code.", lines)
    return "".join(parts).encode()


def health(snapshot: GpuSnapshot | None, max_age_seconds: float, now_ns: int) -> tuple[bool, str]:
    """(whether some GPU has fresh data, a line for each GPU or for what is wrong with all of them)."""
    if snapshot is None:
        return False, "fail gpus: nothing has been read yet\n"
    if snapshot.driver != "ok":
        said = " ".join(f"the driver's state is {snapshot.driver}. {snapshot.message}".split())
        return False, f"fail gpus: {said}\n"
    oldest_ns = now_ns - int(max_age_seconds * NS)
    lines, good = [], False
    for gpu in snapshot.gpus:
        if _fresh(gpu, oldest_ns):
            good = True
            lines.append(f"ok gpu {gpu.index}\n")
        else:
            why = f"{gpu.state} {gpu.reason}" if gpu.state != "ok" else f"read {(now_ns - gpu.read_at_ns) // NS} s ago"
            lines.append(f"fail gpu {gpu.index}: {' '.join(why.split())}\n")
    return good, "".join(lines) or "fail gpus: there are none\n"


def _fresh(gpu: GpuReading, oldest_ns: int) -> bool:
    return gpu.state == "ok" and gpu.read_at_ns >= oldest_ns


def _bare(gpu: GpuReading) -> GpuReading:
    """Who it is, and nothing that was measured; its MIG instances are not known to be there any more."""
    return GpuReading(
        uuid=gpu.uuid,
        index=gpu.index,
        model=gpu.model,
        read_at_ns=gpu.read_at_ns,
        state="error",
        pci_bus_id=gpu.pci_bus_id,
        driver_version=gpu.driver_version,
    )


def _entities(gpu: GpuReading, memory: Memory, options: DcgmOptions) -> Iterator[Entity]:
    """The GPU, or in its place its GPU instances where it has some."""
    rates = memory.rates(gpu.uuid) if gpu.state == "ok" else {}
    last_xid = memory.last_xid(gpu.uuid)
    if not gpu.mig:
        yield Entity(
            gpu=gpu,
            slots=(gpu.uuid,),
            rates=rates,
            last_xid=last_xid,
            utilization_as_engine_active=options.utilization_as_engine_active,
        )
        return
    for number in sorted({mig.gpu_instance for mig in gpu.mig}):
        alike = [mig for mig in gpu.mig if mig.gpu_instance == number]
        slots = tuple(mig.uuid for mig in alike)
        yield Entity(gpu=gpu, instance=alike[0], slots=slots, rates=rates, last_xid=last_xid)


class _Row:
    """Everything that is written of one entity, a line or a few in each family."""

    def __init__(
        self, entity: Entity, holders: Holders, used: Mapping[str, Mapping[Who, Use]], options: DcgmOptions
    ) -> None:
        self.entity = entity
        self.identity = identity(entity, options.node, options.hostname_label)
        self.profile = options.profile
        self.head = self.identity + configured(entity, options.profile)
        self.device = holders.all[0] if holders.alone else NO_HOLDER
        self.labels = f"{{{self.head}{self.device.text()}}} "
        self.parts = () if holders.alone else _parts(entity, holders, used)

    def add(self, number: int, text: str | None, lines: list[Line]) -> None:
        """Its lines of field `number`, whose value is `text`."""
        if text is not None:
            if number == _XID:
                lines.append(self._line(self.head, self.device.text(_xid_labels(self.entity.last_xid or 0)), text))
            else:
                lines.append(self.labels + text)
        for part in self.parts:
            own = part.text(number)
            if own is not None:
                lines.append(self._line(self.head, part.holder.text(), own))

    def xid_counts(self, memory: Memory, now_ns: int) -> Iterator[Line]:
        """Lines of DCGM_EXP_XID_ERRORS_COUNT: one for each code in the window; without any, a 0 without a code."""
        if self.entity.last_xid is None:
            return
        window = {"window_size_in_ms": str(WINDOW_NS // 1_000_000)}
        recent = memory.recent_xids(self.entity.gpu.uuid, now_ns)
        for more, count in [({"xid": str(code)}, n) for code, n in sorted(recent.items())] or [({}, 0)]:
            labels = configured(self.entity, self.profile, {**window, **more})
            yield self._line(self.identity + labels, self.device.text(), str(count))

    @staticmethod
    def _line(head: str, holder: str, text: str) -> Line:
        return f"{{{head}{holder}}} {text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """What one of several holders has of an entity; None: not known."""

    holder: Holder
    utilization_ratio: float | None
    engine_active_ratio: float | None
    memory_used_bytes: int | None

    def text(self, number: int) -> str | None:
        if number == _UTILIZATION:
            return percent(self.utilization_ratio)
        if number == _MEMORY_USED:
            return mebibytes(self.memory_used_bytes)
        return six(self.engine_active_ratio) if number == ENGINE_ACTIVE else None


def _parts(entity: Entity, holders: Holders, used: Mapping[str, Mapping[Who, Use]]) -> tuple[_Part, ...]:
    """What each holder's processes use. Nothing can be told of an entity whose processes are not known."""
    listed = entity.gpu.processes if entity.instance is None else entity.instance.processes
    if listed is None:
        return ()
    owned = [(one, use) for slot in entity.slots for one, use in used.get(slot, {}).items()]
    everyone = [holder.who for holder in holders.all]
    # Under MPS the driver may book every client's time to the server's process.
    timed = not (len(owned) > 1 and any(use.mps for _, use in owned))
    total = sum(use.sm_ratio or 0.0 for _, use in owned)
    parts = []
    for holder in holders.all:
        mine = [use for one, use in owned if _is(holder.who, one, everyone)]
        if not mine and any(one == NOBODY for one, _ in owned):
            continue  # it may be one of those that cannot be told apart
        busy = _sum(use.sm_ratio for use in mine) if timed else None
        active = entity.engine_active_ratio
        memory = _sum(use.memory_bytes for use in mine)
        parts.append(
            _Part(
                holder=holder,
                utilization_ratio=None if busy is None or entity.instance else min(1.0, busy),
                engine_active_ratio=None if active is None or busy is None else active * (busy / total if busy else 0),
                memory_used_bytes=None if memory is None else int(memory),
            )
        )
    return tuple(parts)


def _is(holder: Who, user: Who, everyone: Iterable[Who]) -> bool:
    """Whether processes of `user` are this holder's: by container, else by pod where that is enough; or by job."""
    if not holder.pod:
        return bool(user.job) and user.job == holder.job and not user.pod
    same_pod = user[:2] == holder[:2]
    return same_pod and (user.container == holder.container or of_pod(holder, everyone))


def _sum(values: Iterable[float | None]) -> float | None:
    """None when one of them is not known; 0 for none."""
    total = 0.0
    for value in values:
        if value is None:
            return None
        total += value
    return total


def _xid_labels(code: int) -> dict[str, str]:
    return {"err_code": str(code), "err_msg": fact(code).meaning if code else "no error"}


def _names(field: Field, profile: Profile) -> tuple[str, ...]:
    new = f"DCGM_FI_{field.new or field.name}"
    classic = f"DCGM_FI_{field.name}"
    if profile == "both":
        return (classic,) if new == classic else (classic, new)
    return (classic,) if profile == "classic" else (new,)


def _family(name: str, kind: str, described: str, lines: Iterable[Line]) -> list[str]:
    written = [f"{name}{line}\n" for line in lines]
    return [f"# HELP {name} {described}\n# TYPE {name} {kind}\n", *written] if written else []
