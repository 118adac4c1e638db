"""Our page against what real dcgm-exporters have said: a GPU in the same state gives the same bytes.

The captures are other people's and stay outside this repository. HELP lines are our own words.
"""

from pathlib import Path

import pytest

from agent.core.gpu_readings import GpuActivity, GpuErrors, GpuPcie, GpuReading
from exporters.dcgm import DcgmOptions, DcgmPage
from exporters.dcgm_fields import NOT_GIVEN
from tests.support.dcgm import MIB, NOW_NS, NS, read, sample_lines, snapshot

FOLDER = "captures/gpu/cncf-k8s-ai-conformance"
CAPTURES = {  # how many names each has that we give too
    "dcgm-exporter__l4__580.105.08__idle.prom": 22,
    "dcgm-exporter__l40s__595.58.03.prom": 22,
    "dcgm-exporter__t4__590.48.01.prom": 19,
    "dcgm-exporter__grid-a100-40c-vgpu__580.126.09.prom": 10,
}
SECONDS = 10


@pytest.fixture(params=CAPTURES)
def capture(request, shared: Path) -> tuple[str, str]:
    return request.param, (shared / FOLDER / request.param).read_text()


def values_of(page: str) -> dict[str, float]:
    return {name.removeprefix("DCGM_FI_"): float(rows[0][1]) for name, rows in read(page.encode()).items()}


def as_read(page: str, seconds: int) -> GpuReading:
    """What NVML must have said for this page, `seconds` after its byte counters were at 0."""
    ((labels, _),) = next(iter(read(page.encode()).values()))
    values = values_of(page)

    def said(name: str, scale: float = 1.0) -> float | None:
        return values[name] * scale if name in values else None

    def size(name: str) -> int | None:
        return int(values[name]) * MIB + MIB // 2 if name in values else None  # NVML counts bytes

    def count(name: str, times: int = 1) -> int | None:
        return int(values[name]) * times if name in values else None

    rows = {kind: int(values[f"DEV_{kind}_REMAPPED_ROWS"]) for kind in ("CORRECTABLE", "UNCORRECTABLE")} if (
        "DEV_CORRECTABLE_REMAPPED_ROWS" in values
    ) else None  # fmt: skip
    failed = said("DEV_ROW_REMAP_FAILURE")
    return GpuReading(
        uuid=labels["UUID"],
        index=int(labels["gpu"]),
        model=labels["modelName"],
        pci_bus_id=labels["pci_bus_id"],
        driver_version=labels["DCGM_FI_DRIVER_VERSION"],
        state="ok",
        read_at_ns=NOW_NS,
        clocks_hertz={"sm": values["DEV_SM_CLOCK"] * 1e6, "memory": values["DEV_MEM_CLOCK"] * 1e6},
        memory_temperature_celsius=said("DEV_MEMORY_TEMP"),
        temperature_celsius=said("DEV_GPU_TEMP"),
        power_watts=said("DEV_POWER_USAGE"),
        energy_joules=said("DEV_TOTAL_ENERGY_CONSUMPTION", 1e-3),
        utilization_ratio=said("DEV_GPU_UTIL", 0.01),
        memory_utilization_ratio=said("DEV_MEM_COPY_UTIL", 0.01),
        encoder_utilization_ratio=said("DEV_ENC_UTIL", 0.01),
        decoder_utilization_ratio=said("DEV_DEC_UTIL", 0.01),
        memory_free_bytes=size("DEV_FB_FREE"),
        memory_used_bytes=size("DEV_FB_USED"),
        memory_reserved_bytes=size("DEV_FB_RESERVED"),
        pcie=GpuPcie(
            replays=count("DEV_PCIE_REPLAY_COUNTER"),
            transmitted_bytes=count("PROF_PCIE_TX_BYTES", seconds),
            received_bytes=count("PROF_PCIE_RX_BYTES", seconds),
        ),
        errors=GpuErrors(
            remapped_rows=rows and {"corrected": rows["CORRECTABLE"], "uncorrected": rows["UNCORRECTABLE"]},
            row_remap_failed=None if failed is None else bool(failed),
        ),
        activity=GpuActivity(
            graphics_engine_ratio=said("PROF_GR_ENGINE_ACTIVE"),
            tensor_ratio=said("PROF_PIPE_TENSOR_ACTIVE"),
            dram_ratio=said("PROF_DRAM_ACTIVE"),
        ),
    )


def ours_for(theirs: str) -> str:
    ((labels, _),) = next(iter(read(theirs.encode()).values()))
    page = DcgmPage(DcgmOptions(node=labels["Hostname"], metrics="default"))
    for seconds in (0, SECONDS):
        page.observe(snapshot(as_read(theirs, seconds), at_ns=NOW_NS + seconds * NS))
    return page.render(None, NOW_NS).decode()


def test_the_same_lines_in_the_same_order(capture):
    name, theirs = capture
    both = read(theirs.encode()).keys() - NOT_GIVEN.keys()
    ours = [line for line in sample_lines(ours_for(theirs)) if line.partition("{")[0] in both]
    assert ours == [line for line in sample_lines(theirs) if line.partition("{")[0] in both]
    assert len(ours) == CAPTURES[name]


def test_nothing_of_theirs_is_missing_but_what_we_say_is(capture):
    _, theirs = capture
    assert read(theirs.encode()).keys() - read(ours_for(theirs).encode()).keys() <= NOT_GIVEN.keys()


def test_what_they_leave_out_we_leave_out(capture):
    # A page that was read from the values of theirs has nothing else, but for what follows from memory sizes.
    _, theirs = capture
    assert read(ours_for(theirs).encode()).keys() - read(theirs.encode()).keys() == set()


def test_types_are_the_same(capture):
    _, theirs = capture

    def types(page: str) -> set[str]:
        return {line for line in page.splitlines() if line.startswith("# TYPE ")}

    if not types(theirs):
        assert "t4" in capture[0]  # published without its comments
        return
    left_out = {line for line in types(theirs) if line.split()[2] in NOT_GIVEN}
    assert types(theirs) - left_out == types(ours_for(theirs))
