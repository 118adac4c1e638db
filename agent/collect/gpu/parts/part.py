"""What a part of a GPU's reading is: when it is due, which field values it wants, what it makes of them."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol

from agent.collect.gpu.calls import Calls

# fast: each tick. slow: what costs the driver time, every `gpus.slow_interval_seconds`. rare: what seldom changes,
# `RARE` times slower.
Tier = Literal["fast", "slow", "rare"]
TIERS: tuple[Tier, ...] = ("fast", "slow", "rare")
RARE = 6

ALL_LINKS = 0xFFFFFFFF


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

    __slots__ = ("calls", "gpu", "handle")

    def __init__(self, calls: Calls, gpu: str, handle: Any) -> None:
        self.calls = calls
        self.gpu = gpu  # under this name it is remembered what is not supported
        self.handle = handle

    def ask(self, function: str, *arguments: Any) -> Any:
        """The answer, None if it has none. Raises `GpuUnavailable`, `DriverGone`, `Missed`."""
        return self.calls.value(self.gpu, function, self.handle, *arguments)

    def first_of(self, *variants: tuple[Any, ...]) -> Any:
        """The answer of the first variant (function, arguments after the handle) that this driver and GPU have."""
        for function, *arguments in variants:
            answer = self.ask(function, *arguments)
            if answer is not None:
                return answer
        return None


class Part(Protocol):
    """One topic of a reading. An instance belongs to one GPU and may keep what it has learnt."""

    tier: Tier
    fields: tuple[FieldKey, ...]

    def read(self, asker: Asker, fields: Fields, known: Mapping[str, Any], now: Moment) -> dict[str, Any]:
        """Values of `GpuReading`, by name; what the GPU does not say is left out.

        `fields` are those field values that it has; `known` is what the parts before have read in this tick, and what
        is kept of slower tiers. Raises `GpuUnavailable` and `DriverGone`; `Missed` when nothing can be said this time.
        """
