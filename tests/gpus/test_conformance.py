"""Recorded nvidia-smi output against what the agent says of a simulated machine of that profile, in the same state."""

import ctypes
import re

import pytest

from agent.collect.gpu.driver import Driver
from agent.collect.gpu.frames import Tick
from agent.collect.gpu.meters import NS
from agent.core.gpu_readings import GpuSnapshot
from agent.core.metrics.published_gpu import gpu_samples
from agent.demo.gpus import machine, nvml
from agent.demo.gpus.control import Control, SimulatedProcess
from agent.demo.gpus.model import NodeSim
from exporters.dcgm import DcgmOptions, DcgmPage
from tests.support.nvidia_smi import CAPTURES, FILES, MIB, number, processes, query, state_of

_POWER = "GPU Power Readings"
# Own metric, or metric{label} -> key of nvidia-smi -q, what one unit there is in ours, and how far apart they may be.
FIGURES = {
    "utilization_ratio": ("Utilization/GPU", 0.01, 0),
    "memory_utilization_ratio": ("Utilization/Memory", 0.01, 0.01),
    "video_utilization_ratio{encoder}": ("Utilization/Encoder", 0.01, 0),
    "video_utilization_ratio{decoder}": ("Utilization/Decoder", 0.01, 0),
    "memory_used_bytes": ("FB Memory Usage/Used", MIB, 0),
    "memory_free_bytes": ("FB Memory Usage/Free", MIB, 3 * MIB),  # nvidia-smi rounds each of the others
    "memory_reserved_bytes": ("FB Memory Usage/Reserved", MIB, 0),
    "memory_total_bytes": ("FB Memory Usage/Total", MIB, 0),
    "temperature_celsius": ("Temperature/GPU Current Temp", 1, 0),
    "memory_temperature_celsius": ("Temperature/Memory Current Temp", 1, 1),
    "clock_hertz{graphics}": ("Clocks/Graphics", 1e6, 0),
    "clock_hertz{sm}": ("Clocks/SM", 1e6, 0),
    "clock_hertz{memory}": ("Clocks/Memory", 1e6, 0),
    "clock_hertz{video}": ("Clocks/Video", 1e6, 0),
    "clock_max_hertz{sm}": ("Max Clocks/SM", 1e6, 0),
    "power_setting_watts{default}": (f"{_POWER}/Default Power Limit", 1, 0),
    "power_setting_watts{min}": (f"{_POWER}/Min Power Limit", 1, 0),
    "power_setting_watts{max}": (f"{_POWER}/Max Power Limit", 1, 0),
    "power_limit_watts": (f"{_POWER}/Current Power Limit", 1, 0),
    "fan_speed_ratio": ("Fan Speed", 0.01, 0),
    "bar1_total_bytes": ("BAR1 Memory Usage/Total", MIB, 0),
}


@pytest.fixture(params=[(name, part) for name in FILES for part in ("idle", "load")], ids="-".join)
def case(request, shared):
    name, part = request.param
    return name, part, (shared / CAPTURES / FILES[name]).read_text()


def published(name, part, held):
    """What /metrics says of GPU 0 after some ticks: {"metric" or "metric{last label}": value}, and the reading."""
    node = NodeSim(machine.load(name))
    state = state_of(name, part)
    listed = [SimulatedProcess(pid=pid, memory_bytes=size) for pid, size in held]
    node.apply(Control(recorded={"0": state}, processes={"0": listed}))
    nvml.install(node)
    try:
        driver = Driver(10 * NS, NS)
        for second in range(1000, 1130):
            node.advance(second * NS)
            readings = tuple(driver.tick(Tick(unix_ns=second * NS, boot_ns=second * NS), lambda _: None))
        driver.close()
    finally:
        nvml.uninstall()
    reading = readings[0]
    found = {}
    for sample in gpu_samples("node", GpuSnapshot(read_at_ns=0, driver="ok", gpus=(reading,))):
        short = sample.key.name.removeprefix("engineroom_gpu_")
        label = dict(sample.key.labels).keys() - {"node", "gpu", "uuid", "gpu_model", "simulated"}
        found[short + (f"{{{dict(sample.key.labels)[label.pop()]}}}" if len(label) == 1 else "")] = sample.value
    return found, reading


def test_the_same_figures(case):
    name, part, text = case
    theirs = query(text, part)
    ours, _ = published(name, part, processes(text, part))
    compared = 0
    for metric, (key, unit, apart) in FIGURES.items():
        value = number(theirs.get(key, theirs.get(key.replace(_POWER, f"{_POWER}/GPU Ceiling Power Limit"), "N/A")))
        if value is None:
            assert metric not in ours, metric
        else:
            assert ours.get(metric) == pytest.approx(value * unit, abs=apart or 1e-9), metric
            compared += 1
    assert compared > 14


def test_power_processes_and_state(case):
    name, part, text = case
    theirs, held = query(text, part), processes(text, part)
    ours, reading = published(name, part, held)
    drawn = number(theirs[f"{_POWER}/Average Power Draw"]) or number(theirs[f"{_POWER}/Instantaneous Power Draw"])
    assert ours["power_watts"] == pytest.approx(drawn, rel=0.01)
    assert [(process.pid, process.memory_used_bytes) for process in reading.processes] == sorted(held)
    assert ours["persistence_mode"] == (theirs["Persistence Mode"] == "Enabled")
    idle = theirs["Clocks Event Reasons/Idle"] == "Active"
    assert ("gpu_idle" in reading.throttle_reasons) == idle
    ours_alone = machine.load(name).gpus[0].count == 1
    assert not ours_alone or reading.pci_bus_id == theirs["PCI/Bus Id"]


