"""What an operator reads about an error: once, with everything needed to act."""

from structlog.testing import capture_logs

from agent.core.workloads import Feature, Workload
from agent.runners.xids import XidDesk, place_of
from tests.support.xids import gpu, held, kernel, nvml, pod, seen, snapshot


def test_one_line_per_burst_says_what_where_who_and_what_to_do():
    desk = XidDesk(1.0, lambda: seen([held("GPU-0", pod("llama-0", "vllm"))]))
    desk.on_gpus(snapshot(gpu()))
    with capture_logs() as lines:
        desk.on_kernel([kernel(79, 100, pid=7, process="python", text="GPU has fallen off the bus.")])
        desk.on_gpus(snapshot(gpu(), xids=[nvml(79, 101)]))
        desk.on_kernel([kernel(79, 102)])
    (line,) = lines
    assert (line["event"], line["log_level"], line["xid"]) == ("gpu_xid", "error", 79)
    assert (line["gpu"], line["uuid"], line["pci_bus_id"]) == (0, "GPU-0", "0000:1b:00")
    assert (line["pid"], line["process"], line["source"]) == (7, "python", "kernel")
    assert line["what"] == "the GPU has fallen off the bus"
    assert line["hit"] == ["ml/llama-0/vllm"]
    assert "power-cycle" in line["do"]


def test_an_error_of_a_program_is_a_warning():
    desk = XidDesk(1.0, lambda: None)
    desk.on_gpus(snapshot(gpu()))
    with capture_logs() as lines:
        desk.on_gpus(snapshot(gpu(), xids=[nvml(31, 100)]))
    assert [(line["log_level"], line["hit"]) for line in lines] == [("warning", [])]


def test_history_makes_no_line():
    desk = XidDesk(1.0, lambda: None)
    desk.on_gpus(snapshot(gpu()))
    with capture_logs() as lines:
        desk.on_history([kernel(79, 100)])
    assert lines == []
    last = [s for s in desk.samples("n", None) if s.key.name == "engineroom_gpu_xid_last_seconds"]
    assert [sample.value for sample in last] == [100]


def test_a_slow_reader_has_a_wider_window():
    desk = XidDesk(60.0, lambda: None)
    desk.on_gpus(snapshot(gpu()))
    desk.on_kernel([kernel(79, 100)])
    desk.on_gpus(snapshot(gpu(), xids=[nvml(79, 160)]))
    assert desk.ledger.counts["GPU-0", 79] == 1


def test_samples_carry_the_health_of_both_sources():
    desk = XidDesk(1.0, lambda: None)
    desk.on_gpus(snapshot(gpu(), events_watched=False))
    values = {s.key.name: s.value for s in desk.samples("n", Feature(name="kernel_log", enabled=True), 4)}
    assert values["engineroom_gpu_events_watched"] == 0
    assert values["engineroom_gpu_kernel_log_watched"] == 1
    assert values["engineroom_gpu_xid_dropped_total"] == 4


def test_places():
    assert place_of(Workload(job="7")) == "job 7"
    assert place_of(Workload(container_id="c0ffee")) == "c0ffee"
    assert place_of(Workload(namespace="ml", pod="p")) == "ml/p"
