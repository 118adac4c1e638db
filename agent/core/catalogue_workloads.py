"""Metrics that say who holds each GPU and who uses it. The samples are made by `core/attribution/samples.py`."""

from agent.core.catalogue_gpu import GPU
from agent.core.catalogue_types import NODE, Metric

_SLOT = (*GPU, "mig_uuid")
_WORKLOAD = (*_SLOT, "workload_namespace", "workload_pod", "workload_container", "workload_job")

WORKLOADS: tuple[Metric, ...] = (
    Metric(
        "engineroom_gpu_allocation_ratio",
        "gauge",
        "Part of the GPU, or of the MIG device in `mig_uuid`, that the workload was given; `split`: whole, or equal "
        "(one of N replicas, or a claim that containers share).",
        (*_WORKLOAD, "resource", "split"),
        "ratio",
    ),
    Metric(
        "engineroom_gpu_workload_processes",
        "gauge",
        "Processes of the workload on the GPU or MIG device; an empty workload: not known whose.",
        _WORKLOAD,
    ),
    Metric(
        "engineroom_gpu_workload_memory_bytes",
        "gauge",
        "Device memory of the workload's processes, as the driver counts it.",
        _WORKLOAD,
        "bytes",
    ),
    Metric(
        "engineroom_gpu_workload_sm_ratio",
        "gauge",
        "The workload's part of the device's utilisation; `split`: whole (alone on it) or sm (by the driver's samples "
        "of its processes, scaled so that the parts add up to the device).",
        (*_WORKLOAD, "split"),
        "ratio",
    ),
    Metric(
        "engineroom_gpu_workload_power_watts",
        "gauge",
        "The workload's part of the board's power; the parts add up to it, and what nobody holds or uses has no "
        "workload. `split`: whole, sm (idle part by allocation, active part by SM time), sm_without_idle (idle power "
        "not known), equal (SM time not known), allocation (no process); in MIG mode first mig_activity or mig_slices.",
        (*_WORKLOAD, "split"),
        "watts",
    ),
    Metric(
        "engineroom_gpu_unresolved",
        "gauge",
        "Holders and processes that could not be given a slot or a name, by reason.",
        (*NODE, "reason"),
    ),
    Metric(
        "engineroom_feature_enabled",
        "gauge",
        "1 where the agent has what a feature needs; 0: `reason` says what is unknown without it and what opens it.",
        (*NODE, "feature", "reason"),
    ),
)
