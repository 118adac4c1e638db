"""NVML's return codes and bit masks in, words and what to do about them out. Pure tables; no NVML needed."""

from typing import Literal

Verdict = Literal[
    "unsupported",  # this GPU never has it: remember, do not ask again
    "missing",  # this driver never has it: remember, use the older variant
    "empty",  # nothing to report right now; not an error
    "forbidden",  # a right is missing: say so once, keep the rest
    "lost",  # the GPU is gone: stop calling it, probe now and then
    "reset_required",  # as lost, but a reset brings it back
    "no_driver",  # the driver went away: shut down, wait, start again
    "no_library",  # no driver on this node
    "replace",  # only a new process helps
    "unknown",  # driver says nothing useful; if every GPU says so, a new process may help
    "hardware",  # the device reports a fault; keep reading the rest
    "transient",  # try again at the next tick, count it
]

# Names as in nvml.h (nvmlReturn_t), for messages.
CODE_NAMES = {
    0: "success",
    1: "uninitialized",
    2: "invalid argument",
    3: "not supported",
    4: "no permission",
    6: "not found",
    7: "insufficient size",
    8: "insufficient power",
    9: "driver not loaded",
    10: "timeout",
    11: "interrupt request issue",
    12: "library not found",
    13: "function not found",
    14: "corrupted infoROM",
    15: "GPU is lost",
    16: "reset required",
    17: "operating system blocked the request",
    18: "library and driver versions differ",
    19: "in use",
    20: "out of memory",
    21: "no data",
    25: "argument version mismatch",
    26: "deprecated",
    27: "not ready",
    28: "GPU not found",
    29: "invalid state",
    999: "unknown error",
}

_VERDICTS: dict[int, Verdict] = {
    1: "no_driver",
    3: "unsupported",
    4: "forbidden",
    6: "empty",
    8: "hardware",
    9: "no_driver",
    11: "hardware",
    12: "no_library",
    13: "missing",
    14: "hardware",
    15: "lost",
    16: "reset_required",
    18: "replace",
    21: "empty",
    25: "missing",
    26: "missing",
    28: "lost",
    999: "unknown",
    # pynvml raises NVMLError(0) when a size query succeeds with nothing to return.
    0: "empty",
}


def verdict(code: int) -> Verdict:
    """What a return code of any call means for the reader. Codes that are not listed are worth another try."""
    return _VERDICTS.get(code, "transient")


def describe(function: str, code: int) -> str:
    """`nvmlDeviceGetPowerUsage: in use (19)`."""
    return f"{function}: {CODE_NAMES.get(code, 'NVML error')} ({code})"


# nvml.h, nvmlClocksEventReasons: bit -> word.
THROTTLE_REASONS = {
    0x1: "gpu_idle",
    0x2: "application_clocks",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal",
    0x40: "hw_thermal",
    0x80: "power_brake",
    0x100: "display_clocks",
    0x200: "board_limit",
    0x400: "reliability",
}


def throttle_words(mask: int) -> tuple[str, ...]:
    """Words for the bits that are set, lowest first; a bit newer than this table is named by its value."""
    words = []
    bit = 1
    while bit <= mask:
        if mask & bit:
            words.append(THROTTLE_REASONS.get(bit, f"0x{bit:x}"))
        bit <<= 1
    return tuple(words)


def cuda_version_text(number: int) -> str:
    """`13010` (nvmlSystemGetCudaDriverVersion) -> `13.1`."""
    return f"{number // 1000}.{number % 1000 // 10}"


LOST_REASONS = {
    15: "the GPU has fallen off the bus; reset it or reboot the node",
    16: "the GPU must be reset before it can be used again (nvidia-smi --gpu-reset, or reboot the node)",
    28: "the GPU was removed or its driver unbound from it",
}


# nvml.h, nvmlEventType*: bit -> word. Left out are changes of clocks, performance state and power source: too many.
EVENT_KINDS = {
    0x1: "ecc_single_bit",
    0x2: "ecc_double_bit",
    0x8: "xid",
    0x100: "mig_reconfigured",
    0x200: "ecc_single_bit_storm",
    0x400: "dram_retirement",
    0x800: "dram_retirement_failed",
    0x1000: "poison_nonfatal",
    0x2000: "poison_fatal",
    0x4000: "gpu_unavailable",
    0x8000: "recovery_action",
}


def right_for(function: str) -> str:
    """The right that would open a function which was refused with "no permission"."""
    if "Mig" in function or "GpuInstance" in function or "ComputeInstance" in function:
        return "root on the host and NVIDIA_MIG_MONITOR_DEVICES=all (a privileged container)"
    if "Process" in function or "Accounting" in function:
        return "root on the host (a privileged container); on a GPU in MIG mode also NVIDIA_MIG_MONITOR_DEVICES=all"
    if function == "nvmlInit":
        return "access to /dev/nvidiactl (the nvidia runtime with NVIDIA_DRIVER_CAPABILITIES=utility)"
    return "root on the host (a privileged container)"
