"""The one door to NVML: every call is timed, counted, and remembered when it can never succeed."""

import time
from collections.abc import Callable
from typing import Any

import pynvml

from agent.collect.gpu.codes import LOST_REASONS, describe, verdict
from agent.collect.gpu.process_calls import PROCESS_LISTS
from agent.core.gpu_readings import GpuState

# Functions that are not called as pynvml would. It reaches version 2 of this one through an argument.
_INSTEAD: dict[str, Callable[..., Any]] = {
    **PROCESS_LISTS,
    "nvmlDeviceGetMemoryInfo_v2": lambda handle: pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2),
}
# Here a GPU may refuse one thing and have the others: a clock domain, a threshold.
_BY_LAST_ARGUMENT = frozenset(
    {"nvmlDeviceGetClockInfo", "nvmlDeviceGetMaxClockInfo", "nvmlDeviceGetTemperatureThreshold"}
)


class GpuUnavailable(Exception):
    """This GPU answers no longer. `state` and `reason` are what its readings say from now on."""

    def __init__(self, state: GpuState, reason: str) -> None:
        super().__init__(reason)
        self.state = state
        self.reason = reason


class DriverGone(Exception):
    """The driver as a whole answers no longer; `code` is NVML's return code."""

    def __init__(self, function: str, code: int) -> None:
        super().__init__(describe(function, code))
        self.code = code


class Missed(Exception):
    """No value this time, and none expected of another variant of the call."""


class Calls:
    """Calls NVML functions by name and keeps account. Totals are since the process started."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.counts: dict[str, int] = {}
        self.errors: dict[str, int] = {}
        self.missing: set[str] = set()  # this driver does not have the function
        self.forbidden: set[str] = set()  # a right is missing
        self.unsupported: set[tuple[str, str]] = set()  # (GPU, function)

    def forget_gpus(self) -> None:
        """After the driver was initialised anew, everything is asked again."""
        self.missing.clear()
        self.unsupported.clear()
        self.forbidden.clear()

    def forget_gpu(self, gpu: str) -> None:
        """After its MIG devices were made anew, this GPU is asked everything again."""
        self.unsupported = {known for known in self.unsupported if known[0] != gpu}

    def knows_not(self, gpu: str, function: str) -> bool:
        """Whether it is known that `gpu` never answers `function`."""
        return function in self.missing or (gpu, function) in self.unsupported

    def raw(self, function: str, *arguments: Any) -> Any:
        """One call, timed and counted. Raises pynvml.NVMLError."""
        call = _INSTEAD.get(function) or getattr(pynvml, function)
        began = time.perf_counter()  # a stopwatch, no instant: those come with the tick
        try:
            return call(*arguments)
        finally:
            self.seconds[function] = self.seconds.get(function, 0.0) + time.perf_counter() - began
            self.counts[function] = self.counts.get(function, 0) + 1

    def value(self, gpu: str, function: str, *arguments: Any) -> Any:
        """What `function` says about `gpu`, or None if there is nothing.

        Raises `GpuUnavailable` or `DriverGone` when more than this one call has failed, `Missed` when the call
        failed for now.
        """
        what = f"{function}({arguments[-1]})" if function in _BY_LAST_ARGUMENT else function
        if function in self.missing or (gpu, what) in self.unsupported:
            return None
        try:
            return self.raw(function, *arguments)
        except pynvml.NVMLError as error:
            return self.judge(gpu, function, error.value, what)

    def first_of(self, gpu: str, *variants: tuple[Any, ...]) -> Any:
        """The answer of the first variant that this driver and GPU have; None if they have none."""
        for function, *arguments in variants:
            answer = self.value(gpu, function, *arguments)
            if answer is not None:
                return answer
        return None

    def judge(self, gpu: str, function: str, code: int, what: str = "") -> None:
        """Remember, count or raise, by what the code means (codes.verdict). `what`: the part that is refused."""
        meaning = verdict(code)
        if meaning == "empty":
            return
        if meaning == "unsupported":
            self.unsupported.add((gpu, what or function))
            return
        if meaning == "missing":
            self.missing.add(function)
            return
        if meaning in ("lost", "reset_required"):
            state: GpuState = "lost" if meaning == "lost" else "reset_required"
            raise GpuUnavailable(state, LOST_REASONS[code])
        if meaning in ("no_driver", "no_library", "replace"):
            raise DriverGone(function, code)
        if meaning == "forbidden":
            # Rights do not come back while the process lives, and asking each second would not help.
            self.forbidden.add(function)
            self.unsupported.add((gpu, function))
            return
        text = describe(function, code)
        self.errors[text] = self.errors.get(text, 0) + 1
        raise Missed(text)
