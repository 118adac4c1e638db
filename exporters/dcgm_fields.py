"""The table of DCGM's names: what we know of a GPU or a MIG slice in, the text of each value out; None where unknown.

Numbers, names and their order are those of DCGM's fields (the order by number is the order of dcgm-exporter's page).
Units are NVIDIA's: MiB, mJ, percent, MHz, ns.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

from agent.core.gpu_readings import RECOVERY_ACTIONS
from exporters.dcgm_entity import Entity
from exporters.dcgm_numbers import Text, flag, mebibytes, megahertz, percent, six, whole

FieldType = Literal["gauge", "counter"]


class Field(NamedTuple):
    """A field of DCGM. `new` is its name since DCGM 4.6, where that differs; names are without ``DCGM_FI_``."""

    number: int
    name: str
    type: FieldType
    help: str
    text: Callable[[Entity], Text]
    new: str = ""
    stock: bool = False  # dcgm-exporter gives it without being asked, or consumers count on it all the same


def _clock(domain: str) -> Callable[[Entity], Text]:
    return lambda e: megahertz((e.gpu.clocks_hertz or {}).get(domain))


def _clock_max(domain: str) -> Callable[[Entity], Text]:
    return lambda e: megahertz((e.details.clocks_max_hertz or {}).get(domain))


def _violation(policy: str) -> Callable[[Entity], Text]:
    return lambda e: whole((e.gpu.violation_ns or {}).get(policy))


def _ecc(kind: str) -> Callable[[Entity], Text]:
    return lambda e: whole((e.errors.ecc_errors or {}).get(kind))


def _retired(cause: str) -> Callable[[Entity], Text]:
    return lambda e: whole((e.errors.retired_pages or {}).get(cause))


def _remapped(cause: str) -> Callable[[Entity], Text]:
    return lambda e: whole((e.errors.remapped_rows or {}).get(cause))


def _spare(banks: str) -> Callable[[Entity], Text]:
    return lambda e: whole((e.errors.row_remap_banks or {}).get(banks))


def _link_errors(kind: str) -> Callable[[Entity], Text]:
    return lambda e: whole((e.nvlink.errors or {}).get(kind))


def _millijoules(entity: Entity) -> Text:
    return whole(entity.gpu.energy_joules, 1000.0)


def _recovery_action(entity: Entity) -> Text:
    action = entity.errors.recovery_action or ""
    if action in RECOVERY_ACTIONS:
        return str(RECOVERY_ACTIONS.index(action))
    number = action.removeprefix("action ")  # newer than our table
    return number if number.isdecimal() else None


def _bar1_free(entity: Entity) -> Text:
    total, used = entity.gpu.bar1_total_bytes, entity.gpu.bar1_used_bytes
    return mebibytes(total - used) if total is not None and used is not None else None


def _nvlink_rate(entity: Entity) -> Text:
    # DCGM divides KiB by 1000.
    return whole(entity.rates.get("nvlink"), 1 / 1024 / 1000)


VIOLATION = "Time for which clocks were held down, in ns, because of"

# The four tables follow DCGM's own grouping; together they are in order of number.
_DEVICE = (
    Field(66, "DEV_PERSISTENCE_MODE", "gauge", "Whether the driver keeps the GPU initialised while nobody uses it.",
          lambda e: flag(e.details.persistence_mode), "DEV_GPU_PERSISTENCE_MODE"),
    Field(67, "DEV_MIG_MODE", "gauge", "Whether MIG mode is on.", lambda e: flag(e.details.mig_mode)),
    Field(90, "DEV_BAR1_TOTAL", "gauge", "Size of BAR1, in MiB.", lambda e: mebibytes(e.gpu.bar1_total_bytes)),
    Field(92, "DEV_BAR1_USED", "gauge", "BAR1 in use, in MiB.", lambda e: mebibytes(e.gpu.bar1_used_bytes)),
    Field(93, "DEV_BAR1_FREE", "gauge", "BAR1 left, in MiB.", _bar1_free),
    Field(100, "DEV_SM_CLOCK", "gauge", "Clock of the SMs, in MHz.", _clock("sm"), stock=True),
    Field(101, "DEV_MEM_CLOCK", "gauge", "Clock of the memory, in MHz.", _clock("memory"), stock=True),
    Field(102, "DEV_VIDEO_CLOCK", "gauge", "Clock of the video engines, in MHz.", _clock("video")),
    Field(112, "DEV_CLOCK_THROTTLE_REASONS", "gauge", "Why clocks are held down now: NVML's bit mask.",
          lambda e: whole(e.gpu.throttle_mask), "DEV_CLOCKS_EVENT_REASONS"),
    Field(113, "DEV_MAX_SM_CLOCK", "gauge", "Highest clock of the SMs, in MHz.", _clock_max("sm")),
    Field(114, "DEV_MAX_MEM_CLOCK", "gauge", "Highest clock of the memory, in MHz.", _clock_max("memory")),
    Field(140, "DEV_MEMORY_TEMP", "gauge", "Temperature of the memory, in C.",
          lambda e: whole(e.gpu.memory_temperature_celsius), "DEV_MEMORY_TEMP_CELSIUS", stock=True),
    Field(150, "DEV_GPU_TEMP", "gauge", "Temperature of the GPU, in C.",
          lambda e: whole(e.gpu.temperature_celsius), "DEV_GPU_TEMP_CELSIUS", stock=True),
    Field(155, "DEV_POWER_USAGE", "gauge", "Power drawn by the board, in W.",
          lambda e: six(e.gpu.power_watts), "DEV_BOARD_POWER_WATTS", stock=True),
    Field(156, "DEV_TOTAL_ENERGY_CONSUMPTION", "counter", "Energy since the driver was loaded, in mJ.",
          _millijoules, stock=True),
    Field(158, "DEV_SLOWDOWN_TEMP", "gauge", "Temperature above which the GPU slows down, in C.",
          lambda e: whole(e.gpu.temperature_slowdown_celsius), "DEV_GPU_TEMP_SLOWDOWN_CELSIUS"),
    Field(159, "DEV_SHUTDOWN_TEMP", "gauge", "Temperature above which the GPU switches itself off, in C.",
          lambda e: whole(e.details.temperature_shutdown_celsius), "DEV_GPU_TEMP_SHUTDOWN_CELSIUS"),
    Field(160, "DEV_POWER_MGMT_LIMIT", "gauge", "Power limit that was asked for, in W.",
          lambda e: six(e.details.power_limit_requested_watts), "DEV_BOARD_POWER_LIMIT_REQUESTED_WATTS"),
    Field(161, "DEV_POWER_MGMT_LIMIT_MIN", "gauge", "Lowest power limit that can be set, in W.",
          lambda e: six(e.details.power_limit_min_watts), "DEV_BOARD_POWER_LIMIT_MIN_WATTS"),
    Field(162, "DEV_POWER_MGMT_LIMIT_MAX", "gauge", "Highest power limit that can be set, in W.",
          lambda e: six(e.details.power_limit_max_watts), "DEV_BOARD_POWER_LIMIT_MAX_WATTS"),
    Field(163, "DEV_POWER_MGMT_LIMIT_DEF", "gauge", "Power limit as delivered, in W.",
          lambda e: six(e.details.power_limit_default_watts), "DEV_BOARD_POWER_LIMIT_DEFAULT_WATTS"),
    Field(164, "DEV_ENFORCED_POWER_LIMIT", "gauge", "Power limit that the driver enforces, in W.",
          lambda e: six(e.gpu.power_limit_watts), "DEV_BOARD_POWER_LIMIT_ENFORCED_WATTS"),
    Field(190, "DEV_PSTATE", "gauge", "Performance state; 0 is the fastest.",
          lambda e: whole(e.gpu.performance_state), "DEV_GPU_PSTATE"),
    Field(191, "DEV_FAN_SPEED", "gauge", "Speed that the fans are told to have, in %.",
          lambda e: percent(e.gpu.fan_speed_ratio)),
)  # fmt: skip

_LOAD = (
    Field(202, "DEV_PCIE_REPLAY_COUNTER", "counter", "PCIe packets that were sent again.",
          lambda e: whole(e.pcie.replays), "DEV_PCIE_REPLAY_TOTAL", stock=True),
    Field(203, "DEV_GPU_UTIL", "gauge", "Share of the time in which a kernel ran, in %.",
          lambda e: None if e.instance else percent(e.gpu.utilization_ratio), "DEV_GPU_UTIL_RATIO", stock=True),
    Field(204, "DEV_MEM_COPY_UTIL", "gauge", "Share of the time in which the memory was read or written, in %.",
          lambda e: None if e.instance else percent(e.gpu.memory_utilization_ratio), stock=True),
    Field(206, "DEV_ENC_UTIL", "gauge", "Load of the video encoder, in %.",
          lambda e: None if e.instance else percent(e.gpu.encoder_utilization_ratio), stock=True),
    Field(207, "DEV_DEC_UTIL", "gauge", "Load of the video decoder, in %.",
          lambda e: None if e.instance else percent(e.gpu.decoder_utilization_ratio), stock=True),
    Field(230, "DEV_XID_ERRORS", "gauge", "Number of the last Xid error; 0: none since the agent looks.",
          lambda e: whole(e.last_xid), "DEV_XID_ERROR", stock=True),
    Field(235, "DEV_PCIE_MAX_LINK_GEN", "gauge", "PCIe generation that the link can have.",
          lambda e: whole(e.pcie.generation_max)),
    Field(236, "DEV_PCIE_MAX_LINK_WIDTH", "gauge", "PCIe lanes that the link can have.",
          lambda e: whole(e.pcie.width_max)),
    Field(237, "DEV_PCIE_LINK_GEN", "gauge", "PCIe generation of the link now.", lambda e: whole(e.pcie.generation)),
    Field(238, "DEV_PCIE_LINK_WIDTH", "gauge", "PCIe lanes of the link now.", lambda e: whole(e.pcie.width)),
    Field(240, "DEV_POWER_VIOLATION", "counter", f"{VIOLATION} power.", _violation("power")),
    Field(241, "DEV_THERMAL_VIOLATION", "counter", f"{VIOLATION} heat.", _violation("thermal")),
    Field(242, "DEV_SYNC_BOOST_VIOLATION", "counter", f"{VIOLATION} a slower GPU of the same sync boost group.",
          _violation("sync_boost")),
    Field(243, "DEV_BOARD_LIMIT_VIOLATION", "counter", f"{VIOLATION} a limit of the board.",
          _violation("board_limit")),
    Field(244, "DEV_LOW_UTIL_VIOLATION", "counter", f"{VIOLATION} too little load.", _violation("low_util")),
    Field(245, "DEV_RELIABILITY_VIOLATION", "counter", f"{VIOLATION} reliability.", _violation("reliability")),
    Field(250, "DEV_FB_TOTAL", "gauge", "Memory of the GPU or the MIG slice, in MiB.",
          lambda e: mebibytes(e.memory.memory_total_bytes), stock=True),
    Field(251, "DEV_FB_FREE", "gauge", "Memory that is free, in MiB.",
          lambda e: mebibytes(e.memory.memory_free_bytes), stock=True),
    Field(252, "DEV_FB_USED", "gauge", "Memory in use, in MiB.",
          lambda e: mebibytes(e.memory.memory_used_bytes), stock=True),
    Field(253, "DEV_FB_RESERVED", "gauge", "Memory that the driver keeps to itself, in MiB.",
          lambda e: mebibytes(e.memory.memory_reserved_bytes), stock=True),
    Field(254, "DEV_FB_USED_PERCENT", "gauge", "Used share of what the driver does not keep, 0 to 1.",
          lambda e: six(e.memory_used_ratio), "DEV_FB_USED_RATIO"),
)  # fmt: skip

_ERRORS = (
    Field(300, "DEV_ECC_CURRENT", "gauge", "Whether ECC is on.",
          lambda e: flag(e.errors.ecc_enabled), "DEV_ECC_MODE"),
    Field(310, "DEV_ECC_SBE_VOL_TOTAL", "counter", "Single-bit memory errors since the driver was loaded.",
          _ecc("corrected_volatile")),
    Field(311, "DEV_ECC_DBE_VOL_TOTAL", "counter", "Double-bit memory errors since the driver was loaded.",
          _ecc("uncorrected_volatile")),
    Field(312, "DEV_ECC_SBE_AGG_TOTAL", "counter", "Single-bit memory errors of the GPU's life.",
          _ecc("corrected_aggregate")),
    Field(313, "DEV_ECC_DBE_AGG_TOTAL", "counter", "Double-bit memory errors of the GPU's life.",
          _ecc("uncorrected_aggregate")),
    Field(385, "DEV_BANKS_REMAP_ROWS_AVAIL_MAX", "gauge", "Memory banks with all spare rows left.",
          _spare("max"), "DEV_BANK_REMAP_AVAIL_MAX"),
    Field(386, "DEV_BANKS_REMAP_ROWS_AVAIL_HIGH", "gauge", "Memory banks with most spare rows left.",
          _spare("high"), "DEV_BANK_REMAP_AVAIL_HIGH"),
    Field(387, "DEV_BANKS_REMAP_ROWS_AVAIL_PARTIAL", "gauge", "Memory banks with some spare rows left.",
          _spare("partial"), "DEV_BANK_REMAP_AVAIL_PARTIAL"),
    Field(388, "DEV_BANKS_REMAP_ROWS_AVAIL_LOW", "gauge", "Memory banks with few spare rows left.",
          _spare("low"), "DEV_BANK_REMAP_AVAIL_LOW"),
    Field(389, "DEV_BANKS_REMAP_ROWS_AVAIL_NONE", "gauge", "Memory banks with no spare rows left.",
          _spare("none"), "DEV_BANK_REMAP_AVAIL_NONE"),
    Field(390, "DEV_RETIRED_SBE", "counter", "Memory pages retired for single-bit errors.",
          _retired("single_bit"), "DEV_PAGE_RETIRED_SBE_TOTAL"),
    Field(391, "DEV_RETIRED_DBE", "counter", "Memory pages retired for double-bit errors.",
          _retired("double_bit"), "DEV_PAGE_RETIRED_DBE_TOTAL"),
    Field(392, "DEV_RETIRED_PENDING", "counter", "Whether pages wait to be retired at the next start.",
          lambda e: flag(e.errors.retired_pages_pending), "DEV_PAGE_RETIRED_PENDING"),
    Field(393, "DEV_UNCORRECTABLE_REMAPPED_ROWS", "counter", "Memory rows replaced for uncorrectable errors.",
          _remapped("uncorrected"), "DEV_ROW_REMAP_UNCORRECTABLE_TOTAL", stock=True),
    Field(394, "DEV_CORRECTABLE_REMAPPED_ROWS", "counter", "Memory rows replaced for correctable errors.",
          _remapped("corrected"), "DEV_ROW_REMAP_CORRECTABLE_TOTAL", stock=True),
    Field(395, "DEV_ROW_REMAP_FAILURE", "gauge", "Whether a row could not be replaced.",
          lambda e: flag(e.errors.row_remap_failed), "DEV_ROW_REMAP_FAILED", stock=True),
    Field(396, "DEV_ROW_REMAP_PENDING", "gauge", "Whether rows wait to be replaced at the next reset.",
          lambda e: flag(e.errors.row_remap_pending)),
    Field(409, "DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL", "counter", "Bad flow control checksums on all NVLinks.",
          _link_errors("crc_flit"), "DEV_NVLINK_CRC_FLIT_ERROR_TOTAL"),
    Field(419, "DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL", "counter", "Bad data checksums on all NVLinks.",
          _link_errors("crc_data"), "DEV_NVLINK_CRC_DATA_ERROR_TOTAL"),
    Field(429, "DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL", "counter", "Packets sent again on all NVLinks.",
          _link_errors("replay"), "DEV_NVLINK_REPLAY_ERROR_TOTAL"),
    Field(439, "DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL", "counter", "Recoveries of all NVLinks.",
          _link_errors("recovery"), "DEV_NVLINK_RECOVERY_ERROR_TOTAL"),
    Field(449, "DEV_NVLINK_BANDWIDTH_TOTAL", "gauge", "Rate over all NVLinks, both directions, in MB/s.",
          _nvlink_rate, "DEV_NVLINK_THROUGHPUT_TOTAL", stock=True),
)  # fmt: skip

ENGINE_ACTIVE = 1001
_PROFILING = (
    Field(ENGINE_ACTIVE, "PROF_GR_ENGINE_ACTIVE", "gauge", "Share of the time in which work was on the GPU, 0 to 1.",
          lambda e: six(e.engine_active_ratio), "PROF_GR_ENGINE_UTIL_RATIO", stock=True),
    Field(1002, "PROF_SM_ACTIVE", "gauge", "Share of SM time with at least one warp, 0 to 1.",
          lambda e: six(e.activity.sm_ratio), "PROF_SM_UTIL_RATIO"),
    Field(1003, "PROF_SM_OCCUPANCY", "gauge", "Resident warps of as many as there can be, 0 to 1.",
          lambda e: six(e.activity.sm_occupancy_ratio), "PROF_SM_OCCUPANCY_RATIO"),
    Field(1004, "PROF_PIPE_TENSOR_ACTIVE", "gauge", "Share of cycles in which tensor cores worked, 0 to 1.",
          lambda e: six(e.activity.tensor_ratio), "PROF_TENSOR_UTIL_RATIO", stock=True),
    Field(1005, "PROF_DRAM_ACTIVE", "gauge", "Share of cycles in which memory moved data, 0 to 1.",
          lambda e: six(e.activity.dram_ratio), "PROF_DRAM_UTIL_RATIO", stock=True),
    Field(1006, "PROF_PIPE_FP64_ACTIVE", "gauge", "Share of cycles in which the fp64 pipes worked, 0 to 1.",
          lambda e: six(e.activity.fp64_ratio), "PROF_FP64_UTIL_RATIO"),
    Field(1007, "PROF_PIPE_FP32_ACTIVE", "gauge", "Share of cycles in which the fp32 pipes worked, 0 to 1.",
          lambda e: six(e.activity.fp32_ratio), "PROF_FP32_UTIL_RATIO"),
    Field(1008, "PROF_PIPE_FP16_ACTIVE", "gauge", "Share of cycles in which the fp16 pipes worked, 0 to 1.",
          lambda e: six(e.activity.fp16_ratio), "PROF_FP16_UTIL_RATIO"),
    Field(1009, "PROF_PCIE_TX_BYTES", "gauge", "Rate from the GPU over PCIe, in bytes per second.",
          lambda e: whole(e.rates.get("pcie_tx")), stock=True),
    Field(1010, "PROF_PCIE_RX_BYTES", "gauge", "Rate to the GPU over PCIe, in bytes per second.",
          lambda e: whole(e.rates.get("pcie_rx")), stock=True),
    Field(1011, "PROF_NVLINK_TX_BYTES", "gauge", "Rate from the GPU over all NVLinks, in bytes per second.",
          lambda e: whole(e.rates.get("nvlink_tx"))),
    Field(1012, "PROF_NVLINK_RX_BYTES", "gauge", "Rate to the GPU over all NVLinks, in bytes per second.",
          lambda e: whole(e.rates.get("nvlink_rx"))),
    Field(1420, "DEV_CLOCKS_EVENT_REASON_SW_POWER_CAP_NS", "counter", f"{VIOLATION} the power limit.",
          _violation("power")),
    Field(1421, "DEV_CLOCKS_EVENT_REASON_SYNC_BOOST_NS", "counter", f"{VIOLATION} a slower GPU of the same group.",
          _violation("sync_boost")),
    Field(1422, "DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN_NS", "counter", f"{VIOLATION} heat, by the driver.",
          _violation("sw_thermal")),
    Field(1423, "DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN_NS", "counter", f"{VIOLATION} heat, by the hardware.",
          _violation("hw_thermal")),
    Field(1424, "DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN_NS", "counter", f"{VIOLATION} a power brake.",
          _violation("power_brake")),
    Field(1523, "DEV_GET_GPU_RECOVERY_ACTION", "gauge", "What the driver wants done: 0 nothing, 1 reset, 2 reboot...",
          _recovery_action, "DEV_GPU_RECOVERY_ACTION"),
)  # fmt: skip

FIELDS: tuple[Field, ...] = _DEVICE + _LOAD + _ERRORS + _PROFILING
"""Every field that we can give, by number."""

OF_THE_SLICE = frozenset((*range(250, 255), *range(1001, 1009)))
"""Numbers of those fields of which each MIG GPU instance has a value of its own; of the others it has its GPU's."""

NOT_GIVEN: dict[str, str] = {
    "DCGM_FI_DEV_VGPU_LICENSE_STATUS": "it concerns vGPU guests only, and we do not ask for the licence",
    "DCGM_FI_DEV_NVLINK_BANDWIDTH_L0": "links are counted together",
    "DCGM_EXP_CLOCK_EVENTS_COUNT": "it counts DCGM's samples; the *_VIOLATION counters say how long it lasted",
    "DCGM_EXP_GPU_HEALTH_STATUS": "it is the result of DCGM's own health checks",
    "DCGM_EXP_P2P_STATUS": "links between pairs of GPUs are not read",
}
"""What dcgm-exporter's stock configuration names, on or off, and we do not give; and why not."""
