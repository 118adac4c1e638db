"""Section `gpus` of the configuration file in, checked values out."""

from pathlib import Path

from pydantic import Field

from agent.settings import Section


class KernelLogSettings(Section):
    """Where the kernel tells of errors of GPUs (Xids)."""

    enabled: bool = Field(
        True,
        description="Read the kernel log for errors of GPUs. Without it, those that NVML does not tell of are missed, "
        "and the process that caused one is unknown.",
    )
    path: Path = Field(
        Path("/dev/kmsg"),
        description="The log: the kernel's device, or a pipe or file that a log daemon writes the kernel's lines into.",
    )


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
        description="Seconds between two readings of the dear values of one GPU: processes, memory temperature, bytes "
        "over PCIe and NVLink, MIG. Six times that for what seldom changes: memory errors, limits, modes. The GPUs of "
        "a node take turns within this time.",
    )
    call_deadline_seconds: float = Field(
        5.0,
        ge=0.1,
        le=120,
        description="Seconds one GPU may take to answer before it is given up as hung and the others are read by a "
        "new process. The first contact with a GPU, which may have to wake it, has six times as long.",
    )
    stop_when_access_is_lost: bool = Field(
        False,
        description="Stop the agent, after it has booked everything, when all GPUs that it has read refuse two readers "
        "after each other with `unknown error`: a container that has lost /dev/nvidia* (after `systemctl "
        "daemon-reload`) gets it back only by being made anew. For containers that are restarted by themselves.",
    )
    kernel_log: KernelLogSettings = Field(default_factory=KernelLogSettings)
