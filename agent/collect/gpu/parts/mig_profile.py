"""The name of a MIG device's profile: from what NVML calls it, else from what it is made of. Pure."""

_EIGHTHS = 8  # memory slices of a GPU that can be divided
_GIBIBYTE = 2**30
_MEBIBYTE = 2**20


def stated_profile(device_name: str | None) -> str:
    """`NVIDIA H100 80GB HBM3 MIG 1g.10gb` -> `1g.10gb`; '' where the name does not say."""
    _, marked, name = (device_name or "").rpartition(" MIG ")
    return name if marked else ""


def derived_profile(
    compute_slices: int | None, instance_slices: int | None, instance_megabytes: int | None, gpu_bytes: int | None
) -> str:
    """Compute slices of the GPU instance, and its eighths of the GPU's memory in whole GB; '' when they are not known.

    Halves of a GB are rounded up (71 of an H200's 141 GB). A part of a GPU instance has its own slices in front.
    """
    if not compute_slices or not instance_slices or not instance_megabytes or not gpu_bytes:
        return ""
    eighths = max(round(instance_megabytes * _MEBIBYTE * _EIGHTHS / gpu_bytes), 1)
    whole = -(-gpu_bytes // _GIBIBYTE)
    gigabytes = (2 * whole * eighths + _EIGHTHS) // (2 * _EIGHTHS)
    part = f"{compute_slices}c." if compute_slices != instance_slices else ""
    return f"{part}{instance_slices}g.{gigabytes}gb"
