import pynvml
import pytest

from agent.collect.gpu.calls import GpuUnavailable
from agent.collect.gpu.parts.mig_tree import InstanceGone, MigTree
from agent.collect.gpu.parts.part import Asker
from tests.support.mig_bench import SEVEN, mig_bench, part


@pytest.fixture
def bench():
    with mig_bench() as bench:
        yield bench


@pytest.fixture
def asker(bench):
    return Asker(bench.calls, "gpu", pynvml.nvmlDeviceGetHandleByIndex(0))


@pytest.fixture
def tree(asker):
    tree = MigTree()
    tree.look(asker)
    return tree


def test_looking_again_finds_the_same(tree, asker):
    devices, instances = tree.devices, dict(tree.instances)
    tree.look(asker)
    assert tree.devices == devices
    assert all(tree.instances[number] is instances[number] for number in instances)


def test_names_and_slices_are_asked_for_once(bench, tree, asker):
    asked = bench.count("GetName"), bench.count("ProfileInfo")
    tree.look(asker)
    assert (bench.count("GetName"), bench.count("ProfileInfo")) == asked


def test_what_was_known_of_another_instance_is_forgotten(bench, tree, asker):
    old = tree.instances[2]
    asker.calls.unsupported |= {(old.devices[0].uuid, "f"), ("gpu instance 2", "f"), ("gpu", "f")}
    bench.control(mig={"0": [part("4g.40gb", 2)]})
    tree.look(asker)
    assert tree.instances[2] is not old
    assert ("gpu instance 2", "f") not in asker.calls.unsupported
    assert (old.devices[0].uuid, "f") not in asker.calls.unsupported
    assert ("gpu", "f") in asker.calls.unsupported


@pytest.mark.parametrize("code", [2, 6])
def test_a_dead_handle(bench, tree, code):
    bench.control(returns={"nvmlDeviceGetMemoryInfo_v2": {"0": code}})
    with pytest.raises(InstanceGone):
        tree.ask(tree.asker_of(2), "nvmlDeviceGetMemoryInfo_v2")
    assert tree.stale
    assert len(bench.calls.errors) == 1


def test_a_lost_gpu_is_not_a_dead_handle(bench, tree):
    bench.control(lost=[0])
    with pytest.raises(GpuUnavailable):
        tree.ask(tree.asker_of(2), "nvmlDeviceGetMemoryInfo_v2")


def test_refused_three_times_though_it_lives(bench, tree, asker):
    bench.control(returns={"nvmlDeviceGetMemoryInfo_v2": {"0": 2}})
    for _ in range(3):
        with pytest.raises(InstanceGone):
            tree.ask(tree.asker_of(2), "nvmlDeviceGetMemoryInfo_v2")
        tree.look(asker)
    assert tree.ask(tree.asker_of(2), "nvmlDeviceGetMemoryInfo_v2") is None
    assert not tree.stale


def test_mig_mode_off_leaves_nothing(bench, tree, asker):
    bench.control(mig={"0": None})
    tree.look(asker)
    assert (tree.enabled, tree.devices, tree.instances) == (False, (), {})


def test_gaps_in_the_numbering(bench, asker):
    bench.control(mig={"0": SEVEN[:3]})
    genuine = bench.library.nvmlDeviceGetMigDeviceHandleByIndex

    def sparse(handle, index, out):
        return 6 if index.value == 1 else genuine(handle, index, out)

    bench.library.nvmlDeviceGetMigDeviceHandleByIndex = sparse
    tree = MigTree()
    tree.look(asker)
    assert [one.index for one in tree.devices] == [0, 2]
