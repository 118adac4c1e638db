"""One GPU: its handle and what it can say in, a `GpuReading` per tick out. Each part is read in its tier's turn."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pynvml
from msgspec.structs import replace

from agent.collect.gpu.calls import Calls, GpuUnavailable, Missed
from agent.collect.gpu.meters import NS
from agent.collect.gpu.parts.all import parts
from agent.collect.gpu.parts.part import RARE, TIERS, Asker, FieldKey, Moment, Part, Tier
from agent.core.gpu_readings import GpuReading

_FIELD_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")  # by nvmlValueType_t

_SLOWER: dict[Tier, int] = {"slow": 1, "rare": RARE}  # in units of `Pace.slow_ns`

PROBE_FIRST_NS = 30 * NS
PROBE_MOST_NS = 600 * NS


@dataclass(slots=True)
class Probing:
    """A GPU that is lost: when to look for it again."""

    reason: GpuUnavailable
    due_ns: int
    pause_ns: int = PROBE_FIRST_NS


@dataclass(slots=True)
class Round:
    """One tick: what was read, and how that went."""

    values: dict[str, Any] = field(default_factory=dict)
    answered: int = 0  # parts of the fast tier
    failure: str = ""


class Pace(NamedTuple):
    """How often one GPU is read."""

    slow_ns: int
    turn: float  # 0..1: part of `slow_ns` until the second slow reading, so that the GPUs take turns
    max_gap_ns: int  # readings further apart than this are not joined into totals


class Device:
    """Reads one GPU. `identity` carries the fields that never change; it stays when the GPU is lost.

    `stretch` is set from outside: the slower tiers wait that many times longer.
    """

    def __init__(self, calls: Calls, handle: Any, identity: GpuReading, pace: Pace) -> None:
        self.identity = identity
        self.stretch = 1.0
        self._calls = calls
        self._asker = Asker(calls, identity.uuid, handle)
        self._pace = pace
        self._probing: Probing | None = None
        self._unknown_fields: set[int] = set()
        self._begin()

    def _begin(self) -> None:
        self._parts: tuple[Part, ...] = parts(self._pace.max_gap_ns)
        self._kept: dict[Part, dict[str, Any]] = {}
        self._due_ns: dict[Tier, int] = dict.fromkeys(TIERS, 0)

    @property
    def will_be_touched(self) -> bool:
        """Whether the next reading calls the driver at once."""
        return self._probing is None

    def probe_due(self, boot_ns: int) -> bool:
        """Whether a GPU that is lost will be looked for."""
        return self._probing is not None and boot_ns >= self._probing.due_ns

    def read(self, unix_ns: int, boot_ns: int) -> GpuReading:
        """Touches NVML unless the GPU is lost and not yet due for a probe. Raises `DriverGone`."""
        if self._probing is not None and not self._found_again(boot_ns):
            return self._absent(unix_ns, self._probing.reason)
        try:
            return self._present(Moment(unix_ns, boot_ns))
        except GpuUnavailable as error:
            self._probing = Probing(error, boot_ns + PROBE_FIRST_NS)
            self._begin()
            return self._absent(unix_ns, error)

    def _absent(self, unix_ns: int, error: GpuUnavailable) -> GpuReading:
        return replace(self.identity, read_at_ns=unix_ns, state=error.state, reason=error.reason)

    def _found_again(self, boot_ns: int) -> bool:
        probing = self._probing
        if probing is None or boot_ns < probing.due_ns:
            return False
        probing.pause_ns = min(2 * probing.pause_ns, PROBE_MOST_NS)
        probing.due_ns = boot_ns + probing.pause_ns
        try:
            handle = self._calls.value(self.identity.uuid, "nvmlDeviceGetHandleByPciBusId", self.identity.pci_bus_id)
            if handle is None:
                return False
            self._asker = Asker(self._calls, self.identity.uuid, handle)
            if self._asker.ask("nvmlDeviceGetUUID") != self.identity.uuid:
                return False
        except (GpuUnavailable, Missed):
            return False
        self._probing = None
        return True

    def _present(self, now: Moment) -> GpuReading:
        due = self._tiers_due(now.boot_ns)
        this = Round()
        for part in self._parts:
            if part.tier not in due:
                this.values.update(self._kept.get(part, {}))
        fields = self._batch([part for part in self._parts if part.tier in due], this)
        for part in self._parts:
            if part.tier in due:
                self._read_part(part, fields, this, now)
        if not this.answered:
            return replace(self.identity, read_at_ns=now.unix_ns, state="error", reason=this.failure or "no answer")
        return replace(self.identity, read_at_ns=now.unix_ns, state="ok", **this.values)

    def _tiers_due(self, boot_ns: int) -> set[Tier]:
        due: set[Tier] = {"fast"}
        for tier, times in _SLOWER.items():
            if boot_ns >= self._due_ns[tier]:
                due.add(tier)
                first = self._due_ns[tier] == 0
                wait = self._pace.slow_ns * times * self.stretch * (self._pace.turn if first else 1)
                self._due_ns[tier] = boot_ns + int(wait)
        return due

    def _read_part(self, part: Part, fields: dict[FieldKey, float], this: Round, now: Moment) -> None:
        try:
            found = part.read(self._asker, fields, this.values, now)
        except Missed as error:
            this.failure = this.failure or str(error)
            self._kept.pop(part, None)
            return
        self._kept[part] = found
        this.values.update(found)
        this.answered += part.tier == "fast" and bool(found)

    def _batch(self, wanting: list[Part], this: Round) -> dict[FieldKey, float]:
        """All field values that these parts want, in one call."""
        wanted = dict.fromkeys(key for part in wanting for key in part.fields if key.number not in self._unknown_fields)
        try:
            return self._fields(list(wanted))
        except Missed as error:
            this.failure = this.failure or str(error)
            return {}

    def _fields(self, wanted: list[FieldKey]) -> dict[FieldKey, float]:
        """Those that this GPU has; one that it refuses for good is not asked for again."""
        asked = [key if key.scope else key.number for key in wanted]
        answer = self._asker.ask("nvmlDeviceGetFieldValues", asked) if asked else None
        found = {}
        for key, item in zip(wanted, answer or (), strict=answer is not None):
            if item.nvmlReturn == pynvml.NVML_SUCCESS:
                found[key] = getattr(item.value, _FIELD_MEMBERS[item.valueType])
            elif item.nvmlReturn in (pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_INVALID_ARGUMENT):
                self._unknown_fields.add(key.number)  # a field newer than the driver is an invalid argument
            else:
                try:
                    self._calls.judge(self.identity.uuid, f"field {key.number}", item.nvmlReturn)
                except Missed:
                    pass  # counted; the other fields of the batch are good
        return found
