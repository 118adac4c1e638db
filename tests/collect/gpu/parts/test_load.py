"""Load, clocks and temperature: what can be true is said, the rest is absent and counted."""

import pytest


def test_at_work(bench):
    bench.wish(load=1.0, encoder_percent=65, decoder_percent=3, jpeg_percent=2, ofa_percent=1)
    gpu = bench.read(30)
    assert gpu.utilization_ratio == 1.0
    assert (gpu.encoder_utilization_ratio, gpu.decoder_utilization_ratio) == (0.65, 0.03)
    assert (gpu.jpeg_utilization_ratio, gpu.ofa_utilization_ratio) == (0.02, 0.01)
    assert gpu.clocks_hertz == {"graphics": 1.98e9, "sm": 1.98e9, "memory": 2.619e9, "video": 1.545e9}
    assert (gpu.performance_state, gpu.throttle_mask, gpu.throttle_reasons) == (0, 0, ())


@pytest.mark.parametrize(
    ("function", "value", "name", "found"),
    [
        ("nvmlDeviceGetUtilizationRates", {"gpu": 129}, "utilization_ratio", 1.0),
        ("nvmlDeviceGetUtilizationRates", {"gpu": 0xFFFFFFFF}, "utilization_ratio", None),
        ("nvmlDeviceGetUtilizationRates", {"memory": 2147483632}, "memory_utilization_ratio", None),
        ("nvmlDeviceGetEncoderUtilization", 0x7FFFFFF2, "encoder_utilization_ratio", None),
        ("nvmlDeviceGetTemperatureV", {"temperature": 0x7FFFFFF0}, "temperature_celsius", None),
        ("nvmlDeviceGetPerformanceState", 32, "performance_state", None),
        ("nvmlDeviceGetFanSpeed", 0xFFFFFFFF, "fan_speed_ratio", None),
        ("nvmlDeviceGetMemoryInfo_v2", {"used": 2**62}, "memory_used_bytes", None),
        ("nvmlDeviceGetBAR1MemoryInfo", {"bar1Used": 2**63 - 14}, "bar1_used_bytes", None),
        ("nvmlDeviceGetCurrentClocksEventReasons", 2**63 - 14, "throttle_mask", None),
    ],
)
def test_what_cannot_be_true(gpu_bench, function, value, name, found):
    bench = gpu_bench("rtx4080sx2")
    bench.wish(load=0.5, values={function: value})
    gpu = bench.read(2)
    assert gpu.state == "ok"
    assert getattr(gpu, name) == found


def test_what_cannot_be_true_is_counted(bench):
    bench.wish(values={"nvmlDeviceGetUtilizationRates": {"gpu": 129, "memory": 4000}})
    bench.read(3)
    assert bench.calls.errors == {
        "nvmlDeviceGetUtilizationRates: more than 100 %, taken as 100 %": 3,
        "nvmlDeviceGetUtilizationRates: not a percentage": 3,
    }


def test_a_clock_that_fails_for_now_does_not_cost_the_others(bench):
    bench.wish(values={"nvmlDeviceGetClockInfo": 0x7FFFFFFF})
    assert bench.read().clocks_hertz is None
    bench.wish()
    assert set(bench.read().clocks_hertz) == {"sm", "memory"}
    assert set(bench.read(6).clocks_hertz) == {"sm", "memory", "graphics", "video"}
