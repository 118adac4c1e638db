"""Power of the GPU or its module, from what the driver has; energy beside it."""

import pynvml
import pytest


def asked(bench, seconds):
    """The fields of each batch."""
    genuine, batches = bench.library.nvmlDeviceGetFieldValues, []

    def listening(handle, count, out):
        batches.append([item.fieldId for item in out._obj[: count.value]])
        return genuine(handle, count, out)

    bench.library.nvmlDeviceGetFieldValues = listening
    pynvml._nvmlGetFunctionPointer_cache.clear()
    return bench.read(seconds), batches


def test_the_average_is_preferred_and_asked_alone(bench):
    bench.read()
    gpu, batches = asked(bench, 3)
    assert (gpu.power_watts, gpu.power_scope) == (69.85, "gpu")
    assert batches == [[185, 83]] * 3


def test_without_an_average_it_is_of_the_instant(gpu_bench):
    bench = gpu_bench(average_power=False)
    bench.read(2)
    gpu, batches = asked(bench, 2)
    assert (gpu.power_watts, batches) == (69.85, [[186, 83]] * 2)


def test_an_average_that_is_dear_is_given_up(gpu_bench):
    bench = gpu_bench(average_power_microseconds=3300)
    bench.read(4)
    gpu, batches = asked(bench, 2)
    assert gpu.power_watts == 69.85
    assert batches == [[186, 83]] * 2


def test_an_older_driver_has_only_the_call(gpu_bench):
    bench = gpu_bench()
    bench.facts(unsupported_fields=(185, 186))
    gpu = bench.read(3)
    assert (gpu.power_watts, gpu.power_scope) == (69.85, "gpu")
    assert bench.calls.counts["nvmlDeviceGetPowerUsage"] == 3


def test_power_of_the_module(bench):
    bench.wish(load=1.0, power_of_module_only=True)
    first = bench.read()
    gpu = bench.read(59)
    assert gpu.power_scope == "module"
    assert gpu.power_watts == pytest.approx(1.5 * 631.95, rel=0.01)
    assert (first.energy_source, gpu.energy_source) == ("counter", "counter")
    assert gpu.energy_joules == pytest.approx(1.5 * bench.node.gpus[0].energy_joules, rel=0.001)
    assert gpu.power_limit_watts == 700


@pytest.mark.parametrize("blank", [0xFFFFFFFF, 0x7FFFFFF2])
def test_where_the_average_is_blank_there_is_that_of_the_instant(bench, blank):
    bench.wish(fields={185: blank})
    assert bench.read(3).power_watts == 69.85


def test_what_is_no_power_is_absent(bench):
    bench.wish(fields={185: 2_000_000_000})
    gpu = bench.read(2)
    assert (gpu.power_watts, gpu.energy_source) == (None, "counter")
    assert bench.calls.errors == {"power: not a power": 2}


def test_a_power_of_0_that_the_energy_contradicts_is_absent(bench):
    bench.wish(fields={185: 0})
    gpu = bench.read(3)
    assert (gpu.power_watts, gpu.energy_source) == (None, "counter")
    assert gpu.energy_joules == pytest.approx(3 * 69.85, abs=0.01)


def test_a_counter_that_jumps_is_replaced(bench):
    bench.wish(load=1.0)
    before = bench.read(30)
    bench.wish(load=1.0, energy="jumping")
    totals = [bench.read().energy_joules for _ in range(60)]
    assert totals == sorted(totals)
    assert bench.read().energy_source == "integrated"
    assert totals[-1] - before.energy_joules == pytest.approx(60 * 631.95, rel=0.02)


def test_a_counter_that_is_stuck_is_replaced(bench):
    bench.wish(load=1.0, energy="stuck")
    bench.read(30)
    totals = [bench.read().energy_joules for _ in range(60)]
    assert totals == sorted(totals)
    assert totals[-1] == pytest.approx(bench.node.gpus[0].energy_joules, rel=0.02)


def test_a_counter_that_starts_anew_is_seen_to(bench):
    bench.wish(load=1.0)
    bench.read(30)
    bench.wish(load=1.0, energy="restarted")
    gpu = bench.read()
    assert (gpu.energy_joules, gpu.energy_source) == (0.0, "counter")
    assert bench.read(20).energy_joules == pytest.approx(20 * 631.95, rel=0.01)
