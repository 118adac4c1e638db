"""What a part of a GPU's reading is: when it is due, which field values it wants, what it makes of them."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import pynvml

from agent.collect.gpu.calls import Calls, Missed
from agent.collect.gpu.codes import verdict
from agent.collect.gpu.sane import is_blank

# fast: each tick. eager: each tick while the driver answers at once, with the slow tier when it does not. slow: what
# costs the driver time, every `gpus.slow_interval_seconds`. rare: what seldom changes, `RARE` times slower.
Tier = Literal["fast", "eager", "slow", "rare"]
TIERS: tuple[Tier, ...] = ("fast", "eager", "slow", "rare")
RARE = 6

# An eager part whose reading takes longer is read with the slow tier. Drivers that keep values in memory shared with
# NVML answer within microseconds; a question to the GPU's firmware takes 0.3 to 0.7 ms.
DEAR_SECONDS = 100e-6

ALL_LINKS = 0xFFFFFFFF

FIELD_VALUES = "nvmlDeviceGetFieldValues"
_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")  # by nvmlValueType_t
_NARROW = (pynvml.NVML_VALUE_TYPE_UNSIGNED_INT, pynvml.NVML_VALUE_TYPE_SIGNED_INT)


class FieldKey(NamedTuple):
    """A value of nvmlDeviceGetFieldValues; `scope` is the link, or `ALL_LINKS`, where the field has links."""

    number: int
    scope: int = 0


Fields = Mapping[FieldKey, float]


class Moment(NamedTuple):
    """The instant of the tick, on both clocks of the supervisor."""

    unix_ns: int
    boot_ns: int


class Asker:
    """Asks one GPU, or one of its MIG devices."""

    __slots__ = ("answers", "calls", "gpu", "handle", "microseconds", "narrow", "refused")

    def __init__(self, calls: Calls, gpu: str, handle: Any) -> None:
        self.calls = calls
        self.gpu = gpu  # under this name it is remembered what is not supported
        self.handle = handle
        self.answers = 0  # calls that said something
        self.refused: set[FieldKey] = set()  # fields that this GPU has said it does not have
        self.narrow: set[FieldKey] = set()  # fields that come in 32 bits
        self.microseconds: dict[FieldKey, int] = {}  # how long the driver took for a field the last time, by its word

    def ask(self, function: str, *arguments: Any) -> Any:
        """The answer, None if it has none. Raises `GpuUnavailable`, `DriverGone`, `Missed`."""
        answer = self.calls.value(self.gpu, function, self.handle, *arguments)
        self.answers += answer is not None
        return answer

    def first_of(self, *variants: tuple[Any, ...]) -> Any:
        """The answer of the first variant (function, arguments after the handle) that this driver and GPU have."""
        for function, *arguments in variants:
            answer = self.ask(function, *arguments)
            if answer is not None:
                return answer
        return None

    def try_ask(self, function: str, *arguments: Any) -> Any:
        """As `ask`, where a call that failed for now (it is counted) may be left out. Raises not `Missed`."""
        try:
            return self.ask(function, *arguments)
        except Missed:
            return None

    def never(self, function: str) -> bool:
        """Whether it is known that the GPU does not have it: not that a right is missing."""
        return self.calls.knows_not(self.gpu, function) and function not in self.calls.forbidden

    def odd(self, text: str) -> None:
        """Count a value that cannot be true. `text` names the source and says what was odd, without the number."""
        self.calls.errors[text] = self.calls.errors.get(text, 0) + 1

    def forget(self) -> None:
        """Everything that was refused is asked for again."""
        self.refused.clear()
        self.calls.forget_gpu(self.gpu)

    @property
    def not_offered(self) -> tuple[str, ...]:
        """Functions and fields that this GPU has said it does not have."""
        functions = {
            function
            for gpu, function in self.calls.unsupported
            if gpu == self.gpu and function not in self.calls.forbidden
        }
        numbers = sorted({key.number for key in self.refused} - {key.number for key in self.microseconds})
        return (*sorted(functions), *(f"field {number}" for number in numbers))

    def values(self, wanted: Iterable[FieldKey]) -> dict[FieldKey, float]:
        """Those field values that this GPU has, in one call; one that it refuses for good is not asked for again.

        Raises as `ask`; a field that fails for now is left out and counted.
        """
        keys = [key for key in dict.fromkeys(wanted) if key not in self.refused]
        asked = [key if key.scope else key.number for key in keys]
        answer = self.ask(FIELD_VALUES, asked) if asked else None
        found = {}
        for key, item in zip(keys, answer or (), strict=answer is not None):
            if item.nvmlReturn == pynvml.NVML_SUCCESS and item.valueType < len(_MEMBERS):
                value = getattr(item.value, _MEMBERS[item.valueType])
                self.microseconds[key] = item.latencyUsec
                if item.valueType in _NARROW:
                    self.narrow.add(key)
                if not is_blank(value, 32 if key in self.narrow else 64):
                    found[key] = value
            else:
                self._refusal(key, item.nvmlReturn)
        return found

    def _refusal(self, key: FieldKey, code: int) -> None:
        # A field newer than the driver is an invalid argument.
        if code == pynvml.NVML_ERROR_INVALID_ARGUMENT or verdict(code) in ("unsupported", "missing"):
            self.refused.add(key)
            self.microseconds.pop(key, None)
            return
        try:
            self.calls.judge(self.gpu, f"field {key.number}", code)
        except Missed:
            return  # counted; the other fields of the batch are good
        if verdict(code) == "forbidden":
            self.refused.add(key)


class Part(Protocol):
    """One topic of a reading. An instance belongs to one GPU and may keep what it has learnt."""

    tier: Tier
    fields: tuple[FieldKey, ...]  # wanted at the next reading; a part may change them

    def read(self, asker: Asker, fields: Fields, known: Mapping[str, Any], now: Moment) -> dict[str, Any]:
        """Values of `GpuReading`, by name; what the GPU does not say is left out.

        `fields` are those field values that it has; `known` is what the parts before have read in this tick, and what
        is kept of slower tiers. Raises `GpuUnavailable` and `DriverGone`; `Missed` when nothing can be said this time.
        """


@runtime_checkable
class Closing(Protocol):
    """A part that holds something of the driver's."""

    def close(self) -> None:
        """Give it back."""


@runtime_checkable
class Reconfigured(Protocol):
    """A part that wants to know when the GPU was set up anew."""

    def reconfigured(self) -> None:
        """What it has learnt may not hold any more."""
