"""Metrics about errors of the GPUs (NVIDIA's Xids) and about the two watchers that tell of them."""

from agent.core.catalogue_types import NODE, Metric

_GPU = ("node", "gpu", "uuid", "gpu_model", "simulated")

XIDS: tuple[Metric, ...] = (
    Metric(
        "engineroom_gpu_xid_errors_total",
        "counter",
        "Errors (Xids) of the GPU since the agent started, by code; as NVML and the kernel log tell them, each once.",
        (*_GPU, "xid"),
    ),
    Metric(
        "engineroom_gpu_xid_last_seconds",
        "gauge",
        "When the GPU last had this error, in Unix time; also before the agent started, if the kernel log remembers.",
        (*_GPU, "xid"),
        "seconds",
    ),
    Metric(
        "engineroom_gpu_xid_info",
        "info",
        "1 for each error of the last hour and each workload that it hit; action is NVIDIA's word for what to do.",
        (*_GPU, "xid", "class", "action", "workload_namespace", "workload_pod", "workload_container"),
    ),
    Metric(
        "engineroom_gpu_xid_dropped_total",
        "counter",
        "Errors and other events of GPUs that were not counted: too many kinds at once, or lost in the kernel's log.",
        NODE,
    ),
    Metric(
        "engineroom_gpu_events_watched",
        "gauge",
        "1 while NVML's events are waited for; 0 while that fails. Absent where the driver has no events.",
        NODE,
    ),
    Metric(
        "engineroom_gpu_kernel_log_watched",
        "gauge",
        "1 while the kernel log is read for errors of GPUs; 0 while it cannot be read.",
        NODE,
    ),
    Metric(
        "engineroom_gpu_events_total",
        "counter",
        "Events that NVML told of since the GPU reader started, by kind.",
        ("node", "event"),
    ),
)
