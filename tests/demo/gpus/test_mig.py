import pytest

from agent.demo.gpus import machine
from agent.demo.gpus.control import Control
from agent.demo.gpus.mig import Mig, parent_of, placement_start
from agent.demo.gpus.model import NodeSim
from tests.support.mig_bench import MIB, SEVEN, held, part

FACTS = machine.load("h100mig").gpus[0].mig


@pytest.fixture
def mig():
    return Mig(FACTS, "GPU-1", 3)


def test_the_recorded_layout_is_there_at_first(mig):
    assert [one.name for one in mig.devices] == ["3g.40gb", "2g.20gb", "1g.10gb", "1g.10gb"]


def test_an_instance_that_stays_is_the_same(mig):
    mig.arrange(SEVEN)
    before = {one.gpu_instance: one for one in mig.devices}
    mig.arrange([*SEVEN[3:], part("3g.40gb", 1)])
    after = {one.gpu_instance: one for one in mig.devices}
    assert all(after[number] is before[number] for number in range(10, 14))
    assert after[1].handle not in {one.handle for one in before.values()}


def test_the_same_slice_made_anew_has_its_uuid_and_another_handle(mig):
    mig.arrange([part("1g.10gb", 9)])
    first = mig.devices[0]
    mig.arrange([])
    mig.arrange([part("1g.10gb", 9)])
    assert mig.devices[0].uuid == first.uuid
    assert mig.devices[0].handle != first.handle
    assert Mig(FACTS, "GPU-2", 3).devices[2].uuid != first.uuid


def test_handles_lead_to_their_gpu(mig):
    assert {parent_of(one.handle) for one in mig.devices} == {3}
    assert parent_of(3) == 3


def test_parts_of_a_gpu_instance(mig):
    mig.arrange([part("1c.3g.40gb", 2, 0), part("2c.3g.40gb", 2, 1)])
    assert [(one.compute_slices, one.multiprocessors, one.whole.slices) for one in mig.devices] == [
        (1, 16, 3),
        (2, 32, 3),
    ]


@pytest.mark.parametrize("profile", ["5g.50gb", "xc.3g.40gb", "", "1c."])
def test_a_profile_that_does_not_exist(mig, profile):
    with pytest.raises(ValueError, match=r"no profile .*1g\.10gb"):
        mig.arrange([part(profile, 2)])


def test_memory_is_that_of_all_in_the_gpu_instance(mig):
    mig.arrange([part("1c.3g.40gb", 2, 0, processes=[held(1, 100)]), part("2c.3g.40gb", 2, 1, processes=[held(2, 50)])])
    assert mig.used_bytes(2) == 150 * MIB + 3 * FACTS.slice_used_bytes
    assert mig.used_bytes_in_all == 150 * MIB + 7 * FACTS.slice_used_bytes
    mig.arrange([part("3g.40gb", 2, processes=[held(1, 100_000)])])
    assert mig.used_bytes(2) == 40448 * MIB


def test_load_of_the_gpu_is_that_of_its_slices():
    node = NodeSim(machine.load("h100mig"))
    node.apply(Control(mig={"0": [part("3g.40gb", 2, load=1.0), part("1g.10gb", 9, load=0.5)]}))
    assert node.gpus[0].load == pytest.approx(3.5 / 7)
    node.apply(Control(mig={"0": None}, load={"0": 0.25}))
    assert node.gpus[0].load == 0.25
    node.apply(Control())
    assert len(node.gpus[0].mig.devices) == 4


def test_work_adds_up(mig):
    mig.arrange([part("3g.40gb", 2, load=0.5)])
    mig.advance(4)
    mig.arrange([part("3g.40gb", 2, load=1.0)])
    mig.advance(1)
    assert mig.devices[0].busy_seconds == 3


@pytest.mark.parametrize(
    ("number", "start"), [(0, 0), (1, 0), (2, 4), (3, 0), (4, 2), (6, 6), (7, 0), (9, 2), (10, 3), (14, 7)]
)
def test_placement(number, start):
    assert placement_start(number) == start


def test_work_for_a_gpu_that_was_recorded_in_parts():
    node = NodeSim(machine.load("h100mig"))
    node.apply(Control(load={"0": 0.7}, processes={"0": [held(1)]}))
    gpu = node.gpus[0]
    assert [one.load for one in gpu.mig.devices] == [0.7] * 4
    assert ([len(one.processes) for one in gpu.mig.devices], gpu.processes) == ([1, 0, 0, 0], ())
    assert gpu.load == pytest.approx(0.7)


def test_a_gpu_that_cannot_be_divided():
    node = NodeSim(machine.load("rtx4080sx2"))
    node.apply(Control(mig={"0": None}))
    with pytest.raises(ValueError, match=r"GPU 1 .*has no MIG profiles"):
        node.apply(Control(mig={"1": []}))
