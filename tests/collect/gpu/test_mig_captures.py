"""What nvidia-smi printed on a real H100 and H200 in MIG mode, and what a reading of the simulated one says."""

import pytest

from tests.support import smi_mig
from tests.support.mig_bench import MIB, held, mig_bench, part

CAPTURES = [
    ("h100mig", "linux-x86_64__nvidia-h100-mig__590.48.01.txt"),
    ("h200mig", "linux-x86_64__nvidia-h200-mig__590.48.01.txt"),
]


@pytest.mark.parametrize(("name", "capture"), CAPTURES)
def test_the_recorded_layout_is_what_was_listed(name, capture):
    printed = smi_mig.names(smi_mig.section(capture, "capabilities :: list (-L)"))
    with mig_bench(name) as bench:
        assert [(one.index, one.profile) for one in bench.read().mig] == printed
    assert len(printed) >= 4


def in_the_same_state(bench, table):
    """Memory of the GPU instances and their processes as in the capture."""
    processes = smi_mig.listed(table)
    recorded = bench.node.gpus[0].mig.recorded()
    used = {row.gpu_instance: row.used_mebibytes for row in smi_mig.rows(table)}
    bench.control(
        mig={
            "0": [
                part(
                    one.profile,
                    one.gpu_instance,
                    one.compute_instance,
                    memory_used_bytes=used[one.gpu_instance] * MIB,
                    processes=[
                        held(process.pid, process.mebibytes)
                        for process in processes
                        if process[:2] == (one.gpu_instance, one.compute_instance)
                    ],
                )
                for one in recorded
            ]
        }
    )


@pytest.mark.parametrize("state", ["idle", "load"])
@pytest.mark.parametrize(("name", "capture"), CAPTURES)
def test_tables(name, capture, state):
    table = smi_mig.section(capture, f"{state} :: nvidia-smi (default table)")
    with mig_bench(name) as bench:
        in_the_same_state(bench, table)
        gpu = bench.read()
    assert [
        smi_mig.Row(
            one.gpu_instance,
            one.compute_instance,
            one.index,
            one.memory_used_bytes // MIB,
            one.memory_total_bytes // MIB,
            one.multiprocessors,
        )
        for one in gpu.mig
    ] == smi_mig.rows(table)
    assert [
        smi_mig.Listed(one.gpu_instance, one.compute_instance, process.pid, process.memory_used_bytes // MIB)
        for one in gpu.mig
        for process in one.processes
    ] == smi_mig.listed(table)
    assert bool(smi_mig.listed(table)) == (state == "load")
    assert gpu.utilization_ratio is None  # "N/A"
    # The sum of the instances, to a few MiB: nvidia-smi's own figures differ by so much.
    assert gpu.memory_used_bytes / MIB == pytest.approx(smi_mig.parent_used_mebibytes(table), abs=4)


@pytest.mark.parametrize("state", ["idle", "load"])
@pytest.mark.parametrize(("name", "capture"), CAPTURES)
def test_details(name, capture, state):
    printed = smi_mig.details(smi_mig.section(capture, f"{state} :: query (-q)"))
    with mig_bench(name) as bench:
        in_the_same_state(bench, smi_mig.section(capture, f"{state} :: nvidia-smi (default table)"))
        gpu = bench.read()
    assert len(gpu.mig) == len(printed)
    for one, said in zip(gpu.mig, printed, strict=True):
        assert one.index == said["Index"]
        assert one.gpu_instance == said["GPU Instance ID"]
        assert one.compute_instance == said["Compute Instance ID"]
        assert one.multiprocessors == said["Multiprocessor count"]
        assert one.memory_reserved_bytes == said["Reserved"] * MIB


@pytest.mark.parametrize(("name", "capture"), CAPTURES)
def test_at_rest_without_being_told(name, capture):
    """What the simulation takes for granted when nothing runs."""
    rows = smi_mig.rows(smi_mig.section(capture, "idle :: nvidia-smi (default table)"))
    with mig_bench(name) as bench:
        devices = bench.read().mig
    for one, row in zip(devices, rows, strict=True):
        # An instance in two parts uses a little less than a whole one (22 and 26 MiB).
        assert one.memory_used_bytes / MIB == pytest.approx(row.used_mebibytes, abs=4)


def test_a_name_of_our_own_making_is_the_same():
    for name, capture in CAPTURES:
        printed = smi_mig.names(smi_mig.section(capture, "capabilities :: list (-L)"))
        with mig_bench(name) as bench:
            bench.control(returns={"nvmlDeviceGetName": {"0": 3}})
            assert [(one.index, one.profile) for one in bench.read().mig] == printed
