"""Field values about temperature, power, energy and throttling."""

from collections.abc import Callable

from agent.demo.gpus.answers.outs import TYPE_SIGNED_INT, TYPE_UNSIGNED_INT, TYPE_UNSIGNED_LONG_LONG, milli
from agent.demo.gpus.model import SimulatedGpu

_GPU, _MODULE = 0, 1  # scopes of power
_MODULE_SHARE = 1.5  # of the GPU's power: what a module with a CPU draws, roughly
Field = tuple[int, Callable[[SimulatedGpu, int], float | None]]


def _scale(gpu: SimulatedGpu, scope: int) -> float | None:
    if gpu.wishes.power_of_module_only:
        return _MODULE_SHARE if scope == _MODULE else None
    return 1.0 if scope == _GPU else None


def power(gpu: SimulatedGpu, scope: int) -> float | None:
    """Milliwatts."""
    scale = _scale(gpu, scope)
    return None if scale is None else gpu.power_watts * scale * 1000


def _average(gpu: SimulatedGpu, scope: int) -> float | None:
    return power(gpu, scope) if gpu.facts.board.average_power else None


def energy(gpu: SimulatedGpu, scope: int) -> float | None:
    """Millijoules."""
    scale = _scale(gpu, scope)
    return None if scale is None else gpu.counters.energy(gpu.energy_joules, gpu.wishes.energy) * scale * 1000


def _limit(gpu: SimulatedGpu, scope: int, watts: float | None) -> float | None:
    return None if _scale(gpu, scope) is None else milli(watts)


def _throttled(*bits: int) -> Callable[[SimulatedGpu, int], float | None]:
    def about(gpu: SimulatedGpu, _scope: int) -> float | None:
        if not gpu.facts.board.throttle_counters:
            return None
        return max(gpu.counters.throttled_ns.get(bit, 0) for bit in bits)

    return about


FIELDS: dict[int, Field] = {
    74: (TYPE_UNSIGNED_LONG_LONG, _throttled(0x4)),
    75: (TYPE_UNSIGNED_LONG_LONG, _throttled(0x20, 0x40)),
    76: (TYPE_UNSIGNED_LONG_LONG, _throttled(0x10)),
    77: (TYPE_UNSIGNED_LONG_LONG, _throttled(0x200)),
    78: (TYPE_UNSIGNED_LONG_LONG, _throttled(0x1)),
    79: (TYPE_UNSIGNED_LONG_LONG, _throttled(0x400)),
    82: (TYPE_UNSIGNED_INT, lambda gpu, _scope: gpu.memory_celsius),
    83: (TYPE_UNSIGNED_LONG_LONG, lambda gpu, _scope: energy(gpu, _GPU)),
    185: (TYPE_UNSIGNED_INT, _average),
    186: (TYPE_UNSIGNED_INT, power),
    187: (TYPE_UNSIGNED_INT, lambda gpu, scope: _limit(gpu, scope, gpu.facts.power_limit_min_watts)),
    188: (TYPE_UNSIGNED_INT, lambda gpu, scope: _limit(gpu, scope, gpu.facts.power_limit_max_watts)),
    189: (TYPE_UNSIGNED_INT, lambda gpu, scope: _limit(gpu, scope, gpu.facts.power_limit_default_watts)),
    190: (TYPE_UNSIGNED_INT, lambda gpu, scope: _limit(gpu, scope, gpu.facts.power_limit_watts)),
    191: (TYPE_UNSIGNED_LONG_LONG, energy),
    192: (TYPE_UNSIGNED_INT, lambda gpu, scope: _limit(gpu, scope, gpu.facts.power_limit_watts)),
    193: (TYPE_SIGNED_INT, lambda gpu, _scope: gpu.facts.shutdown_margin_celsius),
    194: (TYPE_SIGNED_INT, lambda gpu, _scope: gpu.facts.slowdown_margin_celsius),
    269: (TYPE_UNSIGNED_LONG_LONG, _throttled(0x20)),
    270: (TYPE_UNSIGNED_LONG_LONG, _throttled(0x40)),
    271: (TYPE_UNSIGNED_LONG_LONG, _throttled(0x80)),
}
