"""What the arguments of each NVML function are, so that all of them can be called alike: by the recorder and by tests.

A shape is words, one for each argument (some for two):

- ``h`` the handle of a device, ``g`` of a GPU instance, ``x`` of a compute instance: selects the answer
- ``i=0,1,2`` a number that selects the answer, and the values that it may have; ``i=pids`` those of all processes
- ``q`` a 64-bit number that selects nothing (a time stamp, a mask)
- ``k=uuid`` a text that selects the answer: the uuids, or the PCI bus ids, of the node
- ``s96`` a text that is answered: buffer and size
- ``o:TYPE`` a pointer to what is answered
- ``v:TYPE:VERSION`` a pointer to a struct that begins with its version; ``:member=0,1`` selects too
- ``c:TYPE`` pointer to a count and array; ``c1:TYPE`` the same, asking for the count is a success
- ``C:TYPE`` array and pointer to a count
- ``p:STRUCT:VERSION:TYPE:COUNT:ARRAY`` a struct whose members COUNT and ARRAY are a list of TYPE
- ``f`` count and array of field values
- ``a16`` a count, which is 16, and an array of so many longs

TYPE is a name in pynvml, which has those of ctypes too.
"""

_DEVICE = "nvmlDeviceGet"
_CLOCK = "i=0,1,2,3"
_LINK = "i=" + ",".join(map(str, range(18)))
_TWELVE = "i=0,1,2,3,4,5,6,7,8,9,10,11"

_TEXTS = ("Name", "UUID", "Serial", "VbiosVersion", "InforomImageVersion", "GspFirmwareVersion")
_NUMBERS = (
    "Index MinorNumber Brand Architecture NumGpuCores NumaNodeId PowerUsage PowerManagementLimit "
    "PowerManagementDefaultLimit EnforcedPowerLimit PerformanceState FanSpeed NumFans CurrPcieLinkGeneration "
    "MaxPcieLinkGeneration GpuMaxPcieLinkGeneration CurrPcieLinkWidth MaxPcieLinkWidth PcieReplayCounter PcieSpeed "
    "RetiredPagesPendingStatus MaxMigDeviceCount GpuInstanceId ComputeInstanceId AccountingMode AccountingBufferSize "
    "ComputeMode PersistenceMode DisplayActive DisplayMode VirtualizationMode HostVgpuMode PcieLinkMaxSpeed IrqNum "
    "MultiGpuBoard BoardId MemoryBusWidth AdaptiveClockInfoStatus"
)
_BIG_NUMBERS = (
    "TotalEnergyConsumption CurrentClocksEventReasons CurrentClocksThrottleReasons SupportedClocksEventReasons "
    "SupportedClocksThrottleReasons SupportedEventTypes"
)
_PAIRS = (
    "CudaComputeCapability EncoderUtilization DecoderUtilization JpgUtilization OfaUtilization EccMode MigMode "
    "PowerManagementLimitConstraints MinMaxFanSpeed"
)
_STRUCTS = {
    "PciInfo_v3": "nvmlPciInfo_t",
    "UtilizationRates": "c_nvmlUtilization_t",
    "MemoryInfo": "c_nvmlMemory_t",
    "BAR1MemoryInfo": "c_nvmlBAR1Memory_t",
    "RowRemapperHistogram": "c_nvmlRowRemapperHistogramValues",
    "Attributes_v2": "c_nvmlDeviceAttributes",
    "ConfComputeMemSizeInfo": "c_nvmlConfComputeMemSizeInfo_t",
    "GpuFabricInfo": "c_nvmlGpuFabricInfo_t",
    "DeviceHandleFromMigDeviceHandle": "c_nvmlDevice_t",
}

