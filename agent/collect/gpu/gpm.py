"""Profiling ratios (GPM) between two samples of a GPU or of a MIG GPU instance. Hopper and newer."""

from collections.abc import Callable
from typing import Any

import pynvml

from agent.collect.gpu import sane
from agent.collect.gpu.calls import Calls, Missed
from agent.collect.gpu.meters import NS
from agent.core.gpu_readings import GpuActivity

_METRICS = {
    pynvml.NVML_GPM_METRIC_GRAPHICS_UTIL: "graphics_engine_ratio",
    pynvml.NVML_GPM_METRIC_SM_UTIL: "sm_ratio",
    pynvml.NVML_GPM_METRIC_SM_OCCUPANCY: "sm_occupancy_ratio",
    pynvml.NVML_GPM_METRIC_ANY_TENSOR_UTIL: "tensor_ratio",
    pynvml.NVML_GPM_METRIC_DRAM_BW_UTIL: "dram_ratio",
    pynvml.NVML_GPM_METRIC_FP64_UTIL: "fp64_ratio",
    pynvml.NVML_GPM_METRIC_FP32_UTIL: "fp32_ratio",
    pynvml.NVML_GPM_METRIC_FP16_UTIL: "fp16_ratio",
}
METRICS_GET = "nvmlGpmMetricsGet"
_EARLY_NS = NS // 10  # a tick may come so much early

Take = Callable[[Any], Any]  # a sample into this buffer; None: there is none. Raises as `Calls.value`


class GpmSampler:
    """Owns two sample buffers, until `free`."""

    def __init__(self, calls: Calls, gpu: str, max_gap_ns: int) -> None:
        """Samples further apart than `max_gap_ns` are not compared."""
        self._calls = calls
        self._gpu = gpu
        self._max_gap_ns = max_gap_ns
        self._older: Any = None
        self._spare: Any = None
        self._older_ns: int | None = None  # boot time of the sample in `_older`; None: it holds none
        self._buffers: list[Any] = []
        self._last: GpuActivity | None = None

    def read(self, take: Take, boot_ns: int, period_ns: int) -> GpuActivity | None:
        """Ratios over the time since the sample before, every `period_ns`; in between, the last ones again.

        None before the second sample and when the GPU has none. Raises `GpuUnavailable` and `DriverGone`.
        """
        if self._older_ns is not None and boot_ns - self._older_ns < period_ns - _EARLY_NS:
            return self._last
        before_ns, self._last = self._older_ns, None
        try:
            if not self._ready() or take(self._spare) is None:
                self._older_ns = None
                return None
            self._older, self._spare, self._older_ns = self._spare, self._older, boot_ns
            if before_ns is not None and boot_ns - before_ns <= max(self._max_gap_ns, 3 * period_ns):
                self._last = self._between(self._spare, self._older)
        except Missed:
            pass  # counted; the newest sample stays as the one to compare with
        return self._last

    def free(self) -> None:
        """Give the buffers back; before nvmlShutdown, after which they are the driver's no more."""
        self._older = self._spare = None
        self.reseed()
        while self._buffers:
            try:
                self._calls.raw("nvmlGpmSampleFree", self._buffers.pop())
            except pynvml.NVMLError:
                pass  # the driver is gone, and its memory with it

    def reseed(self) -> None:
        """What was sampled is another thing now."""
        self._older_ns, self._last = None, None

    def _ready(self) -> bool:
        while len(self._buffers) < 2:
            buffer = self._calls.value(self._gpu, "nvmlGpmSampleAlloc")
            if buffer is None:
                return False
            self._buffers.append(buffer)
            self._older, self._spare = self._spare, buffer
        return True

    def _between(self, older: Any, newer: Any) -> GpuActivity | None:
        asked = pynvml.c_nvmlGpmMetricsGet_t()
        asked.version = pynvml.NVML_GPM_METRICS_GET_VERSION
        asked.numMetrics = len(_METRICS)
        asked.sample1, asked.sample2 = older, newer
        for slot, number in enumerate(_METRICS):
            asked.metrics[slot].metricId = number
        if self._calls.value(self._gpu, METRICS_GET, asked) is None:
            return None
        ratios = {}
        for slot, name in enumerate(_METRICS.values()):
            metric = asked.metrics[slot]
            if metric.nvmlReturn == pynvml.NVML_SUCCESS:
                ratios[name] = self._ratio(metric.value)
        return GpuActivity(**ratios) if ratios else None

    def _ratio(self, percent: float) -> float | None:
        ratio = sane.ratio(percent)
        if ratio is None or sane.overshoots(percent):
            text = f"{METRICS_GET}: {'no percentage' if ratio is None else 'over 100 %'} (0)"
            self._calls.errors[text] = self._calls.errors.get(text, 0) + 1
        return ratio
