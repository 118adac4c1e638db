"""nvmlDeviceGetFieldValues of a simulated GPU: `FIELDS` maps a field to its value type and value."""

from collections.abc import Callable
from typing import Any

from agent.demo.gpus.answers import load_fields
from agent.demo.gpus.answers.outs import (
    NOT_SUPPORTED,
    SUCCESS,
    TYPE_SIGNED_INT,
    TYPE_UNSIGNED_INT,
    TYPE_UNSIGNED_LONG_LONG,
)
from agent.demo.gpus.model import SimulatedGpu

# (field id, GPU, scope id) -> value, None where the GPU has none
Field = Callable[[SimulatedGpu, int], float | None]
FIELDS: dict[int, tuple[int, Field]] = {**load_fields.FIELDS}

_MEMBERS = {TYPE_UNSIGNED_INT: "uiVal", TYPE_UNSIGNED_LONG_LONG: "ullVal", TYPE_SIGNED_INT: "siVal"}


def _fields(gpu: SimulatedGpu, count: Any, out: Any) -> int:
    for item in out._obj[: count.value]:
        kind, about = FIELDS.get(item.fieldId, (0, None))
        value = about(gpu, item.scopeId) if about is not None else None
        if value is None or item.fieldId in gpu.facts.unsupported_fields:
            item.nvmlReturn = NOT_SUPPORTED
            continue
        item.nvmlReturn, item.valueType = SUCCESS, kind
        setattr(item.value, _MEMBERS[kind], round(value))
    return SUCCESS


DEVICE: dict[str, Callable[..., int | None]] = {"nvmlDeviceGetFieldValues": _fields}
