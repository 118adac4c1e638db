"""A recording of a simulated machine is that machine again."""

import msgspec
import pynvml
import pytest

from agent.collect.gpu.record import record_machine, under_load
from agent.demo.gpus import machine, nvml
from agent.demo.gpus.control import Control
from agent.demo.gpus.model import NS, NodeSim


@pytest.fixture(params=["h100x8", "rtx4080sx2"])
def node(request):
    node = NodeSim(machine.load(request.param))
    nvml.install(node)
    yield node
    nvml.uninstall()


def as_machine(recording):
    return msgspec.json.decode(msgspec.json.encode(recording), type=machine.Machine)


def test_a_recording_is_a_machine_file_with_the_same_facts(node):
    found = as_machine(record_machine("again"))
    assert found.driver_version == node.machine.driver_version
    assert len(found.gpus) == len(node.gpus)
    for facts, gpu in zip(found.gpus, node.gpus, strict=True):
        assert facts.pci_buses == (gpu.pci_bus_id[9:11],)
        assert facts.idle == gpu.facts.idle
        for name in (
            "model",
            "architecture",
            "compute_capability",
            "vbios_version",
            "pci_device_id",
            "memory_total_bytes",
            "memory_reserved_bytes",
            "memory_baseline_bytes",
            "power_limit_watts",
            "power_limit_default_watts",
            "power_limit_min_watts",
            "power_limit_max_watts",
            "clocks_max_megahertz",
            "slowdown_celsius",
            "shutdown_celsius",
            "slowdown_margin_celsius",
            "shutdown_margin_celsius",
        ):
            assert getattr(facts, name) == getattr(gpu.facts, name), name
    simulated = NodeSim(found)
    assert len({gpu.uuid for gpu in simulated.gpus}) == len(node.gpus)
    assert simulated.gpus[0].assumed.full_power_watts > 0


def test_the_state_under_load_is_added(node):
    rest = record_machine()
    node.apply(Control(load={str(gpu.index): 1.0 for gpu in node.gpus}))
    node.advance(600 * NS)
    found = as_machine(under_load(rest, record_machine()))
    assert found.gpus[0].load.utilization_percent == 100
    assert found.gpus[0].idle.utilization_percent == 0
    with pytest.raises(ValueError, match="same machine"):
        under_load(rest, {**rest, "gpus": []})


def test_no_identifiers_are_kept(node):
    text = str(record_machine())
    assert "GPU-" not in text
    assert "51300000" not in text


def test_nvml_is_given_back(node):
    record_machine()
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        pynvml.nvmlDeviceGetCount()
