from agent.core.catalogue_slots import SLOTS
from agent.core.cost.present import present
from agent.core.cost.tariff import Tariff
from agent.runners.self_samples import slot_samples
from tests.support.slots import GIB, gpu, held, known, pod, snapshot


def test_what_is_said_of_a_slot_is_in_the_catalogue() -> None:
    tariff = Tariff(None)
    tariff.see_gpus(1, snapshot(1, gpu(1, simulated=True, memory_free_bytes=GIB)))
    tariff.see_workloads(1, known(1, held("GPU-0", pod("a"))))
    found = {
        sample.key.name: {name for name, _ in sample.key.labels} for sample in slot_samples("n", present(tariff, 1))
    }
    assert found == {metric.name: set(metric.labels) for metric in SLOTS}


def test_units_are_in_the_names() -> None:
    assert all(metric.name.endswith(metric.unit) for metric in SLOTS)
