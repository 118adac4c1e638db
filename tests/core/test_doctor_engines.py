import pytest

from agent.core.cost.present import PresentSlot
from agent.core.doctor_engines import EngineFacts, examine_engines
from agent.core.gpu_readings import GpuReading, GpuSnapshot, MigReading
from agent.core.readings import Advice, EngineReading, EngineSnapshot, EngineStatus, Histogram
from agent.core.workloads import Attribution, SlotUser, Workload

MIG = MigReading(uuid="MIG-1", index=0, gpu_instance=1, compute_instance=0, profile="1g.10gb")
GPU = GpuReading(uuid="GPU-1", index=0, model="H100", read_at_ns=1, state="ok", mig=(MIG,))
GPUS = GpuSnapshot(read_at_ns=1, driver="ok", gpus=(GPU,))
TIMEOUTS = Advice(signal="timeout", text="vLLM counts none: put the sidecar in front")
FLAG = "restart it with --enable-metrics"


def engine(name: str = "e", bounds: tuple[float, ...] = (), **changes: object) -> EngineSnapshot:
    status = {"engine": name, "kind": "vllm", "url": "http://h:1", "state": "ready", "gpus": ("0",), **changes}
    duration = Histogram(bounds=bounds, counts=(0.0,) * (len(bounds) + 1)) if bounds else None
    reading = EngineReading(
        engine=name, kind="vllm", url="u", model="m", read_at_ns=1, request_duration_seconds=duration
    )
    return EngineSnapshot(status=EngineStatus(**status), readings=(reading, reading))  # type: ignore[arg-type]


def slot(uuid: str, *engines: str) -> PresentSlot:
    return PresentSlot(
        gpu="GPU-1", index=0, slot=uuid, kind="gpu", profile="", weight=1, weights=1, state="request",
        reason="engine", engines=engines,
    )  # fmt: skip


def users(*found: SlotUser) -> Attribution:
    return Attribution(read_at_ns=1, users=found, users_known=True)


def said(
    *snapshots: EngineSnapshot,
    gpus: GpuSnapshot | None = GPUS,
    workloads: Attribution | None = None,
    **facts: object,
) -> list[tuple[str, str, str]]:
    engines = {snapshot.status.engine: snapshot for snapshot in snapshots}
    found = examine_engines(engines, gpus, workloads, EngineFacts(**facts))  # type: ignore[arg-type]
    return [(finding.severity, finding.subject, finding.text) for finding in found]


def test_an_engine_that_is_well_has_no_finding() -> None:
    assert said(engine(bounds=(1.0, 2.0, 5.0))) == []


@pytest.mark.parametrize(
    ("changes", "severity", "text"),
    [
        ({"state": "down", "reason": "nobody listens"}, "broken", "down: nobody listens"),
        ({"state": "not_ready", "reason": "503"}, "broken", "not ready: 503"),
        ({"state": "not_ready"}, "broken", "not ready"),
        ({"state": "starting", "reason": "since 20 s"}, "note", "starting: since 20 s"),
        ({"state": "unknown_format", "reason": FLAG}, "broken", f"unknown format: {FLAG}"),
        # It serves, and only its figures are missing.
        ({"state": "unknown_format", "reason": FLAG, "ready": True}, "missing", f"unknown format: {FLAG}"),
        # Nobody can be asked: its sidecar could.
        ({"state": "down", "url": "", "reason": "another namespace"}, "missing", "down: another namespace"),
        ({"reason": "3 lines could not be read"}, "note", "3 lines could not be read"),
    ],
)
def test_what_its_state_means(changes: dict[str, object], severity: str, text: str) -> None:
    assert said(engine(**changes)) == [(severity, "engine e", text)]


@pytest.mark.parametrize("state", ["ready", "down", "starting"])
def test_a_crash_loop_is_one_finding_and_broken(state: str) -> None:
    ((severity, subject, text),) = said(engine(crash_looping=True, restarts=5, state=state, reason="no memory"))
    assert (severity, subject) == ("broken", "engine e")
    assert text.startswith("crash looping: it was restarted 5 times: no memory. ")


