"""Utilisation with nobody on the GPU."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.collect.gpu.meters import NS
from agent.collect.gpu.parts.doubt import BASELINE_BYTES, LEARNT_MOST_BYTES, Doubt
from agent.core.gpu_readings import GpuProcess
from agent.demo.gpus.board import Wishes
from agent.demo.gpus.control import SimulatedProcess

MIB = 2**20
CAPTURE = "captures/gpu/utkuozdemir-nvidia_gpu_exporter/linux-x86_64__nvidia-l40s__595.80.txt"
SERVER = (GpuProcess(pid=9, kind="compute", memory_used_bytes=40_000 * MIB),)


def verdicts(*readings):
    """One each second, of (utilisation, MiB, processes)."""
    doubt = Doubt()
    return [doubt.judge(s * NS, ratio, int(mib * MIB), seen) for s, (ratio, mib, seen) in enumerate(readings)]


def test_busy_with_nobody_there():
    assert verdicts((1.0, 0, ()), (0.9, 0, ()), (0.0, 0, ())) == [True, True, False]


def test_a_server_at_work_is_believed():
    assert verdicts((0.0, 40_000, SERVER), (1.0, 40_000, SERVER)) == [False, False]
    assert verdicts((1.0, 40_000, ()), (1.0, 40_000, None)) == [False, False]  # a list that may not be seen


def test_the_verdict_holds_for_two_windows():
    assert verdicts((1.0, 0, ()), *((1.0, 40_000, SERVER),) * 4) == [True, True, True, False, False]


def test_a_list_of_before_does_not_save_it():
    assert verdicts((1.0, 40_000, SERVER), (1.0, 0, SERVER)) == [False, True]


def test_a_process_without_memory_figure_is_somebody():
    assert verdicts((1.0, 0, (GpuProcess(pid=9, kind="compute"),))) == [False]


def test_some_gpus_use_more_with_nobody_there():
    assert verdicts((0.0, 600, ()), (1.0, 600, ())) == [False, True]
    assert verdicts((1.0, 600, ())) == [False]
    assert verdicts((0.0, 20_000, ()), (1.0, 20_000, ())) == [False, False]


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 80_000)), max_size=30))
def test_memory_in_use_is_always_believed_after_two_windows(readings):
    doubt = Doubt()
    for second, (ratio, mib) in enumerate(readings):
        doubt.judge(second * NS, ratio, mib * MIB, ())
    later = (len(readings) + 3) * NS
    assert doubt.judge(later, 1.0, LEARNT_MOST_BYTES + 1, ()) is False
    assert doubt.judge(later, 0.0, 0, ()) is False
    assert doubt.judge(later, 1.0, BASELINE_BYTES, ()) is True


def test_in_a_reading(bench):
    bench.wish(utilization_percent=100)
    assert bench.read().utilization_doubtful
    bench.control(
        processes={"0": [SimulatedProcess(pid=9, memory_bytes=10**10)]}, board={"0": Wishes(utilization_percent=100)}
    )
    assert not bench.read(12).utilization_doubtful


def test_the_l40s_of_the_capture():
    path = Path(__file__).parents[4].parent / "shared" / CAPTURE
    if not path.exists():
        pytest.skip(f"no {CAPTURE} beside the repository")
    text = path.read_text()
    at_rest, at_work = text.split("# load :: nvidia-smi (default table)")
    at_rest = at_rest[at_rest.index("# idle :: nvidia-smi (default table)") :]
    table = r"(\d+)MiB / +\d+MiB \| +(\d+)%"
    first = [(int(percent) / 100, int(mib), ()) for mib, percent in re.findall(table, at_rest)]
    assert first == [(1.0, 0, ())]
    assert "No running processes found" in at_rest
    device_rows = re.findall(r"^ +0 +\d+ +\d+ +- +(\d+) ", at_rest, re.MULTILINE)
    after = [(int(percent) / 100, 0, ()) for percent in device_rows]
    assert len(after) == 5
    assert verdicts(*first, *after) == [True, False, False, False, False, False]
    used, percent = re.findall(table, at_work)[0]
    two_streams = (GpuProcess(pid=1, kind="compute", memory_used_bytes=int(used) * MIB),)
    assert verdicts((int(percent) / 100, int(used), two_streams)) == [False]
