"""The simulator through genuine pynvml: what a program that knows nothing about it would see."""

import ctypes

import pynvml
import pytest

from agent.demo.gpus import machine, nvml
from agent.demo.gpus.control import Control, SimulatedProcess
from agent.demo.gpus.model import NodeSim


@pytest.fixture
def node():
    node = NodeSim(machine.load("h100x8"))
    nvml.install(node)
    pynvml.nvmlInit()
    yield node
    nvml.uninstall()


@pytest.fixture
def handle(node):
    return pynvml.nvmlDeviceGetHandleByIndex(3)


def test_structs_have_the_sizes_of_the_header():
    sizes = {
        pynvml.c_nvmlMemory_t: 24,
        pynvml.c_nvmlMemory_v2_t: 40,
        pynvml.c_nvmlUtilization_t: 8,
        pynvml.nvmlPciInfo_t: 68,
        pynvml.c_nvmlProcessInfo_v3_t: 24,
        pynvml.c_nvmlFieldValue_t: 40,
    }
    assert {struct: ctypes.sizeof(struct) for struct in sizes} == sizes


def test_identity(node, handle):
    assert pynvml.nvmlDeviceGetCount() == 8
    assert pynvml.nvmlDeviceGetIndex(handle) == pynvml.nvmlDeviceGetMinorNumber(handle) == 3
    assert pynvml.nvmlDeviceGetUUID(handle) == node.gpus[3].uuid
    assert pynvml.nvmlDeviceGetName(handle) == "NVIDIA H100 80GB HBM3"
    assert pynvml.nvmlDeviceGetVbiosVersion(handle) == "96.00.A5.00.01"
    assert pynvml.nvmlDeviceGetSerial(handle)
    pci = pynvml.nvmlDeviceGetPciInfo(handle)
    assert (pci.busId, pci.bus, pci.pciDeviceId) == ("00000000:61:00.0", 0x61, 0x233010DE)
    assert pynvml.nvmlSystemGetDriverVersion() == "590.48.01"
    assert pynvml.nvmlSystemGetNVMLVersion() == "13.590.48.01"
    assert pynvml.nvmlSystemGetCudaDriverVersion() == pynvml.nvmlSystemGetCudaDriverVersion_v2() == 13010
    assert pynvml.nvmlDeviceGetCudaComputeCapability(handle) == (9, 0)
    assert pynvml.nvmlDeviceGetArchitecture(handle) == pynvml.NVML_DEVICE_ARCH_HOPPER


def test_all_three_ways_to_a_handle(node):
    for same in (
        pynvml.nvmlDeviceGetHandleByUUID(node.gpus[3].uuid),
        pynvml.nvmlDeviceGetHandleByPciBusId("00000000:61:00.0"),
    ):
        assert pynvml.nvmlDeviceGetIndex(same) == 3
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlDeviceGetHandleByUUID("GPU-other")
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        pynvml.nvmlDeviceGetHandleByIndex(8)


def test_values(node, handle):
    assert pynvml.nvmlDeviceGetPowerUsage(handle) == 69850
    assert pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) == 700_000
    assert pynvml.nvmlDeviceGetPowerManagementDefaultLimit(handle) == 700_000
    assert pynvml.nvmlDeviceGetPowerManagementLimitConstraints(handle) == [200_000, 700_000]
    assert pynvml.nvmlDeviceGetTemperature(handle, 0) == pynvml.nvmlDeviceGetTemperatureV(handle, 0) == 41
    assert pynvml.nvmlDeviceGetMarginTemperature(handle) == 46
    assert pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM) == 345
    assert pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM) == 1980
    assert pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle) == 1
    assert pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) == 0
    assert pynvml.nvmlDeviceGetMigMode(handle) == [0, 0]
    assert pynvml.nvmlDeviceGetEncoderUtilization(handle)[0] == 0
    assert pynvml.nvmlDeviceGetPersistenceMode(handle) == 1
    newer = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
    older = pynvml.nvmlDeviceGetMemoryInfo(handle)
    assert newer.total == newer.used + newer.free + newer.reserved == older.used + older.free


def test_fields_carry_their_own_codes(handle):
    values = pynvml.nvmlDeviceGetFieldValues(handle, [82, 83, 194, 9999])
    assert [value.nvmlReturn for value in values] == [0, 0, 0, pynvml.NVML_ERROR_INVALID_ARGUMENT]
    assert (values[0].value.uiVal, values[2].value.siVal) == (48, -2)


def test_processes_through_the_two_step_protocol(node, handle):
    assert pynvml.nvmlDeviceGetComputeRunningProcesses(handle) == []
    node.apply(
        Control(processes={"3": [SimulatedProcess(pid=5, memory_bytes=7), SimulatedProcess(pid=6, memory_bytes=8)]})
    )
    listed = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    assert [(process.pid, process.usedGpuMemory) for process in listed] == [(5, 7), (6, 8)]


def test_not_supported_and_not_there(handle):
    with pytest.raises(pynvml.NVMLError_NotSupported):
        pynvml.nvmlDeviceGetFanSpeed(handle)
    with pytest.raises(pynvml.NVMLError_FunctionNotFound):
        pynvml.nvmlDeviceGetSamples(handle, 0, 0)


def test_faults(node, handle):
    node.apply(Control(lost=[3], returns={"nvmlDeviceGetName": {"*": 999}}))
    with pytest.raises(pynvml.NVMLError_GpuIsLost):
        pynvml.nvmlDeviceGetPowerUsage(handle)
    with pytest.raises(pynvml.NVMLError_Unknown):
        pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0))
    node.apply(Control(driver="unloaded"))
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        pynvml.nvmlDeviceGetPowerUsage(handle)
    with pytest.raises(pynvml.NVMLError_DriverNotLoaded):
        pynvml.nvmlInit()
    node.apply(Control())
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        pynvml.nvmlDeviceGetPowerUsage(handle)
    pynvml.nvmlInit()
    assert pynvml.nvmlDeviceGetPowerUsage(handle) == 69850


def test_after_shutdown_nothing_answers(handle):
    pynvml.nvmlShutdown()
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        pynvml.nvmlDeviceGetPowerUsage(handle)
