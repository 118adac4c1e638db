"""GPU time that served nobody: which of it is told, with what evidence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.cost.present import PresentSlot
from agent.core.cost.unused import quiet_hours
from agent.core.readings import EngineSnapshot, EngineStatus
from tests.support.savings import HOUR_NS, T0, facts, figure, found, hour, place, row


def night(days: int, begin: int, end: int) -> list:
    """An engine that works but from `begin` to `end` o'clock UTC."""
    quiet = {at % 24 for at in range(begin, end if end > begin else end + 24)}
    return [hour(at, "loaded_idle" if at % 24 in quiet else "request") for at in range(24 * days)]


@pytest.mark.parametrize(
    ("begin", "end", "zone", "told"),
    [
        (1, 6, "UTC", ((1, 6),)),
        (22, 5, "UTC", ((22, 5),)),
        (16, 22, "Asia/Shanghai", ((0, 6),)),
        (18, 24, "UTC", ((18, 24),)),
    ],
)
def test_hours_of_the_day_in_which_nothing_came(begin: int, end: int, zone: str, told: tuple) -> None:
    assert quiet_hours(night(3, begin, end), zone) == told


def test_an_hour_is_quiet_only_if_it_was_on_every_day() -> None:
    rows = [*night(3, 1, 6), hour(24 + 3, "request", 0.5)]
    assert quiet_hours(rows, "UTC") == ((1, 3), (4, 6))
    assert quiet_hours(night(1, 1, 6), "UTC") == ()  # one day says nothing
    assert quiet_hours([hour(at, "loaded_idle") for at in range(72)], "UTC") == ((0, 24),)


def test_a_probe_does_not_make_an_hour_busy() -> None:
    rows = [each for at in range(48) for each in (hour(at, "request", 0.005), hour(at, "loaded_idle", 0.995))]
    assert quiet_hours(rows, "UTC") == ((0, 24),)


def test_rows_of_a_whole_window_say_nothing_about_hours() -> None:
    assert quiet_hours([place("loaded_idle", 700)], "UTC") == ()


@given(st.sets(st.integers(0, 23)), st.integers(2, 4))
def test_every_quiet_hour_is_in_one_range(hours: set[int], days: int) -> None:
    rows = [hour(at, "loaded_idle" if at % 24 in hours else "request") for at in range(24 * days)]
    told = [at % 24 for begin, end in quiet_hours(rows, "UTC") for at in range(begin, end if end > begin else end + 24)]
    assert sorted(told) == sorted(hours)


def test_an_engine_that_waits_at_night() -> None:
    of = facts(
        [place("request", 300, requests=9000), place("loaded_idle", 420)], hours=night(14, 22, 6), zone="Europe/Berlin"
    )
    finding = found(of)["loaded_idle"]
    assert (finding.where, finding.gpu_ns, finding.cost_nano) == (
        {"engine": "chat", "model": "qwen"},
        420 * HOUR_NS,
        4_200_000_000_000,
    )
    assert figure(finding, "idle_share") == pytest.approx(7 / 12)
    assert figure(finding, "quiet_hours") == "23:00 to 07:00"
    assert finding.advice == "Stop it, or scale it to zero, from 23:00 to 07:00 (Europe/Berlin)."
    assert "58 % of its time; it served 9,000 requests in the rest" in finding.summary
    assert finding.per_month_nano == 4_200_000_000_000 * 730 // 720


def test_an_engine_nobody_uses() -> None:
    finding = found(facts([place("loaded_idle", 720)], hours=[hour(at, "loaded_idle") for at in range(48)]))[
        "loaded_idle"
    ]
    assert "no request came at all" in finding.summary
    assert finding.advice.startswith("Stop it")


def test_a_worker_of_an_engine_elsewhere_is_not_to_be_stopped_here() -> None:
    finding = found(facts([place("loaded_idle", 720, reason="group_idle")]))["loaded_idle"]
    assert "on other nodes" in finding.advice


def test_an_engine_with_room_for_a_burst_is_no_waste() -> None:
    assert found(facts([place("request", 600), place("loaded_idle", 120)])) == {}


