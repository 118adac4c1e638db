from agent.collect.gpu.roster import Benched, Roster
from agent.core.gpu_readings import GpuReading


def reading(index=0, uuid="GPU-a", **more):
    known = {"model": "H100", "read_at_ns": 1, "state": "ok", "power_watts": 70.0, "pci_bus_id": "b"}
    return GpuReading(index=index, uuid=uuid, **(known | more))


def test_identity_stays_and_values_go():
    roster = Roster()
    roster.identify(reading())
    (gpu,) = roster.gpus([], {0: Benched("hung", "stuck", 0, 0, 0)}, 9, "ok")
    assert (gpu.uuid, gpu.model, gpu.pci_bus_id) == ("GPU-a", "H100", "b")
    assert (gpu.state, gpu.reason, gpu.read_at_ns, gpu.power_watts) == ("hung", "stuck", 9, None)


def test_a_gpu_that_never_said_who_it_is_has_a_name_all_the_same():
    (gpu,) = Roster().gpus([], {4: Benched("hung", "stuck", 0, 0, 0)}, 9, "ok")
    assert (gpu.index, gpu.uuid, gpu.model) == (4, "index-4", "unknown GPU")


def test_a_gpu_that_is_not_listed_any_more_is_lost():
    roster = Roster()
    roster.identify(reading(0))
    other = roster.identify(reading(1, "GPU-b"))
    states = {gpu.uuid: gpu.state for gpu in roster.gpus([other], {}, 9, "ok")}
    assert states == {"GPU-a": "lost", "GPU-b": "ok"}


def test_without_driver_nothing_is_lost_yet():
    roster = Roster()
    roster.identify(reading())
    (gpu,) = roster.gpus([], {}, 9, "no_driver", "driver is away")
    assert (gpu.state, gpu.reason) == ("error", "driver is away")


def test_a_gpu_is_its_uuid_not_its_index():
    roster = Roster()
    roster.identify(reading(0, "GPU-a"))
    moved = roster.identify(reading(1, "GPU-a"))
    assert roster.gpus([moved], {}, 9, "ok") == (moved,)


def test_a_reading_without_identity_gets_the_known_one():
    roster = Roster()
    roster.identify(reading())
    lost = roster.identify(reading(uuid="", model="", state="lost", reason="gone", power_watts=None))
    assert (lost.uuid, lost.model, lost.state, lost.reason) == ("GPU-a", "H100", "lost", "gone")


def test_a_gpu_whose_index_another_one_has_taken_stays_as_lost():
    """GPU 1 of three is removed: GPU 2 moves up."""
    roster = Roster()
    for index in range(3):
        roster.identify(reading_of(f"GPU-{index}", index))
    moved = [roster.identify(reading_of(uuid, index)) for index, uuid in enumerate(("GPU-0", "GPU-2"))]
    gpus = roster.gpus(moved, {}, 9, "ok")
    assert [(gpu.index, gpu.uuid, gpu.state) for gpu in gpus] == [
        (0, "GPU-0", "ok"),
        (1, "GPU-2", "ok"),
        (1, "GPU-1", "lost"),
    ]
    assert len(roster) == 3
    assert [gpu.state for gpu in roster.gpus([], {}, 9, "no_driver", "away")] == ["error"] * 3
    back = [roster.identify(reading_of(f"GPU-{index}", index)) for index in range(3)]
    assert [(gpu.uuid, gpu.state) for gpu in roster.gpus(back, {}, 9, "ok")] == [
        ("GPU-0", "ok"),
        ("GPU-1", "ok"),
        ("GPU-2", "ok"),
    ]


def reading_of(uuid, index):
    return GpuReading(uuid=uuid, index=index, model="H100", read_at_ns=1, state="ok")
