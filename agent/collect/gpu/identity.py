"""Who a GPU is: its handle in, the fields of a `GpuReading` that never change out."""

from typing import Any, NamedTuple

from agent.collect.gpu.calls import Calls, GpuUnavailable, Missed
from agent.core.gpu_readings import GpuReading


class Frame(NamedTuple):
    """What is the same for all GPUs of a tick."""

    unix_ns: int
    simulated: bool
    driver_version: str | None
    cuda_version: str | None


def identify(calls: Calls, index: int, handle: Any, frame: Frame) -> GpuReading:
    """Raises `GpuUnavailable`, `Missed` or `DriverGone`."""
    key = f"index {index}"
    pci = calls.value(key, "nvmlDeviceGetPciInfo", handle)
    bus_id = pci.busId if pci is not None else None
    return GpuReading(
        uuid=calls.value(key, "nvmlDeviceGetUUID", handle) or "",
        index=index,
        model=calls.value(key, "nvmlDeviceGetName", handle) or "unknown GPU",
        read_at_ns=frame.unix_ns,
        state="ok",
        simulated=frame.simulated,
        pci_bus_id=bus_id.decode() if isinstance(bus_id, bytes) else bus_id,
        driver_version=frame.driver_version,
        cuda_version=frame.cuda_version,
    )


def unidentified(index: int, error: GpuUnavailable | Missed, frame: Frame) -> GpuReading:
    """A GPU that has not said who it is. The supervisor adds the identity if it knew it before."""
    return GpuReading(
        uuid="",
        index=index,
        model="",
        read_at_ns=frame.unix_ns,
        state=error.state if isinstance(error, GpuUnavailable) else "error",
        reason=str(error),
        simulated=frame.simulated,
        driver_version=frame.driver_version,
        cuda_version=frame.cuda_version,
    )
