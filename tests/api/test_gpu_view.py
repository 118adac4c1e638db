import pytest

from agent.api.charts import Frame
from agent.api.gpu_view import gpu_notice, gpu_rows, gpu_warnings, memory_ratio, who
from agent.api.history_view import QUERIES
from agent.core.board import Board
from agent.core.gpu_readings import GpuActivity, GpuErrors, GpuNvlink, GpuSnapshot, MigReading
from agent.core.workloads import Attribution, Holding, SlotUser, Workload
from tests.support.api import NOW_NS, NS, gpu, gpus, node

FRAME = Frame(0, 600_000, 5_000)
NO_CHARTS = {name: {} for name in QUERIES}


def test_a_row_per_gpu_in_order_of_index():
    snapshot = GpuSnapshot(read_at_ns=NOW_NS, driver="ok", gpus=(gpu(2), gpu(0), gpu(1)))
    assert [row.index for row in gpu_rows(snapshot, NO_CHARTS, FRAME)] == [0, 1, 2]
    assert gpu_rows(None, NO_CHARTS, FRAME) == []


def test_what_a_gpu_does_not_report_is_a_dash():
    lost = gpu_rows(gpus(8), NO_CHARTS, FRAME)[3]
    assert [cell.value for cell in lost.cells] == ["—"] * 4
    assert lost.state == "lost"
    assert memory_ratio(1, 0) is None


def test_a_gpu_that_reports_zero_shows_zero():
    row = gpu_rows(GpuSnapshot(read_at_ns=1, driver="ok", gpus=(gpu(0, utilization_ratio=0.0),)), NO_CHARTS, FRAME)[0]
    assert row.cells[0].value == "0\u202f%"


def test_hot_full_and_throttled_stand_out():
    rows = gpu_rows(gpus(8), NO_CHARTS, FRAME)
    assert rows[1].cells[2].tone == "bad"
    assert rows[2].cells[1].tone == "warn"
    assert rows[1].throttled == ["hw thermal slowdown"]
    calm = GpuSnapshot(read_at_ns=1, driver="ok", gpus=(gpu(0, throttle_reasons=("gpu_idle",)),))
    assert gpu_rows(calm, NO_CHARTS, FRAME)[0].throttled == []


@pytest.mark.parametrize(
    ("snapshot", "says"),
    [
        (None, "No reading"),
        (GpuSnapshot(read_at_ns=NOW_NS, driver="ok", gpus=(gpu(0),)), ""),
        (GpuSnapshot(read_at_ns=NOW_NS - 60 * NS, driver="ok", gpus=(gpu(0),)), "60\u202fs old"),
        (GpuSnapshot(read_at_ns=NOW_NS, driver="no_driver", message="Install the driver."), "Install the driver."),
        (GpuSnapshot(read_at_ns=NOW_NS, driver="no_library"), "no library"),
    ],
)
def test_the_notice_above_the_gpus(snapshot: GpuSnapshot | None, says: str):
    notice = gpu_notice(node(board=Board("a", snapshot)))
    assert says in notice
    assert bool(notice) == bool(says)


def test_who_holds_and_who_else_uses_a_slot():
    pod = Workload(namespace="prod", pod="chat-0", container="vllm")
    found = Attribution(
        read_at_ns=1,
        holdings=(Holding(slot="GPU-1", workload=pod, resource="nvidia.com/gpu", source="pod_resources"),),
        users=(
            SlotUser(slot="GPU-1", pid=7, name="python", workload=pod),
            SlotUser(slot="GPU-1", pid=8, name="train.py", workload=Workload(job="4711")),
            SlotUser(slot="GPU-1", pid=9, name="nvtop"),
            SlotUser(slot="GPU-2", pid=10),
        ),
    )
    assert who("GPU-1", found) == "prod/chat-0, job 4711, nvtop"
    assert who("GPU-2", found) == "pid 10"
    assert who("GPU-3", found) == who("GPU-1", None) == ""


def test_what_a_gpu_says_is_wrong_with_it():
    sick = gpu(
        0,
        errors=GpuErrors(
            ecc_errors={"uncorrected_volatile": 2},
            row_remap_failed=True,
            retired_pages_pending=True,
            recovery_action="reset_gpu",
        ),
        nvlink=GpuNvlink(links=18, links_active=17),
    )
    assert gpu_warnings(sick) == [
        "wants: reset gpu",
        "row remap failed",
        "memory repair at next reset",
        "uncorrected ECC errors",
        "NVLink 17 of 18",
    ]
    assert gpu_warnings(gpu(0, errors=GpuErrors(recovery_action="none", ecc_errors={"uncorrected_volatile": 0}))) == []


def test_mig_devices_have_a_line_each():
    mig = MigReading(
        uuid="MIG-1",
        index=0,
        gpu_instance=7,
        compute_instance=0,
        profile="1g.10gb",
        memory_used_bytes=2**30,
        memory_total_bytes=10 * 2**30,
        activity=GpuActivity(graphics_engine_ratio=0.5),
    )
    snapshot = GpuSnapshot(read_at_ns=1, driver="ok", gpus=(gpu(0, mig=(mig,)),))
    (row,) = gpu_rows(snapshot, NO_CHARTS, FRAME)
    assert [(line.profile, line.memory, line.activity) for line in row.slices] == [
        ("1g.10gb", "10\u202f% of 10.0\u202fGiB", "50\u202f% active")
    ]


def test_busy_with_nobody_there_is_said():
    doubtful = GpuSnapshot(read_at_ns=1, driver="ok", gpus=(gpu(0, utilization_doubtful=True),))
    assert gpu_rows(doubtful, NO_CHARTS, FRAME)[0].cells[0].note == "but no process"