def test_processes_that_cannot_be_seen() -> None:
    hidden = engine(gpus=())
    assert said(hidden)[0][0] == "missing"
    assert "SYS_PTRACE" in said(hidden)[0][2]
    # A slot has it all the same; a node without GPUs needs none; the engine's own advice says more.
    assert said(hidden, slots=[slot("GPU-1", "e")]) == []
    assert said(hidden, gpus=GpuSnapshot(read_at_ns=1, driver="no_gpu")) == []
    advised = engine(gpus=(), advice=(Advice(signal="processes", text="hostPID"),))
    assert said(advised) == [("missing", "engine e", "no processes: hostPID")]


def test_processes_that_are_on_no_gpu() -> None:
    seen = engine(gpus=(), pids=(1, 2, 3, 4, 5))
    ((severity, _, text),) = said(seen, workloads=users())
    assert severity == "note"
    assert "(1, 2, 3 and 2 more)" in text
    assert said(seen, workloads=users(SlotUser(slot="GPU-1", pid=5))) == []
    assert said(seen, workloads=Attribution(read_at_ns=1)) == []  # nobody could tell


def test_the_same_advice_is_said_once() -> None:
    both = (TIMEOUTS, Advice(signal="client_abort", text=TIMEOUTS.text), Advice(signal="queue_seconds", text="no"))
    found = said(*(engine(name, advice=both) for name in ("d", "a", "b", "c")), engine("x", advice=(TIMEOUTS,)))
    assert found == [
        ("missing", "engines a, b, c and 2 more", f"no timeout, client_abort: {TIMEOUTS.text}"),
        # Neither the rules nor the bill need it.
        ("note", "engines a, b, c and 1 more", "no queue_seconds: no"),
    ]


def test_buckets_that_the_latency_rule_cannot_use() -> None:
    coarse = engine(bounds=(0.5, 1.5, 2.5, 5.0))
    ((severity, subject, text),) = said(coarse)
    assert (severity, subject) == ("missing", "engine e")
    assert "no bound at 2 s" in text
    assert "interpolated between 1.5 and 2.5 s" in text
    assert "give its buckets" not in text
    ((_, _, text),) = said(coarse, bounds_flags={"vllm": "--custom-histogram-buckets"})
    assert "give its buckets a bound at 2 (--custom-histogram-buckets), or put the sidecar in front" in text
    ((_, _, text),) = said(engine(bounds=(0.5, 1.0)))
    assert "above 1 s" in text
    assert said(coarse, measured_by_sidecar={"e"}) == []
    assert said(engine(bounds=())) == []


def test_gpus_that_work_for_no_engine() -> None:
    found = users(
        SlotUser(slot="GPU-1", pid=7, name="python", workload=Workload(namespace="lab", pod="train-0")),
        SlotUser(slot="GPU-1", pid=8, name="python", workload=Workload(job="4711")),
        SlotUser(slot="GPU-1", pid=9),
        SlotUser(slot="GPU-1", pid=41, name="vllm"),
        SlotUser(slot="MIG-1", pid=10, name="python"),
        SlotUser(slot="GPU-9", pid=11, name="python"),
    )
    first, second, third = said(engine(pids=(41,)), workloads=found)
    assert first[:2] == ("note", "GPU 0 H100")
    assert "used by python 7 of lab/train-0, python 8 of job 4711, process 9, which" in first[2]
    assert second[1] == "GPU 0 H100, 1g.10gb"
    assert third[1] == "slot GPU-9"
    # Shares of a slot that the bill gives to an engine are the engine's.
    owned = [slot("GPU-1::0", "e"), slot("MIG-1", "e"), slot("GPU-9", "e")]
    assert said(engine(pids=(41,)), workloads=found, slots=owned) == []


def test_who_was_not_asked_is_listed_and_bounded() -> None:
    refused = {f"port {number}": "no engine listens there" for number in range(10, 22)}
    found = said(refused=refused)
    assert found[0] == ("note", "not asked: port 10", "no engine listens there")
    assert (len(found), found[-1][2]) == (9, "4 more ports and processes that are no engines")
