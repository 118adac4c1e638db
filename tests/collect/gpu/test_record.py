"""A recording of a simulated machine is that machine again."""

import json
import os
import subprocess
import sys

import msgspec
import pynvml
import pytest

from agent.collect.gpu.driver import Driver
from agent.collect.gpu.frames import Tick
from agent.collect.gpu.probe import ALL_FUNCTIONS
from agent.collect.gpu.record import record_machine, under_load
from agent.demo.gpus import machine, nvml
from agent.demo.gpus.control import Control
from agent.demo.gpus.model import NS, NodeSim
from tests.support.components import need
from tests.support.nvml.library import CLibrary


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
        assert facts.pci_buses == (f"{gpu.index + 1:02X}",)  # numbered anew
        for name in machine.Recorded.__struct_fields__:
            if (known := getattr(gpu.facts.idle, name)) is not None:
                assert getattr(facts.idle, name) == known, name
        assert facts.persistence_mode == gpu.facts.persistence_mode
        assert facts.board.nvlinks == gpu.facts.board.nvlinks
        assert facts.board.ecc == gpu.facts.board.ecc
        for name in (
            "model",
            "brand",
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


def test_every_call_is_told_of_and_kept(node):
    told = []
    found = as_machine(record_machine(tell=lambda gpu, of, function: told.append((gpu, of, function))))
    gpus = len(node.gpus)
    assert {gpu for gpu, _, _ in told} == set(range(gpus))
    assert {of for _, of, _ in told} == {gpus}
    calls = found.gpus[0].calls
    assert len(calls) > 110
    assert set(calls) <= set(ALL_FUNCTIONS)
    assert calls["nvmlDeviceGetName"].kind == "text"
    assert calls["nvmlDeviceGetUtilizationRates"].kind == "struct"
    assert calls["nvmlDeviceGetEnforcedPowerLimit"].kind == "number"
    assert calls["nvmlDeviceGetComputeRunningProcesses_v3"].kind == "empty list"
    assert calls["nvmlDeviceGetEnforcedPowerLimit"].seconds > 0


def readings(node, seconds=25):
    """All that the reader says of a node, but who it is and when."""
    nvml.install(node)
    try:
        driver = Driver(10 * NS, NS)
        for second in range(1, seconds):
            node.advance(second * NS)
            found = list(driver.tick(Tick(unix_ns=second * NS, boot_ns=second * NS), lambda _: None))
        driver.close()
    finally:
        nvml.uninstall()
    return [msgspec.to_builtins(reading) for reading in found]


def masked(found):
    for reading in found:
        for name in ("uuid", "pci_bus_id", "not_offered"):
            reading.pop(name, None)
        for device in reading.get("mig") or ():
            device.pop("uuid")
        (reading.get("details") or {}).pop("serial", None)
    return found


@pytest.mark.component("cc")
@pytest.mark.parametrize("name", ["h100mig", "l40s", "rtx4080sx2"])
def test_a_recording_of_the_c_library_gives_the_same_readings(name, tmp_path):
    """`engineroom record gpu` in a process of its own, as on a real machine; what it wrote is simulated again."""
    library = CLibrary(machine.load(name), tmp_path, tmp_path / "table", need("cc"))
    library.wants(call_seconds={"nvmlDeviceGetName": 0.002})
    file = tmp_path / "again.json"
    command = [sys.executable, "-m", "agent", "record", "gpu", str(file)]
    done = subprocess.run(
        command, env={**os.environ, **library.environment}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "calls" in done.stderr
    found = machine.load(str(file))
    assert found.name == "again"
    assert found.gpus[0].calls["nvmlDeviceGetName"].seconds == pytest.approx(0.002, rel=0.5)
    original = machine.load(name)
    assert masked(readings(NodeSim(found))) == masked(readings(NodeSim(original)))
    assert "51300000" not in json.dumps(json.loads(file.read_text()))


def test_no_driver_is_said(tmp_path):
    command = [sys.executable, "-m", "agent", "record", "gpu", str(tmp_path / "none.json")]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode == 0:
        pytest.skip("this machine has the real library")
    assert "no usable NVIDIA driver" in done.stderr
    assert not (tmp_path / "none.json").exists()
