"""GPM sample buffers of the simulated driver: the work of a GPU, or of a GPU instance, as totals at an instant.

A ratio between two samples is then exact, however far apart they are.
"""

from dataclasses import dataclass

# NVML_GPM_METRIC_* -> ratio at full load. Nobody has recorded a real trace: all of these are ours, and only plausible.
AT_FULL_LOAD: dict[int, float] = {
    1: 1.0,  # graphics or compute engine active
    2: 0.9,  # SMs with work
    3: 0.4,  # occupancy
    5: 0.55,  # tensor, any kind
    10: 0.5,  # DRAM bandwidth
    11: 0.0,  # FP64
    12: 0.1,  # FP32
    13: 0.05,  # FP16
}


@dataclass(frozen=True, slots=True)
class GpmSample:
    """`subject`: what was sampled; two samples are comparable only when it is the same."""

    subject: tuple[int, ...]
    lived_seconds: float
    busy_seconds: float


class GpmSamples:
    """Buffers by handle; each stays until it is freed."""

    def __init__(self) -> None:
        self._held: dict[int, GpmSample | None] = {}
        self._made = 0

    def __len__(self) -> int:
        return len(self._held)

    def allocate(self) -> int:
        """A handle that no buffer had before."""
        self._made += 1
        self._held[self._made] = None
        return self._made

    def free(self, handle: int) -> bool:
        """Whether there was such a buffer."""
        return self._held.pop(handle, self) is not self

    def put(self, handle: int, sample: GpmSample) -> bool:
        """Whether there is such a buffer."""
        if handle not in self._held:
            return False
        self._held[handle] = sample
        return True

    def get(self, handle: int) -> GpmSample | None:
        """What was put there last."""
        return self._held.get(handle)
