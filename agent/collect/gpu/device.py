"""One GPU: its handle and what it can say in, a `GpuReading` per tick out. Each part is read in its tier's turn."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from msgspec.structs import replace

from agent.collect.gpu.calls import Calls, GpuUnavailable, Missed
from agent.collect.gpu.meters import NS
from agent.collect.gpu.parts.all import parts
from agent.collect.gpu.parts.part import DEAR_SECONDS, RARE, Asker, Closing, FieldKey, Moment, Part, Reconfigured, Tier
from agent.core.gpu_readings import GpuReading

_SLOWER: dict[Tier, int] = {"slow": 1, "rare": RARE}  # in units of `Pace.slow_ns`

REASK_NS = 3600 * NS  # a GPU is asked again for what it has refused
STRIKES = 2  # readings in a row that make an eager part dear, or cheap again

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
        self._begin()

    def _begin(self) -> None:
        self._parts: tuple[Part, ...] = parts(self._pace.max_gap_ns)
        self._kept: dict[Part, dict[str, Any]] = {}
        self._due_ns: dict[Tier, int] = dict.fromkeys(_SLOWER, 0)
        self._dear: dict[Part, int] = {}  # eager part -> strikes; from `STRIKES` on, it is read with the slow tier
        self._reask_ns = 0
        self._mig: tuple[Any, ...] | None = None
        self._not_offered: tuple[str, ...] = ()
        self._refusals = 0

    def close(self) -> None:
        """Give back what is held of the driver's: before nvmlShutdown."""
        for part in self._parts:
            if isinstance(part, Closing):
                part.close()

    def reconfigured(self) -> None:
        """The GPU was set up anew (its MIG mode or devices): it is asked again for what it has refused."""
        self._asker.forget()
        for part in self._parts:
            if isinstance(part, Reconfigured):
                part.reconfigured()

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
            self.close()
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
        self._asker.forget()
        self._probing = None
        return True

    def _present(self, now: Moment) -> GpuReading:
        due = self._due(now.boot_ns)
        this, before = Round(), self._asker.answers
        for part in self._parts:
            if part not in due:
                this.values.update(self._kept.get(part, {}))
        fields = self._batch(due, this)
        for part in self._parts:
            if part in due:
                self._read_part(part, fields, this, now)
        self._look_back(this.values, now.boot_ns)
        if self._asker.answers == before:
            return replace(self.identity, read_at_ns=now.unix_ns, state="error", reason=this.failure or "no answer")
        return replace(self.identity, read_at_ns=now.unix_ns, state="ok", not_offered=self._not_offered, **this.values)

    def _due(self, boot_ns: int) -> set[Part]:
        tiers: set[Tier] = {"fast"}
        for tier, times in _SLOWER.items():
            if boot_ns >= self._due_ns[tier]:
                tiers.add(tier)
                first = self._due_ns[tier] == 0
                wait = self._pace.slow_ns * times * self.stretch * (self._pace.turn if first else 1)
                self._due_ns[tier] = boot_ns + int(wait)
        return {part for part in self._parts if self._tier(part) in tiers}

    def _tier(self, part: Part) -> Tier:
        if part.tier != "eager":
            return part.tier
        return "slow" if self._dear.get(part, 0) >= STRIKES else "fast"

    def _read_part(self, part: Part, fields: dict[FieldKey, float], this: Round, now: Moment) -> None:
        began = self._seconds() if part.tier == "eager" else 0.0
        try:
            found = part.read(self._asker, fields, this.values, now)
        except Missed as error:
            this.failure = this.failure or str(error)
            self._kept.pop(part, None)
            return
        finally:
            if part.tier == "eager":
                self._weigh(part, self._seconds() - began)
        self._kept[part] = found
        this.values.update(found)

    def _seconds(self) -> float:
        return sum(self._calls.seconds.values())

    def _weigh(self, part: Part, seconds: float) -> None:
        """One strike for a dear reading, one back for a cheap one; the first contact of all may be slow."""
        strikes = self._dear.get(part, 0) + (1 if seconds > DEAR_SECONDS else -1)
        self._dear[part] = min(max(strikes, 0), 2 * STRIKES - 1)

    def _batch(self, due: set[Part], this: Round) -> dict[FieldKey, float]:
        """All field values that these parts want, in one call."""
        try:
            return self._asker.values(key for part in self._parts if part in due for key in part.fields)
        except Missed as error:
            this.failure = this.failure or str(error)
            return {}

    def _look_back(self, values: dict[str, Any], boot_ns: int) -> None:
        """Ask again for what was refused, each hour and when MIG mode changes: it changes what a GPU can say."""
        details = values.get("details")
        mig = (values.get("mig") is None, details and details.mig_mode)
        if (self._mig is not None and mig != self._mig) or (self._reask_ns and boot_ns >= self._reask_ns):
            self._asker.forget()
            self._reask_ns = 0
        self._mig = mig
        self._reask_ns = self._reask_ns or boot_ns + REASK_NS
        refusals = len(self._asker.refused) + len(self._calls.unsupported)
        if refusals != self._refusals:
            self._refusals, self._not_offered = refusals, self._asker.not_offered
