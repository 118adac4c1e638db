"""What seldom changes."""

from agent.core.gpu_readings import GpuDetails


def test_a_data_centre_gpu(bench):
    assert bench.read().details == GpuDetails(
        minor_number=0,
        serial="5130000000000",
        brand="NVIDIA",
        architecture="hopper",
        compute_capability="9.0",
        vbios_version="96.00.A5.00.01",
        persistence_mode=True,
        compute_mode="default",
        ecc_mode=True,
        mig_mode=bench.read().details.mig_mode,
        power_limit_default_watts=700,
        power_limit_requested_watts=700,
        power_limit_min_watts=200,
        power_limit_max_watts=700,
        temperature_shutdown_celsius=95,
        clocks_max_hertz={"graphics": 1.98e9, "sm": 1.98e9, "memory": 2.619e9, "video": 1.545e9},
        multiprocessors=132,
    )


def test_an_older_driver_has_only_calls(bench):
    by_fields = bench.read().details
    bench.close()
    again = type(bench)()
    again.control(returns={"nvmlDeviceGetFieldValues": {"0": 3}})
    details = again.read().details
    assert details.temperature_shutdown_celsius is None
    assert (details.power_limit_max_watts, details.power_limit_requested_watts, details.ecc_mode) == (700, 700, True)
    assert by_fields.multiprocessors == details.multiprocessors


def test_what_cannot_change_is_asked_for_once(bench):
    bench.read(200)
    assert bench.calls.counts["nvmlDeviceGetSerial"] == 1
    assert bench.calls.counts["nvmlDeviceGetPersistenceMode"] in (4, 5)


def test_what_cannot_be_true_is_absent(bench):
    wishes = {"nvmlDeviceGetMinorNumber": 0xFFFFFFFF, "nvmlDeviceGetBrand": 99, "nvmlDeviceGetNumGpuCores": 1000}
    bench.wish(values=wishes, fields={188: 0x7FFFFFF2})
    details = bench.read().details
    assert (details.minor_number, details.brand, details.multiprocessors) == (None, None, None)
    assert details.power_limit_max_watts == 700  # by the call
