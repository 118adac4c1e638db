"""Who a simulated GPU is."""

from collections.abc import Callable
from typing import Any

from agent.demo.gpus.answers.outs import NOT_SUPPORTED, fill, put, text
from agent.demo.gpus.model import SimulatedGpu

# nvml.h, nvmlBrandType_t, as nvidia-smi names them
BRANDS = {"Quadro": 1, "Tesla": 2, "GeForce": 5, "Titan": 6, "Quadro RTX": 12, "NVIDIA RTX": 13, "NVIDIA": 14}


def _pci(gpu: SimulatedGpu, out: Any) -> int:
    device = int(gpu.facts.pci_device_id, 16)
    return fill(
        out,
        busId=gpu.pci_bus_id.encode(),  # type: ignore[arg-type] # char arrays take bytes
        busIdLegacy=gpu.pci_bus_id[4:].encode(),  # type: ignore[arg-type]
        domain=0,
        bus=int(gpu.pci_bus_id[9:11], 16),
        device=0,
        pciDeviceId=device,
    )


def _capability(gpu: SimulatedGpu, major: Any, minor: Any) -> int:
    known = gpu.facts.compute_capability
    return NOT_SUPPORTED if known is None else put(major, known[0]) or put(minor, known[1])


def _brand(gpu: SimulatedGpu, out: Any) -> int:
    return put(out, BRANDS.get(gpu.facts.brand))


DEVICE: dict[str, Callable[..., int | None]] = {
    "nvmlDeviceGetUUID": lambda gpu, out, _size: text(out, gpu.uuid),
    "nvmlDeviceGetName": lambda gpu, out, _size: text(out, gpu.facts.model),
    "nvmlDeviceGetVbiosVersion": lambda gpu, out, _size: text(out, gpu.facts.vbios_version),
    "nvmlDeviceGetSerial": lambda gpu, out, _size: text(out, f"{5130000000000 + gpu.index}"),
    "nvmlDeviceGetIndex": lambda gpu, out: put(out, gpu.index),
    "nvmlDeviceGetMinorNumber": lambda gpu, out: put(out, gpu.index),
    "nvmlDeviceGetBrand": _brand,
    "nvmlDeviceGetNumGpuCores": lambda gpu, out: put(out, gpu.facts.board.cores),
    "nvmlDeviceGetPersistenceMode": lambda gpu, out: put(out, gpu.facts.persistence_mode),
    "nvmlDeviceGetComputeMode": lambda _gpu, out: put(out, 0),
    "nvmlDeviceGetArchitecture": lambda gpu, out: put(out, gpu.facts.architecture),
    "nvmlDeviceGetCudaComputeCapability": _capability,
    "nvmlDeviceGetPciInfo_v3": _pci,
}
