from agent.core.attribution.idle_power import RECORDED_IDLE_WATTS, IdlePower
from tests.support.gpu_slots import gpu, gpu_uuid, mig, process, snapshot


def test_a_recorded_model_until_something_is_learned() -> None:
    idle = IdlePower()
    idle.see(snapshot(gpu(0, process(1), power_watts=50.0), gpu(1, process(1), model="other", power_watts=50.0)))
    assert idle.watts == {gpu_uuid(0): RECORDED_IDLE_WATTS["NVIDIA H100 80GB HBM3"]}


def test_the_least_with_no_process_is_learned() -> None:
    idle = IdlePower()
    for watts in (120.0, 90.0, 95.0):
        idle.see(snapshot(gpu(0, power_watts=watts)))
    idle.see(snapshot(gpu(0, process(1), power_watts=10.0)))
    assert idle.watts == {gpu_uuid(0): 90.0}


def test_work_without_a_process_and_an_unread_list_teach_nothing() -> None:
    idle = IdlePower()
    busy = gpu(0, model="other", power_watts=240.0, utilization_ratio=1.0)
    unread = gpu(1, model="other", power_watts=40.0, processes=None)
    silent = gpu(2, model="other")
    slices = gpu(3, model="other", power_watts=80.0, mig=(mig(1, 7, process(3)),))
    idle.see(snapshot(busy, unread, silent, slices))
    assert idle.watts == {}


def test_a_gpu_that_is_gone_is_forgotten() -> None:
    idle = IdlePower()
    idle.see(snapshot(gpu(0, model="other", power_watts=40.0)))
    idle.see(snapshot())
    assert idle.watts == {}
    idle.see(snapshot(gpu(0, process(1), model="other", power_watts=300.0)))
    assert idle.watts == {}
