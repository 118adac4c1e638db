"""What seldom or never changes about a GPU: what it is, how it is set up, what it may at most."""

from collections.abc import Mapping
from typing import Any

import pynvml

from agent.collect.gpu import sane
from agent.collect.gpu.parts.health import ECC_MODE, ecc_mode
from agent.collect.gpu.parts.limits import SHUTDOWN_MARGIN
from agent.collect.gpu.parts.load import core_celsius
from agent.collect.gpu.parts.part import Asker, FieldKey, Fields, Moment, Tier
from agent.core.gpu_readings import GpuDetails

_LEAST, _MOST, _DEFAULT, _REQUESTED = FieldKey(187), FieldKey(188), FieldKey(189), FieldKey(192)  # power limits, mW

ARCHITECTURES = {
    2: "kepler",
    3: "maxwell",
    4: "pascal",
    5: "volta",
    6: "turing",
    7: "ampere",
    8: "ada",
    9: "hopper",
    10: "blackwell",
    13: "rubin",
}
BRANDS = {
    1: "Quadro",
    2: "Tesla",
    3: "NVS",
    4: "GRID",
    5: "GeForce",
    6: "Titan",
    7: "NVIDIA Virtual Applications",
    8: "NVIDIA Virtual PC",
    9: "NVIDIA Virtual Compute Server",
    10: "NVIDIA RTX Virtual Workstation",
    11: "NVIDIA Cloud Gaming",
    12: "Quadro RTX",
    13: "NVIDIA RTX",
    14: "NVIDIA",
    15: "GeForce RTX",
    16: "Titan RTX",
}
COMPUTE_MODES = {0: "default", 1: "exclusive_thread", 2: "prohibited", 3: "exclusive_process"}
# CUDA programming guide, features per compute capability: FP32 cores in one multiprocessor.
CORES_OF_MULTIPROCESSOR = {
    (6, 0): 64,
    (6, 1): 128,
    (7, 0): 64,
    (7, 5): 64,
    (8, 0): 64,
    (8, 6): 128,
    (8, 7): 128,
    (8, 9): 128,
    (9, 0): 128,
    (10, 0): 128,
    (10, 3): 128,
    (12, 0): 128,
    (12, 1): 128,
}
_CLOCKS = {
    "graphics": pynvml.NVML_CLOCK_GRAPHICS,
    "sm": pynvml.NVML_CLOCK_SM,
    "memory": pynvml.NVML_CLOCK_MEM,
    "video": pynvml.NVML_CLOCK_VIDEO,
}


class Details:
    """What cannot change is asked for once; settings each time."""

    tier: Tier = "rare"

    def __init__(self) -> None:
        self.fields: tuple[FieldKey, ...] = (ECC_MODE, _LEAST, _MOST, _DEFAULT, _REQUESTED, SHUTDOWN_MARGIN)
        self._fixed: dict[str, Any] | None = None

    def read(self, asker: Asker, fields: Fields, _known: Mapping[str, Any], _now: Moment) -> dict[str, Any]:
        """A `GpuDetails`."""
        if self._fixed is None:
            self._fixed = {**_identity(asker), **_limits(asker, fields), **_shutdown(asker, fields)}
            self.fields = (ECC_MODE, _REQUESTED)
        persistence = asker.try_ask("nvmlDeviceGetPersistenceMode")
        mig = asker.try_ask("nvmlDeviceGetMigMode")  # now, after the next reset
        requested = fields.get(_REQUESTED)
        if requested is None:
            requested = asker.try_ask("nvmlDeviceGetPowerManagementLimit")
        found = GpuDetails(
            **self._fixed,
            persistence_mode=None if persistence is None else bool(persistence),
            compute_mode=COMPUTE_MODES.get(asker.try_ask("nvmlDeviceGetComputeMode")),
            ecc_mode=ecc_mode(asker, fields),
            mig_mode=None if mig is None else mig[0] == 1,
            power_limit_requested_watts=sane.limit_watts(requested),
        )
        return {} if found == GpuDetails() else {"details": found}


def _identity(asker: Asker) -> dict[str, Any]:
    capability = asker.try_ask("nvmlDeviceGetCudaComputeCapability")
    return {
        "minor_number": sane.small_count(asker.try_ask("nvmlDeviceGetMinorNumber")),
        "serial": asker.try_ask("nvmlDeviceGetSerial") or None,
        "brand": BRANDS.get(asker.try_ask("nvmlDeviceGetBrand")),
        "architecture": ARCHITECTURES.get(asker.try_ask("nvmlDeviceGetArchitecture")),
        "compute_capability": None if capability is None else "{}.{}".format(*capability),
        "vbios_version": asker.try_ask("nvmlDeviceGetVbiosVersion") or None,
        "multiprocessors": _multiprocessors(asker, capability),
        "clocks_max_hertz": _clocks(asker),
    }


def _multiprocessors(asker: Asker, capability: tuple[int, int] | None) -> int | None:
    """NVML says how many only of MIG devices; of a whole GPU it says how many cores there are."""
    cores = sane.small_count(asker.try_ask("nvmlDeviceGetNumGpuCores"))
    each = None if capability is None else CORES_OF_MULTIPROCESSOR.get((capability[0], capability[1]))
    return None if not cores or each is None or cores % each else cores // each


def _clocks(asker: Asker) -> dict[str, float] | None:
    most = {name: sane.hertz(asker.try_ask("nvmlDeviceGetMaxClockInfo", number)) for name, number in _CLOCKS.items()}
    return {name: value for name, value in most.items() if value is not None} or None


def _limits(asker: Asker, fields: Fields) -> dict[str, Any]:
    least, most, default = (fields.get(key) for key in (_LEAST, _MOST, _DEFAULT))
    if least is None or most is None:
        least, most = asker.try_ask("nvmlDeviceGetPowerManagementLimitConstraints") or (least, most)
    if default is None:
        default = asker.try_ask("nvmlDeviceGetPowerManagementDefaultLimit")
    return {
        "power_limit_min_watts": sane.limit_watts(least),
        "power_limit_max_watts": sane.limit_watts(most),
        "power_limit_default_watts": sane.limit_watts(default),
    }


def _shutdown(asker: Asker, fields: Fields) -> dict[str, Any]:
    """As `limits.Slowdown`: from the threshold, or from margins since Ada."""
    celsius = sane.sensor_celsius(
        asker.try_ask("nvmlDeviceGetTemperatureThreshold", pynvml.NVML_TEMPERATURE_THRESHOLD_SHUTDOWN)
    )
    at_shutdown = sane.celsius(fields.get(SHUTDOWN_MARGIN))
    if celsius is None and at_shutdown is not None:
        margin = sane.celsius(asker.try_ask("nvmlDeviceGetMarginTemperature"))
        core = None if margin is None else core_celsius(asker)
        if core is not None and margin is not None:
            celsius = core + margin - at_shutdown
    return {"temperature_shutdown_celsius": celsius}
