"""The page: lines as dcgm-exporter writes them, who has what of a shared GPU, and what is not said."""

import os
import re
from pathlib import Path

import pytest

from agent.core.workloads import SlotUser, Workload
from exporters.dcgm import DcgmOptions, DcgmPage
from exporters.dcgm_fields import FIELDS
from tests.support.dcgm import (
    CHAT,
    EMBED,
    MIB,
    NOW_NS,
    NS,
    Lines,
    gpu,
    held,
    holding,
    in_mig_mode,
    mig,
    older_gpu,
    process,
    read,
    snapshot,
)

GOLDEN = Path(__file__).parent / "dcgm" / "page.prom"
UTIL, USED, POWER = "DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_DEV_FB_USED", "DCGM_FI_DEV_POWER_USAGE"
ENGINE, XID, XID_COUNT = "DCGM_FI_PROF_GR_ENGINE_ACTIVE", "DCGM_FI_DEV_XID_ERRORS", "DCGM_EXP_XID_ERRORS_COUNT"


def options(**changes) -> DcgmOptions:
    return DcgmOptions(**{"node": "node-1", **changes})


def page(*gpus, attribution=None, now_ns=NOW_NS, xids=None, watched=True, **changes) -> bytes:
    """The page after one tick; `xids`: (uuid, code) -> how many, all of them now."""
    written = DcgmPage(options(**changes))
    last = {key: NOW_NS for key, count in (xids or {}).items() if count}
    written.observe(snapshot(*gpus), xids or {}, last, xids_watched=watched)
    return written.render(attribution, now_ns)


def lines(*gpus, **more) -> Lines:
    return read(page(*gpus, **more))


def by_pod(found: Lines, name: str) -> dict[str, str]:
    """Pod ('' for the device's own line) -> value."""
    return {labels.get("pod", ""): value for labels, value in found.get(name, [])}


def test_before_the_first_reading_the_page_is_empty():
    written = DcgmPage(options())
    assert written.render(None, NOW_NS) == b""
    assert written.health(NOW_NS) == (False, "fail gpus: nothing has been read yet\n")
    assert page() == b""


