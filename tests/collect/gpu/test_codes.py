"""Return codes and masks: every row of the table in the reference on NVML's codes."""

import pynvml
import pytest

from agent.collect.gpu.codes import (
    EVENT_KINDS,
    LOST_REASONS,
    cuda_version_text,
    describe,
    right_for,
    throttle_words,
    verdict,
)


@pytest.mark.parametrize(
    ("code", "meaning"),
    [
        (0, "empty"),
        (1, "no_driver"),
        (2, "transient"),
        (3, "unsupported"),
        (4, "forbidden"),
        (6, "empty"),
        (7, "transient"),
        (8, "hardware"),
        (9, "no_driver"),
        (10, "transient"),
        (11, "hardware"),
        (12, "no_library"),
        (13, "missing"),
        (14, "hardware"),
        (15, "lost"),
        (16, "reset_required"),
        (17, "transient"),
        (18, "replace"),
        (19, "transient"),
        (20, "transient"),
        (25, "missing"),
        (26, "missing"),
        (27, "transient"),
        (28, "lost"),
        (29, "transient"),
        (999, "unknown"),
        (31337, "transient"),
    ],
)
def test_what_a_code_means(code, meaning):
    assert verdict(code) == meaning


def test_every_verdict_of_a_lost_gpu_has_a_remedy():
    codes = [code for code in range(1000) if verdict(code) in ("lost", "reset_required")]
    assert set(codes) == LOST_REASONS.keys()


def test_messages_name_function_and_code():
    assert describe("nvmlInit", 9) == "nvmlInit: driver not loaded (9)"
    assert describe("nvmlInit", 77) == "nvmlInit: NVML error (77)"


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (0, ()),
        (0x1, ("gpu_idle",)),
        (0x4, ("sw_power_cap",)),
        (0x48, ("hw_slowdown", "hw_thermal")),
        (0xB0, ("sync_boost", "sw_thermal", "power_brake")),
        (0x700, ("display_clocks", "board_limit", "reliability")),
        (0x802, ("application_clocks", "0x800")),
    ],
)
def test_throttle_words(mask, words):
    assert throttle_words(mask) == words


def test_bits_agree_with_pynvml():
    assert throttle_words(pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown) == ("power_brake",)
    assert throttle_words(pynvml.nvmlClocksEventReasonSwThermalSlowdown) == ("sw_thermal",)


@pytest.mark.parametrize(("number", "text"), [(13010, "13.1"), (12080, "12.8"), (11000, "11.0")])
def test_cuda_version(number, text):
    assert cuda_version_text(number) == text


def test_kinds_of_events_agree_with_pynvml():
    assert EVENT_KINDS[pynvml.nvmlEventTypeXidCriticalError] == "xid"
    assert EVENT_KINDS[pynvml.nvmlEventMigConfigChange] == "mig_reconfigured"
    assert EVENT_KINDS[pynvml.nvmlEventTypeGpuRecoveryAction] == "recovery_action"
    noise = pynvml.nvmlEventTypePState | pynvml.nvmlEventTypeClock | pynvml.nvmlEventTypePowerSourceChange
    assert sum(EVENT_KINDS) | noise == pynvml.nvmlEventTypeAll


@pytest.mark.parametrize(
    ("function", "right"),
    [
        ("nvmlDeviceGetMigDeviceHandleByIndex", "NVIDIA_MIG_MONITOR_DEVICES"),
        ("nvmlDeviceGetComputeRunningProcesses_v3", "privileged"),
        ("nvmlInit", "/dev/nvidiactl"),
        ("nvmlDeviceGetFieldValues", "root"),
    ],
)
def test_the_right_that_is_missing_is_named(function, right):
    assert right in right_for(function)
