"""Our machine files against the recorded nvidia-smi output that their facts were taken from."""

import inspect
import re

import pynvml
import pytest

from agent.collect.gpu.shapes import SHAPES, STATEFUL
from agent.demo.gpus import machine
from tests.support.nvidia_smi import CAPTURES, FILES, MIB, number, query, state_of


@pytest.fixture(params=FILES)
def name(request):
    return request.param


@pytest.fixture
def text(shared, name):
    return (shared / CAPTURES / FILES[name]).read_text()


def test_identity_memory_and_limits(name, text):
    found, recorded = query(text, "idle"), machine.load(name)
    facts = recorded.gpus[0]
    driver = (found.get("KMD Version") or found["Driver Version"]).split()[0]
    assert driver == recorded.driver_version
    major, minor = (found.get("CUDA UMD Version") or found["CUDA Version"]).split(".")
    assert int(major) * 1000 + int(minor) * 10 == recorded.cuda_driver_version
    assert found["Product Name"] == facts.model
    assert found["Product Brand"] == facts.brand
    assert found["VBIOS Version"] == facts.vbios_version
    assert found["PCI/Device Id"] == facts.pci_device_id
    assert number(found["FB Memory Usage/Total"]) * MIB == facts.memory_total_bytes
    assert number(found["FB Memory Usage/Reserved"]) * MIB == facts.memory_reserved_bytes
    assert number(found["FB Memory Usage/Used"]) * MIB == facts.memory_baseline_bytes
    assert (found["Persistence Mode"] == "Enabled") == facts.persistence_mode
    power = "GPU Power Readings"
    ceiling = f"{power}/GPU Ceiling Power Limit" if f"{power}/Current Power Limit" not in found else power
    assert number(found[f"{ceiling}/Current Power Limit"]) == facts.power_limit_watts
    assert number(found[f"{ceiling}/Default Power Limit"]) == facts.power_limit_default_watts
    assert number(found[f"{power}/Min Power Limit"]) == facts.power_limit_min_watts
    assert number(found[f"{power}/Max Power Limit"]) == facts.power_limit_max_watts
    for ours, theirs in (("graphics", "Graphics"), ("sm", "SM"), ("memory", "Memory"), ("video", "Video")):
        assert number(found[f"Max Clocks/{theirs}"]) == facts.clocks_max_megahertz[ours]


def test_thresholds(name, text):
    found, facts = query(text, "idle"), machine.load(name).gpus[0]
    assert number(found.get("Temperature/GPU Slowdown Temp", "")) == facts.slowdown_celsius
    assert number(found.get("Temperature/GPU Shutdown Temp", "")) == facts.shutdown_celsius
    assert number(found.get("Temperature/GPU Slowdown T.Limit Temp", "")) == facts.slowdown_margin_celsius
    assert number(found.get("Temperature/GPU Shutdown T.Limit Temp", "")) == facts.shutdown_margin_celsius
    states_threshold = "nvmlDeviceGetTemperatureThreshold" not in facts.unsupported
    assert states_threshold == ("Temperature/GPU Slowdown Temp" in found)
    assert (82 in facts.unsupported_fields) == (found["Temperature/Memory Current Temp"] == "N/A")
    assert ("nvmlDeviceGetSerial" in facts.unsupported) == (found["Serial Number"] == "N/A")
    assert ("nvmlDeviceGetMigMode" in facts.unsupported or facts.mig is None) == (found["MIG Mode/Current"] == "N/A")


# nvidia-smi -q and --query-gpu were run one after the other; power under load moves between them.
@pytest.mark.parametrize("state", ["idle", "load"])
def test_both_states(name, text, state):
    found, facts = query(text, state), machine.load(name).gpus[0]
    ours = {"idle": facts.idle, "load": facts.load, "trailing": facts.trailing}[state_of(name, state)]
    power = "GPU Power Readings"
    assert number(found["Utilization/Memory"]) == pytest.approx(ours.memory_utilization_percent, abs=1)
    assert number(found["Utilization/GPU"]) == pytest.approx(ours.utilization_percent, abs=1)
    drawn = number(found[f"{power}/Average Power Draw"]) or number(found[f"{power}/Instantaneous Power Draw"])
    assert drawn == pytest.approx(ours.power_watts, rel=0.01)
    assert number(found["Temperature/GPU Current Temp"]) == ours.temperature_celsius
    memory = number(found["Temperature/Memory Current Temp"])
    assert memory == (
        None if ours.memory_temperature_celsius is None else pytest.approx(ours.memory_temperature_celsius, abs=1)
    )
    assert number(found.get("Temperature/GPU T.Limit Temp", "")) == ours.temperature_margin_celsius
    for domain, theirs in (("graphics", "Graphics"), ("sm", "SM"), ("memory", "Memory"), ("video", "Video")):
        assert number(found[f"Clocks/{theirs}"]) == ours.clocks_megahertz[domain]
    assert (found["Clocks Event Reasons/Idle"] == "Active") == bool(ours.throttle_mask & 1)


def test_the_l40s_came_to_rest_as_its_file_says(shared):
    text = (shared / CAPTURES / FILES["l40s"]).read_text()
    monitored = text.split("# idle :: dmon")[1].split("\n\n")[0].splitlines()
    watts, celsius, memory_megahertz, megahertz = (int(monitored[-1].split()[place]) for place in (1, 2, 10, 11))
    idle = machine.load("l40s").gpus[0].idle
    assert (idle.power_watts, idle.temperature_celsius) == (watts, celsius)
    assert (idle.clocks_megahertz["memory"], idle.clocks_megahertz["sm"]) == (memory_megahertz, megahertz)


def exported(text):
    return set(re.findall(r"^nvml\w+$", text, re.MULTILINE))


def test_what_the_c_library_exports_exists_in_a_real_driver(shared):
    """Driver 590.48.01, whose symbols were recorded."""
    symbols = exported((shared / CAPTURES / FILES["h100x8"]).read_text())
    assert len(symbols) > 400
    assert {*SHAPES, *STATEFUL} - symbols == set()


@pytest.mark.parametrize("recorded", ["h100x8", "rtx2080s"])
def test_what_pynvml_binds_and_the_driver_lacks_is_missing(shared, recorded):
    bound = set(re.findall(r'_nvmlGetFunctionPointer\("(nvml\w+)"\)', inspect.getsource(pynvml)))
    symbols = exported((shared / CAPTURES / FILES[recorded]).read_text())
    assert set(machine.load(recorded).missing) == bound - symbols
