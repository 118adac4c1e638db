"""ECC, retired pages, remapped rows and what the driver wants done, of a simulated GPU."""

from collections.abc import Callable
from typing import Any

from agent.demo.gpus.answers.outs import NOT_SUPPORTED, TYPE_UNSIGNED_INT, TYPE_UNSIGNED_LONG_LONG, fill, put
from agent.demo.gpus.model import SimulatedGpu

_ECC = {
    (0, 0): "corrected_volatile",
    (1, 0): "uncorrected_volatile",
    (0, 1): "corrected_aggregate",
    (1, 1): "uncorrected_aggregate",
}
_BANKS = ("max", "high", "partial", "low", "none")


def _ecc(gpu: SimulatedGpu, kind: str) -> int | None:
    return gpu.wishes.ecc_errors.get(kind, 0) if gpu.facts.board.ecc else None


def _total_ecc(gpu: SimulatedGpu, kind: Any, counter: Any, out: Any) -> int:
    return put(out, _ecc(gpu, _ECC[kind.value, counter.value]))


def _ecc_mode(gpu: SimulatedGpu, current: Any, pending: Any) -> int:
    mode = gpu.facts.board.ecc
    return NOT_SUPPORTED if mode is None else put(current, mode) or put(pending, mode)


def _retired(gpu: SimulatedGpu, kind: str) -> int | None:
    return gpu.wishes.retired_pages.get(kind, 0) if gpu.facts.board.retires_pages else None


def _retired_pending(gpu: SimulatedGpu) -> int | None:
    return int(gpu.wishes.retired_pages_pending) if gpu.facts.board.retires_pages else None


def _remaps(gpu: SimulatedGpu) -> tuple[int, int, int, int] | None:
    """Rows remapped for corrected and uncorrected errors; whether some are pending, or failed."""
    wishes = gpu.wishes
    if gpu.facts.board.row_remap_banks is None:
        return None
    rows = [wishes.remapped_rows.get(kind, 0) for kind in ("corrected", "uncorrected")]
    return rows[0], rows[1], int(wishes.row_remap_pending), int(wishes.row_remap_failed)


def _remap(gpu: SimulatedGpu, which: int) -> int | None:
    remaps = _remaps(gpu)
    return None if remaps is None else remaps[which]


def _remapped_rows(gpu: SimulatedGpu, *outs: Any) -> int:
    remaps = _remaps(gpu)
    if remaps is None:
        return NOT_SUPPORTED
    for out, value in zip(outs, remaps, strict=True):
        put(out, value)
    return 0


def _histogram(gpu: SimulatedGpu, out: Any) -> int:
    banks = gpu.facts.board.row_remap_banks
    if banks is None:
        return NOT_SUPPORTED
    wanted = {"max": banks} if gpu.wishes.row_remap_banks is None else gpu.wishes.row_remap_banks
    return fill(out, **{name: wanted.get(name, 0) for name in _BANKS})


DEVICE: dict[str, Callable[..., int | None]] = {
    "nvmlDeviceGetEccMode": _ecc_mode,
    "nvmlDeviceGetTotalEccErrors": _total_ecc,
    "nvmlDeviceGetRemappedRows": _remapped_rows,
    "nvmlDeviceGetRowRemapperHistogram": _histogram,
    "nvmlDeviceGetRetiredPagesPendingStatus": lambda gpu, out: put(out, _retired_pending(gpu)),
}

FIELDS: dict[int, tuple[int, Callable[[SimulatedGpu, int], float | None]]] = {
    1: (TYPE_UNSIGNED_INT, lambda gpu, _scope: gpu.facts.board.ecc),
    2: (TYPE_UNSIGNED_INT, lambda gpu, _scope: gpu.facts.board.ecc),
    3: (TYPE_UNSIGNED_LONG_LONG, lambda gpu, _scope: _ecc(gpu, "corrected_volatile")),
    4: (TYPE_UNSIGNED_LONG_LONG, lambda gpu, _scope: _ecc(gpu, "uncorrected_volatile")),
    5: (TYPE_UNSIGNED_LONG_LONG, lambda gpu, _scope: _ecc(gpu, "corrected_aggregate")),
    6: (TYPE_UNSIGNED_LONG_LONG, lambda gpu, _scope: _ecc(gpu, "uncorrected_aggregate")),
    29: (TYPE_UNSIGNED_INT, lambda gpu, _scope: _retired(gpu, "single_bit")),
    30: (TYPE_UNSIGNED_INT, lambda gpu, _scope: _retired(gpu, "double_bit")),
    31: (TYPE_UNSIGNED_INT, lambda gpu, _scope: _retired_pending(gpu)),
    142: (TYPE_UNSIGNED_INT, lambda gpu, _scope: _remap(gpu, 0)),
    143: (TYPE_UNSIGNED_INT, lambda gpu, _scope: _remap(gpu, 1)),
    144: (TYPE_UNSIGNED_INT, lambda gpu, _scope: _remap(gpu, 2)),
    145: (TYPE_UNSIGNED_INT, lambda gpu, _scope: _remap(gpu, 3)),
    230: (TYPE_UNSIGNED_INT, lambda gpu, _scope: gpu.wishes.recovery_action),
}
