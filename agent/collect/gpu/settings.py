"""Section `gpus` of the configuration file in, checked values out."""

from pydantic import Field

from agent.settings import Section


class GpuSettings(Section):
    """How often the GPUs of this node are read, and how long a driver call may take."""

    enabled: bool = Field(
        True, description="Read the GPUs of this node. Off: NVML is never loaded and nothing about GPUs is shown."
    )
    interval_seconds: float = Field(
        1.0,
        ge=0.2,
        le=60,
        description="Seconds between two readings of the cheap values: utilisation, memory, temperature, power, "
        "energy, clocks, throttle reasons.",
    )
    slow_interval_seconds: float = Field(
        10.0,
        ge=1,
        le=600,
        description="Seconds between two readings of the dear values of one GPU: processes, power limit, memory "
        "temperature, slowdown temperature. The GPUs of a node take turns within this time.",
    )
    call_deadline_seconds: float = Field(
        5.0,
        ge=0.1,
        le=120,
        description="Seconds one GPU may take to answer before it is given up as hung and the others are read by a "
        "new process. The first contact with a GPU, which may have to wake it, has six times as long.",
    )
