import pytest

from agent.core.gpu_readings import GpuActivity, GpuDetails
from exporters.dcgm_entity import Entity
from tests.support.dcgm import MIB, gpu, in_mig_mode, mig, older_gpu


def test_a_slice_has_its_own_memory_and_activity_and_the_rest_of_its_gpu():
    device = mig(2)
    entity = Entity(gpu=in_mig_mode(0, device), instance=device)
    assert entity.memory.memory_total_bytes == 40_000 * MIB
    assert entity.activity.tensor_ratio == 0.125
    assert entity.errors.recovery_action == "none"
    assert Entity(gpu=gpu(), instance=mig(2, activity=None)).activity.tensor_ratio is None


@pytest.mark.parametrize(
    ("used", "total", "reserved", "ratio"),
    [(50, 110, 10, 0.5), (50, 100, None, 0.5), (None, 100, 0, None), (5, None, 0, None), (5, 10, 10, None)],
)
def test_the_used_ratio_is_of_what_the_driver_does_not_keep(used, total, reserved, ratio):
    reading = gpu(memory_used_bytes=used, memory_total_bytes=total, memory_reserved_bytes=reserved)
    assert Entity(gpu=reading).memory_used_ratio == ratio


def test_what_was_not_said_is_empty_and_not_an_error():
    bare = Entity(gpu=gpu(errors=None, details=None, pcie=None, nvlink=None, activity=None))
    assert bare.errors.ecc_errors is None
    assert bare.details.mig_mode is None
    assert bare.pcie.replays is None
    assert bare.nvlink.errors is None
    assert bare.engine_active_ratio is None


@pytest.mark.parametrize(
    ("reading", "wanted", "ratio"),
    [
        (gpu(), False, 0.9),
        (gpu(), True, 0.9),
        (older_gpu(), False, None),
        (older_gpu(), True, 0.87),
        (older_gpu(details=None), True, 0.87),
        (gpu(activity=None), True, None),  # a Hopper that has no sample yet: not another measure in between
        (gpu(activity=GpuActivity(), details=GpuDetails(architecture="blackwell")), True, None),
    ],
)
def test_utilisation_stands_in_only_where_it_is_asked_for_and_nothing_better_can_come(reading, wanted, ratio):
    assert Entity(gpu=reading, utilization_as_engine_active=wanted).engine_active_ratio == ratio


def test_it_never_stands_in_for_a_slice():
    device = mig(1, activity=None)
    entity = Entity(gpu=older_gpu(mig=(device,)), instance=device, utilization_as_engine_active=True)
    assert entity.engine_active_ratio is None