def test_a_trailing_window_is_marked(shared):
    """A real L40S said 100 %, with no process and no memory in use."""
    text = (shared / CAPTURES / FILES["l40s"]).read_text()
    assert number(query(text, "idle")["Utilization/GPU"]) == 100
    ours, reading = published("l40s", "idle", processes(text, "idle"))
    assert reading.utilization_doubtful
    assert ours["utilization_doubtful"] == 1
    ours, _ = published("l40s", "load", processes(text, "load"))
    assert ours["utilization_doubtful"] == 0


def test_struct_sizes_are_those_of_the_public_header():
    import pynvml

    sizes = {"c_nvmlMemory_v2_t": 40, "c_nvmlProcessInfo_v3_t": 24, "c_nvmlFieldValue_t": 40, "c_nvmlEventData_t": 32}
    assert {name: ctypes.sizeof(getattr(pynvml, name)) for name in sizes} == sizes


# Machine -> recorded page of dcgm-exporter, the state that it shows.
PAGES = {
    "l4": ("dcgm-exporter__l4__580.105.08__idle.prom", "idle"),
    "t4": ("dcgm-exporter__t4__590.48.01.prom", "load"),
    "a100vgpu": ("dcgm-exporter__grid-a100-40c-vgpu__580.126.09.prom", "idle"),
}
DCGM = {
    "utilization_ratio": ("GPU_UTIL", 0.01),
    "memory_utilization_ratio": ("MEM_COPY_UTIL", 0.01),
    "power_watts": ("POWER_USAGE", 1),
    "temperature_celsius": ("GPU_TEMP", 1),
    "clock_hertz{sm}": ("SM_CLOCK", 1e6),
    "clock_hertz{memory}": ("MEM_CLOCK", 1e6),
    "memory_used_bytes": ("FB_USED", MIB),
    "memory_free_bytes": ("FB_FREE", MIB),
    "memory_reserved_bytes": ("FB_RESERVED", MIB),
}


@pytest.mark.parametrize("name", PAGES)
def test_the_same_figures_as_dcgm_exporter(name, shared):
    file, part = PAGES[name]
    page = (shared / "captures/gpu/cncf-k8s-ai-conformance" / file).read_text()
    series = [line for line in page.splitlines() if line.startswith("DCGM_FI_DEV_")]
    gpu = re.search(r'UUID="([^"]+)"', series[0])[1]
    theirs = {
        line.partition("{")[0].removeprefix("DCGM_FI_DEV_"): float(line.split()[-1]) for line in series if gpu in line
    }
    ours, reading = published(name, part, [])
    for metric, (field, unit) in DCGM.items():
        if field in theirs:
            assert ours[metric] == pytest.approx(theirs[field] * unit), metric
        else:
            assert metric not in ours, metric
    about = dict(re.findall(r'(\w+)="([^"]*)"', series[0]))
    assert reading.model == about["modelName"]
    assert reading.driver_version == about["DCGM_FI_DRIVER_VERSION"]
    assert reading.pci_bus_id == about["pci_bus_id"]


# DCGM's name -> key of nvidia-smi -q, what one of its units is in DCGM's, how far apart they may be.
UNDER_DCGMS_NAMES = {
    "GPU_UTIL": ("Utilization/GPU", 1, 0),
    "MEM_COPY_UTIL": ("Utilization/Memory", 1, 1),
    "ENC_UTIL": ("Utilization/Encoder", 1, 0),
    "DEC_UTIL": ("Utilization/Decoder", 1, 0),
    "FB_USED": ("FB Memory Usage/Used", 1, 0),
    "FB_FREE": ("FB Memory Usage/Free", 1, 3),
    "FB_RESERVED": ("FB Memory Usage/Reserved", 1, 0),
    "FB_TOTAL": ("FB Memory Usage/Total", 1, 0),
    "GPU_TEMP": ("Temperature/GPU Current Temp", 1, 0),
    "MEMORY_TEMP": ("Temperature/Memory Current Temp", 1, 1),
    "SM_CLOCK": ("Clocks/SM", 1, 0),
    "MEM_CLOCK": ("Clocks/Memory", 1, 0),
}


def test_the_same_figures_under_dcgms_names(case):
    name, part, text = case
    theirs = query(text, part)
    _, reading = published(name, part, processes(text, part))
    page = DcgmPage(DcgmOptions(node="node"))
    page.observe(GpuSnapshot(read_at_ns=reading.read_at_ns, driver="ok", gpus=(reading,)))
    lines = page.render(None, reading.read_at_ns).decode().splitlines()
    ours = {
        line.partition("{")[0].removeprefix("DCGM_FI_DEV_"): float(line.split()[-1])
        for line in lines
        if line.startswith("DCGM_FI_DEV_")
    }
    compared = 0
    for field, (key, unit, apart) in UNDER_DCGMS_NAMES.items():
        value = number(theirs.get(key, "N/A"))
        if value is None:
            assert field not in ours, field
        else:
            assert ours[field] == pytest.approx(value * unit, abs=apart or 1e-9), field
            compared += 1
    assert compared >= 10
    drawn = number(theirs[f"{_POWER}/Average Power Draw"]) or number(theirs[f"{_POWER}/Instantaneous Power Draw"])
    assert ours["POWER_USAGE"] == pytest.approx(drawn, rel=0.01)
