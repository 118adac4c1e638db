"""How much of a GPU's SM time each process had: NVML's samples in, ratios by pid out."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from agent.collect.gpu.calls import Missed
from agent.collect.gpu.parts.part import Asker

_FUNCTION = "nvmlDeviceGetProcessUtilization"
_SECOND_US = 1_000_000
_AHEAD_US = 5 * _SECOND_US  # a stamp further in the future than this is no stamp
_MOST_PERCENT = 110  # rounding may give a little over 100; what is far over it is no percentage


class DeviceLoad:
    """Mean utilisation of the GPU since it was last asked for."""

    def __init__(self) -> None:
        self._sum = 0.0
        self._count = 0

    def add(self, ratio: float | None) -> None:
        """The utilisation of one tick; None: not known."""
        if ratio is not None:
            self._sum += ratio
            self._count += 1

    def take(self) -> float | None:
        """The mean, and begin again."""
        mean = self._sum / self._count if self._count else None
        self._sum, self._count = 0.0, 0
        return mean


class ProcessLoad:
    """Reads the samples that are new since the last look. One for each GPU."""

    def __init__(self) -> None:
        self._seen_us: int | None = None

    def read(self, asker: Asker, pids: Iterable[int], device: float | None, unix_ns: int) -> Mapping[int, float]:
        """Ratio by pid, of those `pids` that have a sample; their sum is `device` at most.

        The driver keeps samples of busy moments only, so their mean is too high for who works in bursts. Where together
        they are more than the mean utilisation of the GPU in the same time, all are scaled down to it.
        Raises `GpuUnavailable` and `DriverGone`.
        """
        now_us = unix_ns // 1000
        since_us = self._since(now_us)
        try:
            samples = asker.ask(_FUNCTION, since_us) or ()
        except Missed:
            return {}
        wanted = set(pids)
        percents: dict[int, list[int]] = {}
        for sample in samples:
            if not since_us < sample.timeStamp <= now_us + _AHEAD_US:
                continue
            self._seen_us = max(self._seen_us or 0, sample.timeStamp)
            if sample.pid in wanted and self._believable(asker, sample):
                percents.setdefault(sample.pid, []).append(min(sample.smUtil, 100))
        ratios = {pid: sum(values) / len(values) / 100 for pid, values in percents.items()}
        return _scaled(ratios, 1.0 if device is None else device)

    def _since(self, now_us: int) -> int:
        """The newest stamp seen. At first, and after the clock was set back, the last second."""
        if self._seen_us is None or self._seen_us > now_us + _AHEAD_US:
            self._seen_us = max(now_us - _SECOND_US, 0)
        return self._seen_us

    @staticmethod
    def _believable(asker: Asker, sample: Any) -> bool:
        if sample.smUtil <= _MOST_PERCENT:
            return True
        text = f"{_FUNCTION}: no percentage (0)"
        asker.calls.errors[text] = asker.calls.errors.get(text, 0) + 1
        return False


def _scaled(ratios: dict[int, float], most: float) -> dict[int, float]:
    total = math.fsum(ratios.values())
    if total <= most:
        return ratios
    return {pid: ratio * most / total for pid, ratio in ratios.items()}
