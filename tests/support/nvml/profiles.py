"""The profiling metrics (GPM) of the simulator as rows: those of the time between two writings of the table."""

import ctypes
import struct
from collections.abc import Iterator
from typing import Any

import pynvml

from agent.collect.gpu.raw import SUCCESS, device_at
from tests.support.nvml.render import Row

_METRICS = range(1, 98)
_WHOLE_GPU = 0xFFFFFFFF
_INSTANCES = (_WHOLE_GPU, *range(15))


class Profiles:
    """Keeps one sample of each GPU and GPU instance, to be compared with the next."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self._older: dict[tuple[int, int], Any] = {}
        self._rows: dict[tuple[int, int], list[Row]] = {}

    def rows(self, handle: int) -> Iterator[Row]:
        """What sampling returns, and each metric since the writing before."""
        for instance in _INSTANCES:
            sample = pynvml.c_nvmlGpmSample_t()
            self._library.nvmlGpmSampleAlloc(ctypes.byref(sample))
            if instance == _WHOLE_GPU:
                code = self._library.nvmlGpmSampleGet(device_at(handle), sample)
                yield Row(("nvmlGpmSampleGet", handle), code)
            else:
                code = self._library.nvmlGpmMigSampleGet(device_at(handle), instance, sample)
                yield Row(("nvmlGpmMigSampleGet", handle, instance), code)
            yield from self._compared((handle, instance), sample, code)

    def _compared(self, what: tuple[int, int], sample: Any, code: int) -> list[Row]:
        older = self._older.get(what)
        found = self._metrics(what, older, sample) if older is not None and code == SUCCESS else []
        if found or code != SUCCESS:
            self._rows[what] = found
        if code != SUCCESS or (older is not None and not found):
            self._library.nvmlGpmSampleFree(sample)  # no time has passed: the older one is still good
            return self._rows.get(what, [])
        if older is not None:
            self._library.nvmlGpmSampleFree(older)
        self._older[what] = sample
        return self._rows.get(what, [])

    def _metrics(self, what: tuple[int, int], older: Any, newer: Any) -> list[Row]:
        asked = pynvml.c_nvmlGpmMetricsGet_t()
        asked.version, asked.numMetrics = 1, len(_METRICS)
        asked.sample1, asked.sample2 = older, newer
        for place, number in enumerate(_METRICS):
            asked.metrics[place].metricId = number
        if self._library.nvmlGpmMetricsGet(ctypes.byref(asked)) != SUCCESS:
            return []
        return [
            Row(("nvmlGpmMetricsGet", *what, metric.metricId), SUCCESS, struct.pack("<d", metric.value))
            for metric in asked.metrics[: len(_METRICS)]
            if metric.nvmlReturn == SUCCESS
        ]
