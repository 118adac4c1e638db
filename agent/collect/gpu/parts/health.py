"""Memory errors of the GPU, what the driver did about them, and what it wants done."""

from collections.abc import Mapping
from typing import Any

import pynvml

from agent.collect.gpu import sane
from agent.collect.gpu.parts.part import FIELD_VALUES, Asker, FieldKey, Fields, Moment, Tier
from agent.core.gpu_readings import RECOVERY_ACTIONS, GpuErrors

ECC_MODE = FieldKey(1)
_ECC = {
    "corrected_volatile": FieldKey(3),
    "uncorrected_volatile": FieldKey(4),
    "corrected_aggregate": FieldKey(5),
    "uncorrected_aggregate": FieldKey(6),
}
_ECC_CALLS = {
    "corrected_volatile": (pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED, pynvml.NVML_VOLATILE_ECC),
    "uncorrected_volatile": (pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC),
    "corrected_aggregate": (pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED, pynvml.NVML_AGGREGATE_ECC),
    "uncorrected_aggregate": (pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_AGGREGATE_ECC),
}
_RETIRED = {"single_bit": FieldKey(29), "double_bit": FieldKey(30)}
_RETIRED_PENDING = FieldKey(31)
_REMAPPED = {"corrected": FieldKey(142), "uncorrected": FieldKey(143)}
_REMAP_PENDING, _REMAP_FAILED = FieldKey(144), FieldKey(145)
_RECOVERY_ACTION = FieldKey(230)


_BANKS = ("max", "high", "partial", "low", "none")  # of spare rows that a bank has left


class Health:
    """ECC counters, retired pages, remapped rows, recovery action. In one batch, with calls for older drivers."""

    tier: Tier = "rare"
    fields: tuple[FieldKey, ...] = (
        ECC_MODE,
        *_ECC.values(),
        *_RETIRED.values(),
        _RETIRED_PENDING,
        *_REMAPPED.values(),
        _REMAP_PENDING,
        _REMAP_FAILED,
        _RECOVERY_ACTION,
    )

    def read(self, asker: Asker, fields: Fields, _known: Mapping[str, Any], _now: Moment) -> dict[str, Any]:
        """A `GpuErrors`."""
        enabled = ecc_mode(asker, fields)
        remapped = _remapped(asker, fields)
        found = GpuErrors(
            ecc_enabled=enabled,
            ecc_errors=_ecc(asker, fields) if enabled else None,
            retired_pages=_counts(fields, _RETIRED),
            retired_pages_pending=_flag(fields.get(_RETIRED_PENDING)),
            remapped_rows=remapped[0],
            row_remap_pending=remapped[1],
            row_remap_failed=remapped[2],
            row_remap_banks=_banks(asker),
            recovery_action=_action(fields.get(_RECOVERY_ACTION)),
        )
        return {} if found == GpuErrors() else {"errors": found}


def without_fields(asker: Asker, key: FieldKey) -> bool:
    """Whether a call is to be made instead of the field."""
    return key in asker.refused or asker.calls.knows_not(asker.gpu, FIELD_VALUES)


def ecc_mode(asker: Asker, fields: Fields) -> bool | None:
    """Whether ECC is on now; None where the memory has none."""
    mode = fields.get(ECC_MODE)
    if mode is None and without_fields(asker, ECC_MODE):
        both = asker.try_ask("nvmlDeviceGetEccMode")  # current, after the next reset
        mode = None if both is None else both[0]
    return _flag(mode)


def _counts(fields: Fields, keys: Mapping[str, FieldKey]) -> dict[str, int] | None:
    counted = {kind: sane.count(fields.get(key)) for kind, key in keys.items()}
    return {kind: value for kind, value in counted.items() if value is not None} or None


def _ecc(asker: Asker, fields: Fields) -> dict[str, int] | None:
    counted = _counts(fields, _ECC)
    if counted is None and all(without_fields(asker, key) for key in _ECC.values()):
        answers = {
            kind: sane.count(asker.try_ask("nvmlDeviceGetTotalEccErrors", *which)) for kind, which in _ECC_CALLS.items()
        }
        counted = {kind: value for kind, value in answers.items() if value is not None} or None
    return counted


def _remapped(asker: Asker, fields: Fields) -> tuple[dict[str, int] | None, bool | None, bool | None]:
    rows = _counts(fields, _REMAPPED)
    pending, failed = _flag(fields.get(_REMAP_PENDING)), _flag(fields.get(_REMAP_FAILED))
    if rows is None and without_fields(asker, _REMAPPED["corrected"]):
        answer = asker.try_ask("nvmlDeviceGetRemappedRows")
        if answer is not None:
            corrected, uncorrected = (sane.small_count(value) for value in answer[:2])
            rows = {
                kind: value
                for kind, value in (("corrected", corrected), ("uncorrected", uncorrected))
                if value is not None
            }
            pending, failed = _flag(answer[2]), _flag(answer[3])
    return rows, pending, failed


def _banks(asker: Asker) -> dict[str, int] | None:
    histogram = asker.try_ask("nvmlDeviceGetRowRemapperHistogram")
    if histogram is None:
        return None
    # pynvml calls the last member `none` too; all five are 32 bits wide.
    counted = {kind: sane.small_count(getattr(histogram, kind)) for kind in _BANKS}
    return {kind: value for kind, value in counted.items() if value is not None} or None


def _flag(value: float | None) -> bool | None:
    return None if value not in (0, 1) else bool(value)


def _action(value: float | None) -> str | None:
    number = sane.small_count(value)
    if number is None:
        return None
    return RECOVERY_ACTIONS[number] if number < len(RECOVERY_ACTIONS) else f"action {number}"
