"""Shape of a model and the GPUs that serve it in; what a token costs them by a roofline out.

    alpha = 2 * active parameters / (peak flops * efficiency)           s per prompt token that was not cached
    kappa = bytes of keys and values per token / (bandwidth * efficiency)   s per output token and token of context

Peaks are those of NVIDIA's data sheets: dense (without structured sparsity), 16-bit with 32-bit accumulation, fp8 where
the GPU has it, and the memory bandwidth of that variant. Several GPUs of an engine work together: their peaks add up.
"""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

from msgspec import Struct

from agent.core.cost.work import Constants

ShapeSource = Literal["config", "config_file", "model_folder", "engine"]
"""Who told a shape: numbers in our configuration, a config.json named there, the one beside the weights that the engine
was started with, or the engine itself."""

Arithmetic = Literal["16bit", "fp8"]


class ModelShape(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What of a model decides how much work a token is. None: not known.

    `active_parameters` are those that work on a token of a prompt: of a mixture of experts only the chosen ones, and
    neither embedding table nor output head where they are told apart. Without `kv_bytes_per_token` writing is not
    charged.
    """

    active_parameters: float
    source: ShapeSource
    total_parameters: float | None = None
    bytes_per_parameter: float | None = None
    kv_bytes_per_token: float | None = None
    arithmetic: Arithmetic = "16bit"
    told_by: str = ""  # for people: which key, path or file


class GpuPower(NamedTuple):
    """Peaks of one GPU: dense flops per second and bytes per second. `fp8_flops` None: it computes in 16 bits."""

    flops: float
    bandwidth: float
    fp8_flops: float | None = None

    def part(self, part: float) -> "GpuPower":
        """Of a MIG device or a share of the GPU; `part` 0..1."""
        return GpuPower(self.flops * part, self.bandwidth * part, self.fp8_flops and self.fp8_flops * part)


class Efficiency(NamedTuple):
    """What of the peaks an engine reaches: `compute` while it reads prompts, `memory` while it reads its cache."""

    compute: float = 0.5
    memory: float = 0.8


USUAL = Efficiency()

# Patterns of the names that NVML gives, the narrower before the wider.
_TERA, _GIGA = 1e12, 1e9
_MOST_PARAMETERS = 1e15  # more is nonsense
_POWERS: tuple[tuple[str, float, float | None, float], ...] = (  # pattern, tera 16-bit, tera fp8, GB/s
    ("*GB300*", 2500, 5000, 8000),
    ("*GB200*", 2500, 5000, 8000),
    ("*B300*", 2250, 4500, 8000),
    ("*B200*", 2250, 4500, 8000),
    ("*GH200*", 989.4, 1978.9, 4000),
    ("*H200 NVL*", 835.5, 1670.9, 4800),
    ("*H200*", 989.4, 1978.9, 4800),
    ("*H100 PCIe*", 756.4, 1513, 2039),
    ("*H100 NVL*", 835.5, 1670.9, 3938),
    ("*H100*", 989.4, 1978.9, 3352),
    ("*H800 PCIe*", 756.4, 1513, 2039),
    ("*H800*", 989.4, 1978.9, 3352),
    ("*H20*", 148, 296, 4000),
    ("*A100*PCI*80GB*", 312, None, 1935),
    ("*A100*80GB*PCI*", 312, None, 1935),
    ("*A100*80GB*", 312, None, 2039),
    ("*A100*", 312, None, 1555),
    ("*A800*PCI*80GB*", 312, None, 1935),
    ("*A800*80GB*", 312, None, 2039),
    ("*A800*", 312, None, 1555),
    ("*L40S*", 362, 733, 864),
    ("*L40*", 181, 362, 864),
    ("*L20*", 119.5, 239, 864),
    ("*L4", 121, 242, 300),
    ("*RTX A6000*", 154.8, None, 768),
    ("*RTX A5000*", 111.1, None, 768),
    ("*A10G*", 70, None, 600),
    ("*A10", 125, None, 600),
    ("*A16", 18, None, 200),
    ("*A30", 165, None, 933),
    ("*A40", 149.7, None, 696),
    ("*T4", 65, None, 320),
    ("*V100S*", 130, None, 1134),
    ("*V100*PCI*", 112, None, 900),
    ("*V100*", 125, None, 900),
    ("*RTX 6000 Ada*", 182.1, 364.2, 960),
    ("*RTX 5090*", 209.5, 419, 1792),
    ("*RTX 4090*", 165.2, 330.3, 1008),
    ("*RTX 4080*", 97.5, 194.9, 717),
    ("*RTX 3090 Ti*", 80, None, 1008),
    ("*RTX 3090*", 71, None, 936),
    ("*RTX 3080*", 59.5, None, 760),
)


def power_of(gpu_model: str) -> GpuPower | None:
    """Peaks of a GPU by the name that NVML gives it; None for one that is not in the table."""
    for pattern, flops, fp8, bandwidth in _POWERS:
        if fnmatchcase(gpu_model, pattern):
            return GpuPower(flops * _TERA, bandwidth * _GIGA, None if fp8 is None else fp8 * _TERA)
    return None


def kv_bytes_per_token(layers: float, kv_heads: float, head_dim: float, bytes_per_value: float = 2.0) -> float:
    """Bytes of keys and values of one token, in all layers together."""
    return 2 * layers * kv_heads * head_dim * bytes_per_value


def shape_of_size(parameters: float | None, weight_bytes: float | None, told_by: str) -> ModelShape | None:
    """What an engine tells that knows its size only; None where that is no size."""
    if parameters is None or not 0 < parameters < _MOST_PARAMETERS:
        return None
    size = weight_bytes / parameters if weight_bytes and 0 < weight_bytes < 16 * parameters else None
    return ModelShape(
        active_parameters=parameters,
        total_parameters=parameters,
        bytes_per_parameter=size,
        source="engine",
        told_by=told_by,
    )


def constants(shape: ModelShape, powers: Iterable[GpuPower], efficiency: Efficiency = USUAL) -> Constants | None:
    """What a token costs the engine on all these GPUs together; None without a GPU."""
    flops = bandwidth = 0.0
    for power in powers:
        flops += power.fp8_flops if shape.arithmetic == "fp8" and power.fp8_flops else power.flops
        bandwidth += power.bandwidth
    if not flops or not bandwidth:
        return None
    prefill = 2 * shape.active_parameters / (flops * efficiency.compute)
    context = (shape.kv_bytes_per_token or 0.0) / (bandwidth * efficiency.memory)
    return Constants(prefill * 1e9, context * 1e9, "shape")
