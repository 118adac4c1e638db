from agent.core.doctor import examine
from agent.core.findings import Finding
from agent.core.gpu_readings import GpuActivity, GpuDetails, GpuReading, GpuSnapshot
from agent.core.readings import EngineReading, EngineSnapshot, EngineStatus
from agent.core.workloads import Attribution, Feature

WELL = GpuReading(
    uuid="GPU-1",
    index=0,
    model="H100",
    read_at_ns=1,
    state="ok",
    processes=(),
    activity=GpuActivity(sm_ratio=0.1),
    details=GpuDetails(persistence_mode=True),
)
LOST = GpuReading(uuid="GPU-2", index=1, model="H100", read_at_ns=1, state="lost", reason="reset it")
OLD = GpuReading(
    uuid="GPU-3",
    index=2,
    model="T4",
    read_at_ns=1,
    state="ok",
    details=GpuDetails(persistence_mode=False),
    not_offered=("nvmlDeviceGetFanSpeed", "field 82"),
)


def snapshot(*gpus: GpuReading, **changes: object) -> GpuSnapshot:
    return GpuSnapshot(read_at_ns=1, gpus=gpus, **{"driver": "ok", "events_watched": True, **changes})  # type: ignore[arg-type]


def engine(**changes: object) -> EngineSnapshot:
    status = {"engine": "e", "kind": "vllm", "url": "http://127.0.0.1:8000", "state": "ready", "pids": (1,), **changes}
    reading = EngineReading(engine="e", kind="vllm", url="http://127.0.0.1:8000", model="m", read_at_ns=1)
    return EngineSnapshot(status=EngineStatus(**status), readings=(reading,))  # type: ignore[arg-type]


def texts(found: tuple[Finding, ...]) -> list[tuple[str, str]]:
    return [(finding.severity, f"{finding.subject}: {finding.text}") for finding in found]


def test_when_all_is_well_nothing_is_found() -> None:
    workloads = Attribution(read_at_ns=1, features=(Feature(name="pod_resources", enabled=True),))
    assert examine(snapshot(WELL), workloads, {"e": engine()}) == ()


def test_the_worst_comes_first() -> None:
    workloads = Attribution(
        read_at_ns=1,
        unresolved={"the pid is not in our namespace": 3},
        features=(Feature(name="host_processes", enabled=False, reason="set hostPID: true"),),
    )
    found = examine(
        snapshot(WELL, LOST, OLD, events_watched=False, events_problem="in use", nvml_forbidden={"f": "run as root"}),
        workloads,
        {"e": engine(state="down", reason="no answer")},
        [Feature(name="kernel_log", enabled=False, reason="mount /dev/kmsg")],
    )
    assert texts(found)[:3] == [
        ("broken", "NVML events: Xid errors are not heard from NVML: in use"),
        ("broken", "GPU 1 H100: lost: reset it"),
        ("broken", "engine e: down: no answer"),
    ]
    missing = [text for severity, text in texts(found) if severity == "missing"]
    assert missing == [
        "NVML: f is refused: run as root",
        "GPU 2 T4: its processes are not listed: who uses it is not known",
        "host processes: set hostPID: true",
        "workloads: 3 without a name: the pid is not in our namespace",
        "kernel log: mount /dev/kmsg",
    ]
    notes = [text for severity, text in texts(found) if severity == "note"]
    assert [note.split(":")[1][:20] for note in notes] == [
        " persistence mode is",
        " no profiling ratios",
        " does not offer",
    ]


def test_what_nobody_misses_here_is_a_note() -> None:
    feature = Feature(name="kubernetes_pods", enabled=False, reason="this is not a pod", expected=False)
    assert ("note", "kubernetes pods: this is not a pod") in texts(examine(snapshot(WELL), None, {}, (feature,)))


def test_no_reading_no_driver_and_no_gpu_are_three_things() -> None:
    assert texts(examine(None, None, {})) == [("broken", "GPUs: no reading has arrived yet")]
    none = snapshot(driver="no_gpu", message="there is no GPU")
    assert texts(examine(none, None, {})) == [("note", "GPUs: there is no GPU")]
    gone = snapshot(driver="no_driver", message="not loaded")
    assert texts(examine(gone, None, {})) == [("broken", "GPUs: not loaded")]


def test_an_engine_without_visible_processes_says_what_would_show_them() -> None:
    (finding,) = examine(snapshot(WELL), None, {"e": engine(pids=())})
    assert finding.severity == "missing"
    assert "SYS_PTRACE" in finding.text
    assert examine(snapshot(WELL), None, {"e": engine(pids=(), gpus=("0",))}) == ()


def test_a_driver_without_events_is_not_a_broken_watcher() -> None:
    (finding,) = examine(snapshot(WELL, events_watched=None), None, {})
    assert finding.severity == "missing"
