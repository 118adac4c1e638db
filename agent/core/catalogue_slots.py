"""Metrics of slots: what is handed out of a GPU (the whole of it, MIG devices, shares), and in which state it is."""

from agent.core.catalogue_types import Metric

SLOT = ("node", "uuid", "slot")

SLOTS: tuple[Metric, ...] = (
    Metric(
        "engineroom_gpu_slot_state",
        "gauge",
        "1 for the state that a slot is in now, and why. The slot is the GPU itself, a MIG device or a share.",
        (*SLOT, "state", "reason", "simulated"),
    ),
    Metric(
        "engineroom_gpu_slot_share_ratio",
        "gauge",
        "Part of the GPU's time and price that is the slot's; those of a GPU add up to 1.",
        (*SLOT, "simulated"),
        "ratio",
    ),
    Metric(
        "engineroom_gpu_memory_stranded_bytes",
        "gauge",
        "Free memory that nobody can have: of a slot in somebody's hands (held_free), or that no MIG device has.",
        (*SLOT, "cause", "simulated"),
        "bytes",
    ),
)
