import pytest

from agent.collect.gpu.account import XIDS_KEPT, Account
from agent.collect.gpu.frames import TickEnded
from agent.core.gpu_readings import GpuReading, XidEvent


def gpus(count):
    return tuple(GpuReading(uuid=f"GPU-{i}", index=i, model="H100", read_at_ns=0, state="ok") for i in range(count))


def xid(number, count=1):
    return XidEvent(at_ns=0, uuid="GPU-0", xid=number, source="nvml", count=count)


def test_what_a_reader_says_is_in_the_snapshot():
    account = Account()
    account.said = TickEnded(
        driver="ok",
        call_seconds={"f": 0.5},
        calls={"f": 2},
        errors={"f: in use (19)": 1},
        missing=("g",),
        forbidden={"h": "root"},
        tier_stretch=2.0,
        events_watched=True,
        events_problem="GPU-1: no permission",
        events_seen={"xid": 1},
    )
    found = account.snapshot(5, "ok", "word", gpus(2), 3)
    assert (found.read_at_ns, found.driver, found.message, found.reader_restarts) == (5, "ok", "word", 3)
    assert (found.nvml_call_seconds, found.nvml_calls) == ({"f": 0.5}, {"f": 2})
    assert (found.nvml_errors, found.nvml_missing, found.nvml_forbidden) == (
        {"f: in use (19)": 1},
        ("g",),
        {"h": "root"},
    )
    assert (found.tier_stretch, found.events_watched, found.events_seen) == (2.0, True, {"xid": 1})
    assert found.events_problem == "GPU-1: no permission"


def test_as_many_gpus_are_expected_as_there_ever_were():
    account = Account()
    expected = [account.snapshot(0, "ok", "", gpus(count), 0).gpus_expected for count in (0, 3, 8, 7, 0)]
    assert expected == [None, 3, 8, 8, 8]


def test_each_error_is_in_one_snapshot_even_if_the_reader_is_gone():
    account = Account()
    account.told([xid(79)])
    account.reader_gone()
    assert account.snapshot(0, "restarting", "", (), 1).xids == (xid(79),)
    assert account.snapshot(0, "restarting", "", (), 1).xids == ()


def test_what_is_too_much_or_was_lost_is_counted_for_good():
    account = Account()
    account.told([xid(n) for n in range(XIDS_KEPT)])
    account.told([xid(9999, count=5)])
    account.said = TickEnded(driver="ok", events_dropped=7)
    found = account.snapshot(0, "ok", "", (), 0)
    assert (len(found.xids), found.events_dropped) == (XIDS_KEPT, 12)
    account.reader_gone()
    assert account.snapshot(0, "ok", "", (), 0).events_dropped == 12


@pytest.mark.parametrize(("driver", "watched"), [("no_library", None), ("no_gpu", None), ("hung", False), ("ok", True)])
def test_nothing_is_watched_while_the_driver_does_not_answer(driver, watched):
    account = Account()
    account.said = TickEnded(driver="ok", events_watched=True)
    assert account.snapshot(0, driver, "", (), 0).events_watched is watched
