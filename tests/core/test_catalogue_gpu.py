from agent.core.catalogue import CATALOGUE
from agent.core.catalogue_gpu import GPU, GPUS


def test_all_of_them_are_catalogued_and_name_the_gpu_or_the_node() -> None:
    assert set(GPUS) <= set(CATALOGUE)
    for metric in GPUS:
        assert metric.labels[: len(GPU)] == GPU or metric.labels[0] == "node"
        assert metric.name.startswith(("engineroom_gpu", "engineroom_nvml_"))