def test_a_whole_page_with_slices_pods_and_an_xid():
    """UPDATE_GOLDENS=1 rewrites the file; review it as a diff."""
    whole = gpu(0, processes=(process(10, 69_000, 0.8),))
    devices = (mig(1, profile="3g.40gb"), mig(2, 0, "1c.3g.40gb"), mig(2, 1, "1c.3g.40gb"))
    shared = gpu(2, processes=(process(20, 30_000, 0.6), process(21, 10_000, 0.2)))
    users = (
        SlotUser(slot="GPU-2", pid=20, workload=CHAT),
        SlotUser(slot="GPU-2", pid=21, workload=EMBED),
    )
    attribution = held(
        holding("GPU-0", CHAT),
        holding("MIG-1-0", EMBED),
        holding("GPU-2", CHAT, "0"),
        holding("GPU-2", EMBED, "1"),
        users=users,
        replicas={"GPU-2": 4},
    )
    written = DcgmPage(options())
    gpus = (whole, in_mig_mode(1, *devices), shared)
    xids = {(one.uuid, code): 0 for one in gpus for code in (48, 79)}
    written.observe(snapshot(*gpus, at_ns=NOW_NS - 10 * NS), xids, {}, xids_watched=True)
    busier = gpu(0, processes=whole.processes, pcie=_more(whole.pcie), nvlink=_more(whole.nvlink))
    after = xids | {("GPU-1", 79): 2, ("GPU-1", 48): 1}
    last = {("GPU-1", 48): NOW_NS - NS, ("GPU-1", 79): NOW_NS - 5 * NS}
    written.observe(snapshot(busier, *gpus[1:]), after, last, xids_watched=True)
    found = written.render(attribution, NOW_NS).decode()
    if os.environ.get("UPDATE_GOLDENS"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(found)
    assert found == GOLDEN.read_text()


def _more(link):
    return type(link)(
        **{name: getattr(link, name) for name in link.__struct_fields__ if not name.endswith("_bytes")},
        transmitted_bytes=link.transmitted_bytes + 5_000_000,
        received_bytes=link.received_bytes + 10_240_000,
    )


def test_every_field_that_the_h100_has_is_there_once():
    missing = {f"DCGM_FI_{field.name}" for field in FIELDS} - lines(gpu()).keys()
    rates = {f"DCGM_FI_PROF_{link}_{way}_BYTES" for link in ("PCIE", "NVLINK") for way in ("TX", "RX")}
    retired = {f"DCGM_FI_DEV_RETIRED_{kind}" for kind in ("SBE", "DBE", "PENDING")}
    assert missing == {*rates, *retired, "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL"}
    assert all(len(found) == 1 for found in lines(gpu()).values())


def test_default_metrics_are_the_stock_ones():
    found = lines(gpu(), metrics="default")
    assert "DCGM_FI_DEV_FB_TOTAL" in found
    assert "DCGM_FI_DEV_PSTATE" not in found
    assert XID_COUNT not in found
    assert found.keys() < lines(gpu()).keys()


def test_new_names_have_the_same_values():
    classic, new, both = lines(gpu()), lines(gpu(), profile="4.6"), lines(gpu(), profile="both")
    assert both.keys() == classic.keys() | new.keys()
    assert new["DCGM_FI_DEV_BOARD_POWER_WATTS"][0][1] == classic[POWER][0][1] == "612.345000"
    assert POWER not in new
    labels = {frozenset(labels) for found in both.values() for labels, _ in found}
    assert all({"DCGM_FI_DRIVER_VERSION", "DCGM_FI_SYSTEM_DRIVER_VERSION"} <= one for one in labels)
    assert "DCGM_FI_DRIVER_VERSION" not in new["DCGM_FI_DEV_BOARD_POWER_WATTS"][0][0]


def test_each_family_is_described_once_above_its_lines():
    text = page(gpu(0), gpu(1), profile="both").decode()
    described = re.findall(r"^# TYPE (\S+) (gauge|counter)$", text, re.MULTILINE)
    assert len(described) == len(dict(described)) == text.count("# HELP ")
    for name, _ in described:
        assert re.search(rf"^# HELP {name} .+\n# TYPE {name} \w+\n{name}\{{.*\n{name}\{{", text, re.MULTILINE)


# Who has what


def test_a_gpu_that_nobody_holds_has_the_same_lines_without_a_pod():
    ((labels, value),) = lines(gpu(), attribution=held())[POWER]
    assert value == "612.345000"
    assert not labels.keys() & {"pod", "namespace", "container"}


def test_one_holder_has_every_line():
    found = lines(gpu(), attribution=held(holding("GPU-0", CHAT)), xids={("GPU-0", 31): 1})
    for name, rows in found.items():
        assert [labels["pod"] for labels, _ in rows] == ["chat-0"], name


SHARED = held(
    holding("GPU-0", CHAT, "0"),
    holding("GPU-0", EMBED, "1"),
    users=(
        SlotUser(slot="GPU-0", pid=1, workload=CHAT),
        SlotUser(slot="GPU-0", pid=2, workload=CHAT),
        SlotUser(slot="GPU-0", pid=3, workload=EMBED),
    ),
    replicas={"GPU-0": 4},
)


def test_a_shared_gpu_draws_its_power_once():
    found = lines(gpu(processes=(process(1, 100),)), attribution=SHARED)
    per_pod = {name for name, rows in found.items() if any("pod" in labels for labels, _ in rows)}
    assert per_pod <= {UTIL, USED, ENGINE}
    assert by_pod(found, POWER) == {"": "612.345000"}
    assert len(found["DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"]) == 1


def test_holders_of_a_shared_gpu_have_what_their_processes_use():
    processes = (process(1, 1000, 0.4), process(2, 500, 0.2), process(3, 250, 0.2))
    found = lines(gpu(processes=processes), attribution=SHARED)
    assert by_pod(found, UTIL) == {"": "87", "chat-0": "60", "embed-0": "20"}
    assert by_pod(found, USED) == {"": "70000", "chat-0": "1500", "embed-0": "250"}
    assert by_pod(found, ENGINE) == {"": "0.900000", "chat-0": "0.675000", "embed-0": "0.225000"}


def test_a_holder_without_a_process_uses_nothing():
    found = lines(gpu(processes=(process(1, 1000, 0.5),)), attribution=SHARED)
    assert [by_pod(found, name)["embed-0"] for name in (UTIL, USED, ENGINE)] == ["0", "0", "0.000000"]
    found = lines(gpu(processes=()), attribution=SHARED)
    assert by_pod(found, USED) == {"": "70000", "chat-0": "0", "embed-0": "0"}


def test_what_is_not_known_of_a_holder_is_not_0():
    unknown = lines(gpu(processes=None), attribution=SHARED)
    assert by_pod(unknown, USED) == {"": "70000"}
    unsampled = lines(gpu(processes=(process(1, None), process(3, 250))), attribution=SHARED)
    assert by_pod(unsampled, USED) == {"": "70000", "embed-0": "250"}
    assert by_pod(unsampled, UTIL) == {"": "87"}
    assert by_pod(unsampled, ENGINE) == {"": "0.900000"}
    stranger = lines(gpu(processes=(process(1, 100, 0.1), process(99, 100, 0.1))), attribution=SHARED)
    assert by_pod(stranger, USED) == {"": "70000", "chat-0": "100"}  # the stranger may be embed-0


def test_under_mps_only_memory_can_be_told_apart():
    processes = (process(1, 1000, 0.4, "mps"), process(3, 250, 0.2, "mps"))
    found = lines(gpu(processes=processes), attribution=SHARED)
    assert by_pod(found, USED) == {"": "70000", "chat-0": "1000", "embed-0": "250"}
    assert by_pod(found, UTIL) == {"": "87"}
    assert by_pod(found, ENGINE) == {"": "0.900000"}


def test_a_process_is_its_pods_where_its_container_is_not_known():
    def used_by(*holdings, container: str) -> dict[str, str]:
        workload = Workload(namespace="inference", pod="chat-0", container=container)
        users = (SlotUser(slot="GPU-0", pid=1, workload=workload),)
        attribution = held(*holdings, users=users, replicas={"GPU-0": 2})
        found = lines(gpu(processes=(process(1, 7, 0.1),)), attribution=attribution)
        return {labels.get("container", ""): value for labels, value in found[USED]}

    second = Workload(namespace="inference", pod="chat-0", container="draft")
    assert used_by(holding("GPU-0", CHAT), container="") == {"": "70000", "vllm": "7"}
    both = (holding("GPU-0", CHAT, "0"), holding("GPU-0", second, "1"))
    assert used_by(*both, container="draft") == {"": "70000", "draft": "7", "vllm": "0"}


def test_two_jobs_share_a_gpu():
    users = tuple(SlotUser(slot="GPU-0", pid=pid, workload=Workload(job=job)) for pid, job in ((1, "41"), (2, "42")))
    attribution = held(users=users)
    found = lines(gpu(processes=(process(1, 5, 0.1), process(2, 6, 0.2))), attribution=attribution)
    assert {labels.get("hpc_job", ""): value for labels, value in found[USED]} == {"": "70000", "41": "5", "42": "6"}
    assert [labels.get("hpc_job") for labels, _ in found[POWER]] == [None]


# MIG


def test_a_gpu_instance_is_there_once_with_its_own_memory_and_activity():
    devices = (mig(2, 0, "1c.3g.40gb"), mig(2, 1, "1c.3g.40gb"), mig(1, profile="4g.40gb"))
    found = lines(in_mig_mode(0, *devices))
    assert [(labels["GPU_I_ID"], labels["GPU_I_PROFILE"]) for labels, _ in found[USED]] == [
        ("1", "4g.40gb"),
        ("2", "3g.40gb"),
    ]
    assert [value for _, value in found[USED]] == ["1000", "1000"]
    assert [value for _, value in found[ENGINE]] == ["0.250000", "0.250000"]
    assert [value for _, value in found[POWER]] == ["612.345000", "612.345000"]
    assert UTIL not in found


def test_slices_are_held_one_by_one():
    found = lines(in_mig_mode(0, mig(1), mig(2)), attribution=held(holding("MIG-1-0", CHAT)))
    assert [(labels["GPU_I_ID"], labels.get("pod")) for labels, _ in found[POWER]] == [("1", "chat-0"), ("2", None)]


def test_replicas_of_a_slice():
    users = (SlotUser(slot="MIG-1-0", pid=5, workload=CHAT),)
    attribution = held(holding("MIG-1-0", CHAT, "0"), holding("MIG-1-0", EMBED, "1"), users=users)
    found = lines(in_mig_mode(0, mig(1, processes=(process(5, 900),))), attribution=attribution)
    assert by_pod(found, USED) == {"": "1000", "chat-0": "900", "embed-0": "0"}
    assert by_pod(found, ENGINE) == {"": "0.250000", "embed-0": "0.000000"}


def test_mig_mode_without_an_instance_is_the_gpu_itself():
    found = lines(in_mig_mode(0))
    assert "GPU_I_ID" not in found[POWER][0][0]
    assert found["DCGM_FI_DEV_MIG_MODE"][0][1] == "1"


# Xids


def test_xids_have_their_code_and_what_it_means():
    found = lines(gpu(0), gpu(1), xids={("GPU-0", 79): 3, ("GPU-1", 79): 0})
    (fell, value), (well, none) = found[XID]
    assert (value, fell["err_code"]) == ("79", "79")
    assert fell["err_msg"]
    assert (none, well["err_code"], well["err_msg"]) == ("0", "0", "no error")
    assert [(labels.get("xid"), labels["window_size_in_ms"], value) for labels, value in found[XID_COUNT]] == [
        ("79", "300000", "3"),
        (None, "300000", "0"),
    ]


def test_no_xid_is_not_said_where_nobody_looks():
    found = lines(gpu(), watched=False)
    assert XID not in found
    assert XID_COUNT not in found


# What must not look well


@pytest.mark.parametrize("state", ["lost", "reset_required", "hung", "error"])
def test_a_gpu_that_does_not_answer_has_its_xid_and_nothing_else(state):
    gone = gpu(state=state, reason="fell off the bus")
    written = DcgmPage(options())
    written.observe(snapshot(gone, gpu(1)), {("GPU-0", 79): 1}, {("GPU-0", 79): NOW_NS}, xids_watched=True)
    found = read(written.render(held(holding("GPU-0", CHAT)), NOW_NS))
    assert {name for name, rows in found.items() if any(labels["gpu"] == "0" for labels, _ in rows)} == {XID, XID_COUNT}
    assert found[XID][0][0]["pod"] == "chat-0"
    assert written.health(NOW_NS) == (True, f"fail gpu 0: {state} fell off the bus\nok gpu 1\n")


def test_old_readings_are_not_shown_as_new():
    written = DcgmPage(options(max_age_seconds=30))
    written.observe(snapshot(gpu()))
    assert POWER in read(written.render(None, NOW_NS + 30 * NS))
    assert written.health(NOW_NS + 30 * NS) == (True, "ok gpu 0\n")
    assert written.render(None, NOW_NS + 31 * NS) == b""
    assert written.health(NOW_NS + 31 * NS) == (False, "fail gpu 0: read 31 s ago\n")


def test_health_says_what_is_wrong_with_the_driver():
    written = DcgmPage(options())
    written.observe(snapshot().__class__(read_at_ns=NOW_NS, driver="no_driver", message="Load the\ndriver."))
    assert written.health(NOW_NS) == (False, "fail gpus: the driver's state is no_driver. Load the driver.\n")
    written.observe(snapshot())
    assert written.health(NOW_NS) == (False, "fail gpus: there are none\n")


def test_blanks_of_the_driver_never_appear():
    blank = 9223372036854775794
    absurd = gpu(
        power_watts=140737488355328.0,
        temperature_celsius=float(blank),
        memory_used_bytes=blank,
        violation_ns={"power": blank},
        energy_joules=float("nan"),
    )
    text = page(absurd).decode()
    assert "922337" not in text
    assert "140737488355328" not in text
    assert "nan" not in text
    gone = {POWER, USED, "DCGM_FI_DEV_GPU_TEMP", "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "DCGM_FI_DEV_POWER_VIOLATION"}
    assert not gone & read(text.encode()).keys()


def test_before_hopper_engine_activity_is_absent_or_the_utilisation_if_asked_for():
    assert ENGINE not in lines(older_gpu())
    found = lines(older_gpu(), utilization_as_engine_active=True)
    assert found[ENGINE][0][1] == "0.870000"
    assert "DCGM_FI_PROF_SM_ACTIVE" not in found


def test_gpus_are_in_order_of_their_number():
    found = lines(gpu(2), gpu(0), gpu(10), gpu(1))
    assert [labels["gpu"] for labels, _ in found[POWER]] == ["0", "1", "2", "10"]


def test_sizes_are_rounded_down_to_whole_mib():
    assert lines(gpu(memory_used_bytes=608 * MIB + MIB - 1))[USED][0][1] == "608"
