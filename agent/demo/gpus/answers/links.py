"""PCIe and NVLink of a simulated GPU."""

from collections.abc import Callable
from typing import Any

from agent.demo.gpus.answers.outs import (
    INVALID_ARGUMENT,
    NOT_SUPPORTED,
    TYPE_UNSIGNED_INT,
    TYPE_UNSIGNED_LONG_LONG,
    fill,
    put,
)
from agent.demo.gpus.model import SimulatedGpu

ALL_LINKS = 0xFFFFFFFF
_KIB = 1024
Field = tuple[int, Callable[[SimulatedGpu, int], float | None]]


def _pcie(gpu: SimulatedGpu, total: float) -> float | None:
    if gpu.facts.board.pcie_generation is None:
        return None
    return int(total) % (1 << gpu.facts.board.pcie_bits)


def _of_links(gpu: SimulatedGpu, scope: int, value: float, *, generation_5: bool) -> float | None:
    """A counter of all links (`value`) or one of them."""
    board = gpu.facts.board
    if not board.nvlinks or (board.nvlink_generation >= 5) is not generation_5:
        return None
    if scope == ALL_LINKS:
        return value
    return value / board.nvlinks if scope < board.nvlinks else None


def _errors_in_all(gpu: SimulatedGpu, _scope: int) -> float | None:
    return _of_links(gpu, ALL_LINKS, gpu.wishes.nvlink_errors, generation_5=False)


def _errors_of_link_5(gpu: SimulatedGpu, scope: int) -> float | None:
    return _of_links(gpu, scope, gpu.wishes.nvlink_errors, generation_5=True)


def _state(gpu: SimulatedGpu, link: int) -> int | None:
    return int(link not in gpu.wishes.nvlinks_down) if link < gpu.facts.board.nvlinks else None


def _nvlink_state(gpu: SimulatedGpu, link: Any, out: Any) -> int:
    number = getattr(link, "value", link)
    return put(out, _state(gpu, number)) if gpu.facts.board.nvlinks else NOT_SUPPORTED


def _throughput(gpu: SimulatedGpu, which: Any, out: Any) -> int:
    if gpu.facts.board.pcie_generation is None:
        return NOT_SUPPORTED
    if which.value not in (0, 1):
        return INVALID_ARGUMENT
    full = gpu.load * gpu.facts.board.full_pcie_bytes_per_second
    return put(out, (full / 4 if which.value == 0 else full) / _KIB)


def _bar1(gpu: SimulatedGpu, out: Any) -> int:
    board = gpu.facts.board
    if board.bar1_total_bytes is None:
        return NOT_SUPPORTED
    used = board.bar1_used_bytes
    return fill(out, bar1Total=board.bar1_total_bytes, bar1Used=used, bar1Free=board.bar1_total_bytes - used)


def _replays(gpu: SimulatedGpu) -> int | None:
    return None if gpu.facts.board.pcie_generation is None else gpu.wishes.pcie_replays


def _pcie_errors(gpu: SimulatedGpu, _scope: int) -> int | None:
    return None if gpu.facts.board.pcie_generation is None else gpu.wishes.pcie_errors


def _generation(gpu: SimulatedGpu) -> int | None:
    """Some GPUs let the link rest while they do."""
    return (gpu.recorded or gpu.facts.idle).pcie_generation or gpu.facts.board.pcie_generation


DEVICE: dict[str, Callable[..., int | None]] = {
    "nvmlDeviceGetCurrPcieLinkGeneration": lambda gpu, out: put(out, _generation(gpu)),
    "nvmlDeviceGetMaxPcieLinkGeneration": lambda gpu, out: put(out, gpu.facts.board.pcie_generation),
    "nvmlDeviceGetGpuMaxPcieLinkGeneration": lambda gpu, out: put(out, gpu.facts.board.pcie_generation),
    "nvmlDeviceGetCurrPcieLinkWidth": lambda gpu, out: put(out, gpu.facts.board.pcie_width),
    "nvmlDeviceGetMaxPcieLinkWidth": lambda gpu, out: put(out, gpu.facts.board.pcie_width),
    "nvmlDeviceGetPcieReplayCounter": lambda gpu, out: put(out, _replays(gpu)),
    "nvmlDeviceGetPcieThroughput": _throughput,
    "nvmlDeviceGetNvLinkState": _nvlink_state,
    "nvmlDeviceGetBAR1MemoryInfo": _bar1,
}

FIELDS: dict[int, Field] = {
    91: (TYPE_UNSIGNED_INT, lambda gpu, _scope: gpu.facts.board.nvlinks or None),
    94: (TYPE_UNSIGNED_INT, lambda gpu, _scope: _replays(gpu)),
    138: (
        TYPE_UNSIGNED_LONG_LONG,
        lambda gpu, scope: _of_links(gpu, scope, gpu.counters.nvlink / _KIB, generation_5=False),
    ),
    139: (
        TYPE_UNSIGNED_LONG_LONG,
        lambda gpu, scope: _of_links(gpu, scope, gpu.counters.nvlink / _KIB, generation_5=False),
    ),
    165: (TYPE_UNSIGNED_INT, _state),
    197: (TYPE_UNSIGNED_LONG_LONG, lambda gpu, _scope: _pcie(gpu, gpu.counters.pcie_transmitted)),
    198: (TYPE_UNSIGNED_LONG_LONG, lambda gpu, _scope: _pcie(gpu, gpu.counters.pcie_received)),
    202: (TYPE_UNSIGNED_LONG_LONG, lambda gpu, scope: _of_links(gpu, scope, gpu.counters.nvlink, generation_5=True)),
    204: (TYPE_UNSIGNED_LONG_LONG, lambda gpu, scope: _of_links(gpu, scope, gpu.counters.nvlink, generation_5=True)),
    **dict.fromkeys((38, 45, 52, 59, 160), (TYPE_UNSIGNED_LONG_LONG, _errors_in_all)),
    **dict.fromkeys(range(173, 184), (TYPE_UNSIGNED_INT, _pcie_errors)),
    **dict.fromkeys((*range(206, 213), 213, 214, 215, 219, 221), (TYPE_UNSIGNED_LONG_LONG, _errors_of_link_5)),
}
