"""Fields and calls about power say the same."""

import pynvml


def test_power_limits_and_energy(simulated, gpu_handle):
    simulated.wish(load=1.0)
    simulated.read(20)
    fields = pynvml.nvmlDeviceGetFieldValues(gpu_handle, [185, 186, 187, 188, 189, 190])
    power = pynvml.nvmlDeviceGetPowerUsage(gpu_handle)
    assert [f.value.uiVal for f in fields] == [power, power, 200_000, 700_000, 700_000, 700_000]
    energy = pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu_handle)
    assert [f.value.ullVal for f in pynvml.nvmlDeviceGetFieldValues(gpu_handle, [83, 191])] == [energy, energy]


def test_throttled_time(simulated, gpu_handle):
    simulated.wish(load=1.0, throttle_mask=0x60)
    simulated.read(3)
    fields = pynvml.nvmlDeviceGetFieldValues(gpu_handle, [74, 75, 269, 270, 271])
    assert [f.value.ullVal for f in fields] == [0, 3 * 10**9, 3 * 10**9, 3 * 10**9, 0]
