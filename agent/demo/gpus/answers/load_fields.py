"""Field values about temperature, power and energy."""

from collections.abc import Callable

from agent.demo.gpus.answers.outs import TYPE_SIGNED_INT, TYPE_UNSIGNED_INT, TYPE_UNSIGNED_LONG_LONG
from agent.demo.gpus.model import SimulatedGpu

FIELDS: dict[int, tuple[int, Callable[[SimulatedGpu, int], float | None]]] = {
    82: (TYPE_UNSIGNED_INT, lambda gpu, _scope: gpu.memory_celsius),
    83: (TYPE_UNSIGNED_LONG_LONG, lambda gpu, _scope: gpu.energy_joules * 1000),
    185: (TYPE_UNSIGNED_INT, lambda gpu, _scope: gpu.power_watts * 1000),
    186: (TYPE_UNSIGNED_INT, lambda gpu, _scope: gpu.power_watts * 1000),
    193: (TYPE_SIGNED_INT, lambda gpu, _scope: gpu.facts.shutdown_margin_celsius),
    194: (TYPE_SIGNED_INT, lambda gpu, _scope: gpu.facts.slowdown_margin_celsius),
}