SHAPES: dict[str, str] = {
    "nvmlSystemGetDriverVersion": "s81",
    "nvmlSystemGetNVMLVersion": "s80",
    "nvmlSystemGetCudaDriverVersion": "o:c_int",
    "nvmlSystemGetCudaDriverVersion_v2": "o:c_int",
    "nvmlSystemGetProcessName": "i=pids s1024",
    "nvmlDeviceGetCount_v2": "o:c_uint",
    "nvmlDeviceGetHandleByIndex_v2": "i=gpus o:c_nvmlDevice_t",
    "nvmlDeviceGetHandleByUUID": "k=uuid o:c_nvmlDevice_t",
    "nvmlDeviceGetHandleByPciBusId_v2": "k=pci_bus_id o:c_nvmlDevice_t",
    **{_DEVICE + name: "h s96" for name in _TEXTS},
    **{_DEVICE + name: "h o:c_uint" for name in _NUMBERS.split()},
    **{_DEVICE + name: "h o:c_ulonglong" for name in _BIG_NUMBERS.split()},
    **{_DEVICE + name: "h o:c_uint o:c_uint" for name in _PAIRS.split()},
    **{_DEVICE + name: f"h o:{struct}" for name, struct in _STRUCTS.items()},
    "nvmlDeviceGetInforomVersion": "h i=0,1,2 s16",
    "nvmlDeviceGetMemoryInfo_v2": "h v:c_nvmlMemory_v2_t:nvmlMemory_v2",
    "nvmlDeviceGetTemperature": "h i=0 o:c_uint",
    "nvmlDeviceGetTemperatureV": "h v:c_nvmlTemperature_v1_t:nvmlTemperature_v1:sensorType=0",
    "nvmlDeviceGetTemperatureThreshold": "h i=0,1,2,3,4,5,6,7 o:c_uint",
    "nvmlDeviceGetMarginTemperature": "h v:c_nvmlMarginTemperature_v1_t:nvmlMarginTemperature_v1",
    "nvmlDeviceGetThermalSettings": "h i=0,15 o:c_nvmlGpuThermalSettings_t",
    "nvmlDeviceGetClockInfo": f"h {_CLOCK} o:c_uint",
    "nvmlDeviceGetMaxClockInfo": f"h {_CLOCK} o:c_uint",
    "nvmlDeviceGetApplicationsClock": f"h {_CLOCK} o:c_uint",
    "nvmlDeviceGetViolationStatus": f"h {_TWELVE} o:c_nvmlViolationTime_t",
    "nvmlDeviceGetFanSpeed_v2": "h i=0,1,2,3 o:c_uint",
    "nvmlDeviceGetFanSpeedRPM": "h v:c_nvmlFanSpeedInfo_t:nvmlFanSpeedInfo_v1:fan=0",
    "nvmlDeviceGetFieldValues": "h f",
    "nvmlDeviceGetSamples": "h i=0,1,2,3,4,5,6 q o:c_uint c1:c_nvmlSample_t",
    "nvmlDeviceGetPcieThroughput": "h i=0,1 o:c_uint",
    "nvmlDeviceGetNvLinkState": f"h {_LINK} o:c_uint",
    "nvmlDeviceGetNvLinkVersion": f"h {_LINK} o:c_uint",
    "nvmlDeviceGetNvLinkRemoteDeviceType": f"h {_LINK} o:c_uint",
    "nvmlDeviceGetNvLinkRemotePciInfo_v2": f"h {_LINK} o:nvmlPciInfo_t",
    "nvmlDeviceGetNvLinkErrorCounter": f"h {_LINK} i=0,1,2,3,4 o:c_ulonglong",
    "nvmlDeviceGetGpuFabricInfoV": "h v:c_nvmlGpuFabricInfo_v2_t:nvmlGpuFabricInfo_v2",
    "nvmlDeviceGetTotalEccErrors": "h i=0,1 i=0,1 o:c_ulonglong",
    "nvmlDeviceGetMemoryErrorCounter": "h i=0,1 i=0,1 i=0,1,2,3,4,5,6,7 o:c_ulonglong",
    "nvmlDeviceGetSramEccErrorStatus": "h v:c_nvmlEccSramErrorStatus_v1_t:nvmlEccSramErrorStatus_v1",
    "nvmlDeviceGetRetiredPages": "h i=0,1 c:c_ulonglong",
    "nvmlDeviceGetRemappedRows": "h o:c_uint o:c_uint o:c_uint o:c_uint",
    "nvmlDeviceGetRepairStatus": "h v:c_nvmlRepairStatus_t:nvmlRepairStatus_v1",
    "nvmlDeviceGetUnrepairableMemoryFlag_v1": "h v:c_nvmlUnrepairableMemory_v1_t:nvmlUnrepairableMemory_v1",
    "nvmlDeviceGetMigDeviceHandleByIndex": "h i=0,1,2,3,4,5,6 o:c_nvmlDevice_t",
    "nvmlDeviceIsMigDeviceHandle": "h o:c_uint",
    "nvmlDeviceGetGpuInstanceById": f"h {_TWELVE},12,13,14 o:c_nvmlGpuInstance_t",
    "nvmlDeviceGetGpuInstances": f"h {_TWELVE} C:c_nvmlGpuInstance_t",
    "nvmlDeviceGetCpuAffinity": "h a16",
    "nvmlDeviceGetMemoryAffinity": "h a16 i=0,1",
    "nvmlDeviceGetGpuInstanceProfileInfoV": (
        f"h {_TWELVE} v:c_nvmlGpuInstanceProfileInfo_v2_t:nvmlGpuInstanceProfileInfo_v2"
    ),
    "nvmlDeviceGetGpuInstanceProfileInfo": f"h {_TWELVE} o:c_nvmlGpuInstanceProfileInfo_t",
    "nvmlGpuInstanceGetInfo": "g o:c_nvmlGpuInstanceInfo_t",
    "nvmlGpuInstanceGetComputeInstanceById": "g i=0,1,2,3,4,5,6,7 o:c_nvmlComputeInstance_t",
    "nvmlComputeInstanceGetInfo_v2": "x o:c_nvmlComputeInstanceInfo_t",
    **{
        f"nvmlDeviceGet{kind}RunningProcesses{version}": f"h c:{struct}"
        for kind in ("Compute", "Graphics", "MPSCompute")
        for version, struct in (("_v3", "c_nvmlProcessInfo_v3_t"), ("_v2", "c_nvmlProcessInfo_v2_t"))
    },
    "nvmlDeviceGetRunningProcessDetailList": (
        "h p:c_nvmlProcessDetailList_t:nvmlProcessDetailList_v1:c_nvmlProcessDetail_v1_t:numProcArrayEntries:procArray"
    ),
    "nvmlDeviceGetProcessUtilization": "h C:c_nvmlProcessUtilizationSample_t q",
    "nvmlDeviceGetProcessesUtilizationInfo": (
        "h p:c_nvmlProcessesUtilizationInfo_v1_t:ProcessesUtilizationInfo_v1:c_nvmlProcessUtilizationInfo_v1_t:"
        "processSamplesCount:procUtilArray"
    ),
    "nvmlDeviceGetAccountingStats": "h i=pids o:c_nvmlAccountingStats_t",
    "nvmlDeviceGetAccountingPids": "h c:c_uint",
    "nvmlDeviceGetTopologyCommonAncestor": "h h o:c_uint",
    "nvmlDeviceGetP2PStatus": "h h i=0,1,2,3,4 o:c_uint",
    "nvmlGpmQueryDeviceSupport": "h v:c_nvmlGpmSupport_t:NVML_GPM_SUPPORT_VERSION",
}

# These keep something from one call to the next.
STATEFUL: tuple[str, ...] = (
    "nvmlInitWithFlags",
    "nvmlShutdown",
    "nvmlErrorString",
    "nvmlEventSetCreate",
    "nvmlDeviceRegisterEvents",
    "nvmlEventSetWait_v2",
    "nvmlEventSetFree",
    "nvmlSystemEventSetCreate",
    "nvmlSystemRegisterEvents",
    "nvmlSystemEventSetWait",
    "nvmlSystemEventSetFree",
    "nvmlGpmSampleAlloc",
    "nvmlGpmSampleFree",
    "nvmlGpmSampleGet",
    "nvmlGpmMigSampleGet",
    "nvmlGpmMetricsGet",
)
