"""The one door to NVML: every call is timed, counted, and remembered when it can never succeed."""

import time
from collections.abc import Callable
from typing import Any

import pynvml

from agent.collect.gpu.codes import LOST_REASONS, describe, verdict
from agent.core.gpu_readings import GpuState

# pynvml reaches these versions of a function through an argument; here every version has its own name.
_BY_ARGUMENT: dict[str, Callable[..., Any]] = {
    "nvmlDeviceGetMemoryInfo_v2": lambda handle: pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2),
}


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

    def knows_not(self, gpu: str, function: str) -> bool:
        """Whether it is known that `gpu` never answers `function`."""
        return function in self.missing or (gpu, function) in self.unsupported

    def raw(self, function: str, *arguments: Any) -> Any:
        """One call, timed and counted. Raises pynvml.NVMLError."""
        call = _BY_ARGUMENT.get(function) or getattr(pynvml, function)
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
        if self.knows_not(gpu, function):
            return None
        try:
            return self.raw(function, *arguments)
        except pynvml.NVMLError as error:
            return self.judge(gpu, function, error.value)

    def first_of(self, gpu: str, *variants: tuple[Any, ...]) -> Any:
        """The answer of the first variant that this driver and GPU have; None if they have none."""
        for function, *arguments in variants:
            answer = self.value(gpu, function, *arguments)
            if answer is not None:
                return answer
        return None

    def judge(self, gpu: str, function: str, code: int) -> None:
        """Remember, count or raise, by what the code means (codes.verdict)."""
        meaning = verdict(code)
        if meaning == "empty":
            return
        if meaning == "unsupported":
            self.unsupported.add((gpu, function))
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