def test_warm_ups_with_what_is_known_of_restarts() -> None:
    status = EngineStatus(
        engine="chat", kind="vllm", url="http://e", state="ready", restarts=4, ready_after_seconds=180.0
    )
    places = [place("request", 700), place("warmup", 20)]
    finding = found(facts(places, engines={"chat": EngineSnapshot(status=status)}))["warmup"]
    assert (figure(finding, "restarts"), figure(finding, "ready_after")) == (4, 180.0)
    assert finding.cost_nano == 200_000_000_000
    assert "keep weights" in finding.advice
    assert "keep weights" in found(facts(places))["warmup"].advice  # nothing is known of it now
    looping = EngineStatus(engine="chat", kind="vllm", url="http://e", state="down", crash_looping=True)
    assert "crashes" in found(facts(places, engines={"chat": EngineSnapshot(status=looping)}))["warmup"].advice


def test_gpus_that_nobody_has() -> None:
    of = facts([place("request", 720), *(place("unallocated", 360, gpu=f"GPU-{n}") for n in (1, 2))])
    finding = found(of)["unallocated"]
    assert "1 GPU of the model NVIDIA H100 80GB HBM3 was free" in finding.summary
    assert (figure(finding, "gpus_mean"), finding.gpu_ns) == (1.0, 720 * HOUR_NS)
    assert finding.where == {"gpu_model": "NVIDIA H100 80GB HBM3"}


def test_who_holds_a_gpu_and_does_not_use_it() -> None:
    held = {"namespace": "lab", "pod": "notebook-0", "reason": "held_no_process"}
    of = facts([place("request", 720), place("allocated_idle", 100, gpu="GPU-1", **held)])
    finding = found(of)["allocated_idle"]
    assert finding.where == {"namespace": "lab", "pod": "notebook-0", "gpu": "GPU-1"}
    assert finding.summary == "lab/notebook-0 held GPUs for 100.0 h of GPU time with no process on them."
    nobody = facts([place("request", 720), place("allocated_idle", 100, gpu="GPU-1", reason="held_empty")])
    assert "somebody held GPUs for 100.0 h of GPU time with no memory" in found(nobody)["allocated_idle"].summary


def test_the_rest_of_a_gpu_that_is_cut_badly() -> None:
    places = [
        place("request", 540, slot="MIG-1"),
        place("unallocated", 180, reason="mig_unpartitioned"),
    ]
    rest = PresentSlot(
        gpu="GPU-0", index=0, slot="GPU-0", kind="rest", profile="", weight=1, weights=4, state="unallocated",
        reason="mig_unpartitioned", stranded_bytes=20 << 30, stranded_cause="mig_unpartitioned",
    )  # fmt: skip
    finding = found(facts(places, slots=(rest,)))["stranded"]
    assert (figure(finding, "share_of_gpu"), figure(finding, "memory_now")) == (0.25, 20 << 30)
    assert finding.summary == "25 % of GPU 0 was in no MIG device: nobody could use it."
    assert finding.advice == "Cut it into MIG devices that add up to the whole."
    share = [place("request", 540), place("unallocated", 180, slot="GPU-0::1", reason="free")]
    assert "as many parts as are used" in found(facts(share))["stranded"].advice


def test_broken_and_unwatched_time() -> None:
    of = facts([place("request", 600), place("broken", 80, reason="reset_required"), place("gap", 40, reason="error")])
    told = found(of)
    assert told["broken"].summary == "GPU-0 could not be used for 80.0 h: reset required 100 %."
    assert told["gap"].gpu_ns == 40 * HOUR_NS


def test_a_training_job_is_in_nobodys_waste() -> None:
    job = {"namespace": "research", "pod": "train-7"}
    of = facts([place("request", 720), place("other_workload", 720, gpu="GPU-1", **job)])
    told = found(of)
    assert set(told) == {"other_workload"}
    assert not told["other_workload"].is_waste
    assert told["other_workload"].where["pod"] == "train-7"


def test_a_state_without_time_is_not_told() -> None:
    """Corrections may leave entries whose parts cancel out."""
    group = dict(place("broken", 1).group)
    assert found(facts([place("request", 720), row(group, 0.0), row({**group, "state": "unallocated"}, 0.0)])) == {}


def test_hours_of_another_engine_are_not_its_own() -> None:
    other = [
        row({"state": "request", "engine": "other", "model": "m"}, 1, start_ns=at, end_ns=at + HOUR_NS)
        for at in range(T0, T0 + 72 * HOUR_NS, HOUR_NS)
    ]
    finding = found(facts([place("loaded_idle", 720)], hours=[*other, *night(3, 2, 4)]))["loaded_idle"]
    assert figure(finding, "quiet_hours") == "02:00 to 04:00"
