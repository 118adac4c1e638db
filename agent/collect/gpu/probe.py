"""Every NVML function asked about one GPU: its return code, what kind of value it gave, and how long it took."""

import ctypes
import statistics
import time
from collections.abc import Callable
from typing import Any

import pynvml

from agent.collect.gpu.raw import SUCCESS, Answer, Call, Choices, answers, choices_of, device_at, words
from agent.collect.gpu.shapes import SHAPES, STATEFUL

FUNCTION_NOT_FOUND = 13
ROUNDS = 3  # the median of so many
_FIELDS_AT_ONCE = 64
_LAST_FIELD = 320
_BLANK_BITS = (2**32 - 1, 2**64 - 1)  # what NVML says for "not available"

# Asking a GPU for these would change something, or is not about a GPU.
_NOT_ASKED = {"nvmlShutdown", "nvmlInitWithFlags", "nvmlErrorString"}

Found = dict[str, Any]  # code, kind, seconds: those that are not 0 or empty


def probe(
    library: Any, handle: int, known: Choices, tell: Callable[[str], None], gpu_instance: int = 0
) -> dict[str, Found]:
    """All functions by name. `tell` hears the name of each before it is called: a call may take seconds.

    `gpu_instance`: one that exists, where the GPU is in MIG mode.
    """
    found: dict[str, Found] = {}
    for function in SHAPES:
        if function == "nvmlDeviceGetFieldValues" or not words(function)[0].startswith("h"):
            continue
        tell(function)
        found[function] = _one(library, function, handle, known)
    tell("nvmlDeviceGetFieldValues")
    codes, seconds = fields(library, handle)
    right = [code for code in codes.values() if code == SUCCESS]
    found["nvmlDeviceGetFieldValues"] = _as_found(SUCCESS if right else FUNCTION_NOT_FOUND, "struct", seconds)
    found |= _stateful(library, handle, gpu_instance)
    return found


def system(library: Any, known: Choices) -> dict[str, Found]:
    """The functions that are about the node."""
    about_node = [name for name in SHAPES if not words(name)[0].startswith(("h", "g", "x"))]
    return {name: _one(library, name, None, known) for name in about_node}


def _one(library: Any, function: str, handle: int | None, known: Choices) -> Found:
    if not _has(library, function):
        return _as_found(FUNCTION_NOT_FOUND, "", 0.0)
    handles = {kind: [] if handle is None else [handle] for kind in "hgx"}
    if not all(list(choices_of(word, known)) for word in words(function)):
        return {}  # it asks about processes, and there is none
    codes, kinds = [], []
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()  # a stopwatch, no instant
        round_of = list(answers(library, function, handles, known))
        times.append((time.perf_counter() - began) / max(1, len(round_of)))
        codes = [answer.code for answer in round_of]
        kinds = [_kind(answer) for answer in round_of]
    best = codes.index(SUCCESS) if SUCCESS in codes else 0
    return _as_found(codes[best], kinds[best], statistics.median(times))


def fields(library: Any, handle: int) -> tuple[dict[int, int], float]:
    """Return code of each field value, and the median time of a batch."""
    codes: dict[int, int] = {}
    times = []
    if not _has(library, "nvmlDeviceGetFieldValues"):
        return {}, 0.0
    for first in range(1, _LAST_FIELD, _FIELDS_AT_ONCE):
        items = (pynvml.c_nvmlFieldValue_t * _FIELDS_AT_ONCE)()
        for place in range(_FIELDS_AT_ONCE):
            items[place].fieldId = first + place
        began = time.perf_counter()
        code = library.nvmlDeviceGetFieldValues(device_at(handle), ctypes.c_int32(_FIELDS_AT_ONCE), ctypes.byref(items))
        times.append(time.perf_counter() - began)
        for item in items:
            codes[item.fieldId] = item.nvmlReturn if code == SUCCESS else code
    return codes, statistics.median(times)


def _stateful(library: Any, handle: int, gpu_instance: int) -> dict[str, Found]:
    """Event sets and profiling samples: made, used once and given back."""
    event_set, older, newer = pynvml.c_nvmlEventSet_t(), pynvml.c_nvmlGpmSample_t(), pynvml.c_nvmlGpmSample_t()
    event, asked = pynvml.c_nvmlEventData_t(), pynvml.c_nvmlGpmMetricsGet_t()
    asked.version, asked.numMetrics = pynvml.NVML_GPM_METRICS_GET_VERSION, 1
    asked.metrics[0].metricId = 1
    device, soon = device_at(handle), ctypes.c_uint(0)
    steps: list[tuple[str, Callable[[], tuple[Any, ...]]]] = [
        ("nvmlEventSetCreate", lambda: (ctypes.byref(event_set),)),
        ("nvmlDeviceRegisterEvents", lambda: (device, ctypes.c_ulonglong(8), event_set)),
        ("nvmlEventSetWait_v2", lambda: (event_set, ctypes.byref(event), soon)),
        ("nvmlEventSetFree", lambda: (event_set,)),
        ("nvmlGpmSampleAlloc", lambda: (ctypes.byref(older),)),
        ("nvmlGpmSampleAlloc", lambda: (ctypes.byref(newer),)),
        ("nvmlGpmSampleGet", lambda: (device, older)),
        ("nvmlGpmMigSampleGet", lambda: (device, ctypes.c_uint(gpu_instance), newer)),
        ("nvmlGpmSampleGet", lambda: (device, newer)),
        ("nvmlGpmMetricsGet", lambda: (_with_samples(asked, older, newer),)),
        ("nvmlGpmSampleFree", lambda: (older,)),
        ("nvmlGpmSampleFree", lambda: (newer,)),
    ]
    found: dict[str, Found] = {}
    for function, arguments in steps:
        made = event_set if "Event" in function else newer if "Alloc" not in function else True
        if not made or not _has(library, function):
            found.setdefault(function, _as_found(FUNCTION_NOT_FOUND, "", 0.0))
            continue
        began = time.perf_counter()
        code = getattr(library, function)(*arguments())
        found[function] = _as_found(code, "", time.perf_counter() - began)
    return found


def _with_samples(asked: Any, older: Any, newer: Any) -> Any:
    asked.sample1, asked.sample2 = older, newer
    return ctypes.byref(asked)


def _has(library: Any, function: str) -> bool:
    return getattr(library, function, None) is not None


def _as_found(code: int, kind: str, seconds: float) -> Found:
    found = {"code": code, "kind": kind if code == SUCCESS else "", "seconds": round(seconds, 9)}
    return {key: value for key, value in found.items() if value}


def _kind(answer: Answer) -> str:
    """Class of the first output: nothing in it says who the machine is."""
    call: Call = answer.call
    if answer.code != SUCCESS or not call.outs:
        return ""
    kind, out, _ = call.outs[0]
    if kind == "s":
        return "text" if out.value else "empty text"
    if kind != "o":
        return "list" if call.wanted() else "empty list"
    value = getattr(out, "value", None)
    if value is None:
        return "struct"
    return "blank" if value in _BLANK_BITS else "number" if value else "zero"


ALL_FUNCTIONS = tuple(name for name in (*SHAPES, *STATEFUL) if name not in _NOT_ASKED)
