"""Our machine files against the recorded nvidia-smi output that their facts were taken from."""

import re

import pytest

from agent.demo.gpus import machine

CAPTURES = "captures/gpu/utkuozdemir-nvidia_gpu_exporter"
FILES = {
    "h100x8": "linux-x86_64__nvidia-h100-80gb-hbm3__590.48.01.txt",
    "rtx4080sx2": "linux-x86_64__nvidia-geforce-rtx-4080-super__595.71.05.txt",
}
MIB = 2**20


def query(text, state):
    """`nvidia-smi -q` under `state` as {"Section/Key": value}."""
    part = text.split(f"# {state} :: query (-q)")[1].split("# " + state + " :: query-gpu")[0]
    found, path = {}, []
    for line in part.splitlines():
        if not line.strip() or line.startswith(("#", "=")):
            continue
        depth = (len(line) - len(line.lstrip())) // 4
        key, colon, value = (piece.strip() for piece in line.partition(" : "))
        path = [*path[:depth], key]
        if colon or " : " in line:
            found.setdefault("/".join(path[1:]) if depth else key, value)
    return found


def number(text):
    found = re.match(r"-?[\d.]+", text)
    return float(found.group()) if found else None


@pytest.fixture(params=FILES)
def name(request):
    return request.param


@pytest.fixture
def text(shared, name):
    return (shared / CAPTURES / FILES[name]).read_text()


def test_identity_memory_and_limits(name, text):
    found, recorded = query(text, "idle"), machine.load(name)
    facts = recorded.gpus[0]
    assert found["Driver Version"] == recorded.driver_version
    major, minor = found["CUDA Version"].split(".")
    assert int(major) * 1000 + int(minor) * 10 == recorded.cuda_driver_version
    assert found["Product Name"] == facts.model
    assert found["VBIOS Version"] == facts.vbios_version
    assert found["PCI/Device Id"] == facts.pci_device_id
    assert number(found["FB Memory Usage/Total"]) * MIB == facts.memory_total_bytes
    assert number(found["FB Memory Usage/Reserved"]) * MIB == facts.memory_reserved_bytes
    assert number(found["FB Memory Usage/Used"]) * MIB == facts.memory_baseline_bytes
    power = "GPU Power Readings"
    assert number(found[f"{power}/Current Power Limit"]) == facts.power_limit_watts
    assert number(found[f"{power}/Default Power Limit"]) == facts.power_limit_default_watts
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
    assert ("nvmlDeviceGetFanSpeed" in facts.unsupported) == (found["Fan Speed"] == "N/A")
    assert ("nvmlDeviceGetSerial" in facts.unsupported) == (found["Serial Number"] == "N/A")
    assert ("nvmlDeviceGetMigMode" in facts.unsupported) == (found["MIG Mode/Current"] == "N/A")


# nvidia-smi -q and --query-gpu were run one after the other; power under load moves between them.
@pytest.mark.parametrize("state", ["idle", "load"])
def test_both_states(name, text, state):
    found, facts = query(text, state), machine.load(name).gpus[0]
    ours = facts.idle if state == "idle" else facts.load
    assert number(found["Utilization/Memory"]) == pytest.approx(ours.memory_utilization_percent, abs=1)
    assert number(found["Utilization/GPU"]) == pytest.approx(ours.utilization_percent, abs=1)
    assert number(found["GPU Power Readings/Average Power Draw"]) == pytest.approx(ours.power_watts, rel=0.01)
    assert number(found["Temperature/GPU Current Temp"]) == ours.temperature_celsius
    memory = number(found["Temperature/Memory Current Temp"])
    assert memory == (
        None if ours.memory_temperature_celsius is None else pytest.approx(ours.memory_temperature_celsius, abs=1)
    )
    assert number(found["Temperature/GPU T.Limit Temp"]) == ours.temperature_margin_celsius
    for domain, theirs in (("graphics", "Graphics"), ("sm", "SM"), ("memory", "Memory"), ("video", "Video")):
        assert number(found[f"Clocks/{theirs}"]) == ours.clocks_megahertz[domain]
    assert (found["Clocks Event Reasons/Idle"] == "Active") == bool(ours.throttle_mask & 1)


def test_what_the_reader_calls_exists_in_a_real_driver(shared):
    """Every function that our C library exports is exported by driver 590.48.01."""
    from tests.support.nvml.build import SOURCE

    text = (shared / CAPTURES / FILES["h100x8"]).read_text()
    symbols = set(re.findall(r"^nvml\w+$", text, re.MULTILINE))
    ours = set(re.findall(r"^(?:int|const char \*) ?(nvml\w+)\(", SOURCE.read_text(), re.MULTILINE))
    assert len(symbols) > 400
    assert ours - symbols == set()
