"""nvmlDeviceGetFieldValues of a simulated GPU: `FIELDS` maps a field to its value type and value."""

from collections.abc import Callable
from typing import Any

from agent.demo.gpus.answers import health, links, load_fields
from agent.demo.gpus.answers.outs import (
    INVALID_ARGUMENT,
    NOT_SUPPORTED,
    SUCCESS,
    TYPE_SIGNED_INT,
    TYPE_UNSIGNED_INT,
    TYPE_UNSIGNED_LONG_LONG,
)
from agent.demo.gpus.model import SimulatedGpu

# (field id, GPU, scope id) -> value, None where the GPU has none
Field = Callable[[SimulatedGpu, int], float | None]
FIELDS: dict[int, tuple[int, Field]] = {**load_fields.FIELDS, **links.FIELDS, **health.FIELDS}

FIELD_MOST = 310  # NVML_FI_MAX of the newest header that we know
_MEMBERS = {TYPE_UNSIGNED_INT: "uiVal", TYPE_UNSIGNED_LONG_LONG: "ullVal", TYPE_SIGNED_INT: "siVal"}
_BYTES_OVER_PCIE = (197, 198)
_AVERAGE_POWER = 185


def _fields(gpu: SimulatedGpu, count: Any, out: Any) -> int:
    for item in out._obj[: count.value]:
        item.latencyUsec = gpu.facts.board.average_power_microseconds if item.fieldId == _AVERAGE_POWER else 3
        item.nvmlReturn = _code(gpu, item.fieldId)
        kind, about = FIELDS.get(item.fieldId, (0, None))
        value = about(gpu, item.scopeId) if about is not None else None
        if value is None and item.nvmlReturn == SUCCESS:
            item.nvmlReturn = NOT_SUPPORTED
        if item.nvmlReturn != SUCCESS or value is None:
            continue
        if item.fieldId in _BYTES_OVER_PCIE and gpu.facts.board.pcie_bits == 32:
            kind = TYPE_UNSIGNED_INT
        item.valueType = kind
        setattr(item.value, _MEMBERS[kind], round(gpu.wishes.fields.get(item.fieldId, value)))
    return SUCCESS


def _code(gpu: SimulatedGpu, number: int) -> int:
    if number >= FIELD_MOST:
        return INVALID_ARGUMENT
    return gpu.wishes.field_codes.get(number, NOT_SUPPORTED if number in gpu.facts.unsupported_fields else SUCCESS)


DEVICE: dict[str, Callable[..., int | None]] = {"nvmlDeviceGetFieldValues": _fields}
