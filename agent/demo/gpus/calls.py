"""How long the simulated driver takes over a call: as a control file asks, else as recorded, else as others measured.

Measured by others on one driver 610: utilisation 2.5 µs (cached by the driver), memory 11.6 µs, fan 137 µs, process
lists 4.5 ms. What the GPU's own processor answers takes some 400 µs, a PCIe throughput 20 ms. That every other sensor
is as slow as the fan is our assumption.
"""

from agent.demo.gpus.control import Control
from agent.demo.gpus.machine import GpuFacts

_CACHED, _MEMORY, _SENSOR, _FIRMWARE, _PROCESSES, _PCIE = 2.5e-6, 11.6e-6, 137e-6, 400e-6, 4.491e-3, 20e-3

_GROUPS: dict[float, str] = {
    _CACHED: "UtilizationRates EncoderUtilization DecoderUtilization JpgUtilization OfaUtilization PersistenceMode "
    "MigMode ComputeMode",
    _MEMORY: "MemoryInfo MemoryInfo_v2 BAR1MemoryInfo",
    _SENSOR: "Temperature TemperatureV TemperatureThreshold MarginTemperature ThermalSettings PowerUsage "
    "PowerManagementLimit EnforcedPowerLimit TotalEnergyConsumption ClockInfo MaxClockInfo ApplicationsClock "
    "CurrentClocksEventReasons CurrentClocksThrottleReasons ViolationStatus PerformanceState FanSpeed FanSpeed_v2 "
    "FanSpeedRPM CurrPcieLinkGeneration CurrPcieLinkWidth PcieReplayCounter PcieSpeed",
    _FIRMWARE: "FieldValues Samples TotalEccErrors MemoryErrorCounter SramEccErrorStatus RetiredPages "
    "RetiredPagesPendingStatus RemappedRows RowRemapperHistogram RepairStatus NvLinkState NvLinkErrorCounter "
    "ProcessUtilization ProcessesUtilizationInfo AccountingStats",
    _PROCESSES: "ComputeRunningProcesses_v3 GraphicsRunningProcesses_v3 MPSComputeRunningProcesses_v3 "
    "ComputeRunningProcesses_v2 GraphicsRunningProcesses_v2 MPSComputeRunningProcesses_v2 RunningProcessDetailList",
    _PCIE: "PcieThroughput",
}

# Seconds, by NVML function; what is not here is answered by the library itself.
KNOWN_SECONDS: dict[str, float] = {
    **{f"nvmlDeviceGet{name}": seconds for seconds, names in _GROUPS.items() for name in names.split()},
    "nvmlGpmSampleGet": _FIRMWARE,
    "nvmlGpmMigSampleGet": _FIRMWARE,
}


def call_seconds(control: Control, facts: GpuFacts | None, function: str) -> float:
    """Seconds that one call takes. Nothing takes time while the control says nothing about it."""
    wanted = control.call_seconds
    if wanted is None:
        return 0.0
    if function in wanted:
        return wanted[function]
    recorded = facts.calls.get(function) if facts is not None else None
    if recorded is not None:
        return recorded.seconds
    return wanted.get("*", KNOWN_SECONDS.get(function, 0.0))
