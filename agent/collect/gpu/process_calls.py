"""NVML's process lists in one call each, where pynvml makes two: asking for the size costs as much as the list."""

from collections.abc import Callable
from ctypes import byref, c_uint
from typing import Any

import pynvml

_AT_FIRST = 64  # processes; the buffer grows where a GPU has more
_KINDS = ("Compute", "Graphics", "MPSCompute")


class _List:
    """One of the functions, with a buffer that is kept."""

    def __init__(self, function: str) -> None:
        self._function = function
        self._buffer = (pynvml.c_nvmlProcessInfo_v3_t * _AT_FIRST)()  # the struct of `_v2` is the same

    def __call__(self, handle: Any) -> list[Any]:
        """Entries (pid, usedGpuMemory, gpuInstanceId, computeInstanceId), good until the next call.

        Raises pynvml.NVMLError.
        """
        call = pynvml._nvmlGetFunctionPointer(self._function)
        count = c_uint(len(self._buffer))
        code = call(handle, byref(count), self._buffer)
        if code == pynvml.NVML_ERROR_INSUFFICIENT_SIZE:
            # Room for more than there are: processes may have come until the second try.
            self._buffer = (pynvml.c_nvmlProcessInfo_v3_t * (2 * count.value + 5))()
            count = c_uint(len(self._buffer))
            code = call(handle, byref(count), self._buffer)
        if code != pynvml.NVML_SUCCESS:
            raise pynvml.NVMLError(code)
        return [self._buffer[place] for place in range(min(count.value, len(self._buffer)))]


PROCESS_LISTS: dict[str, Callable[[Any], list[Any]]] = {
    function: _List(function)
    for function in (f"nvmlDeviceGet{kind}RunningProcesses{version}" for kind in _KINDS for version in ("_v3", "_v2"))
}
