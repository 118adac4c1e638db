import pynvml
import pytest
from msgspec.structs import replace

from agent.collect.gpu.meters import NS
from agent.collect.gpu.parts.gpm import Activity
from agent.collect.gpu.parts.mig_tree import MigTree
from agent.collect.gpu.parts.part import Asker, Moment
from agent.demo.gpus import machine
from tests.support.mig_bench import SEVEN, mig_bench, part


@pytest.fixture
def bench():
    with mig_bench() as bench:
        yield bench


def test_each_gpu_instance_has_its_own(bench):
    bench.control(mig={"0": SEVEN})
    gpu = bench.read(4)
    assert [one.activity.graphics_engine_ratio for one in gpu.mig] == pytest.approx([n / 7 for n in range(7)])
    assert gpu.activity is None


def test_compute_instances_share_that_of_their_gpu_instance(bench):
    parts = [part("1c.3g.40gb", 2, 0, load=1.0), part("2c.3g.40gb", 2, 1, load=0.25)]
    bench.control(mig={"0": parts})
    first, second = bench.read(4).mig
    assert first.activity == second.activity
    assert first.activity.graphics_engine_ratio == pytest.approx(0.5)
    assert bench.calls.counts["nvmlGpmMigSampleGet"] == 2


def test_an_undivided_gpu():
    with mig_bench("h100x8") as bench:
        bench.control(load={"0": 0.5})
        assert bench.read(3).activity.graphics_engine_ratio == pytest.approx(0.5)
        assert bench.calls.counts["nvmlGpmSampleGet"] == 3 * 8


@pytest.mark.parametrize("architecture", [6, 7, 8, None])
def test_before_hopper_there_is_none(architecture):
    recorded = machine.load("h100x8")
    ampere = replace(recorded, gpus=(replace(recorded.gpus[0], count=1, architecture=architecture),))
    with mig_bench(ampere) as bench:
        bench.control(load={"0": 1.0})
        gpu = bench.read(20)
        assert (gpu.activity, gpu.utilization_ratio) == (None, 1)
        assert bench.count("Gpm") == 1


def test_a_driver_from_before_gpm():
    recorded = replace(machine.load("h100mig"), missing=("nvmlGpmQueryDeviceSupport", "nvmlGpmMigSampleGet"))
    with mig_bench(recorded) as bench:
        gpu = bench.read(5)
        assert [one.activity for one in gpu.mig] == [None] * 4
        assert bench.count("GpmSample") == 0


def test_no_ratio_across_two_instances_with_the_same_id(bench):
    bench.control(mig={"0": [part("4g.40gb", 1, load=1.0)]})
    bench.read(5)
    bench.control(mig={"0": [part("3g.40gb", 1, load=0.0)]})
    seen = [bench.read().mig[0] for _ in range(12)]
    assert {one.activity.graphics_engine_ratio for one in seen if one.activity and one.profile == "3g.40gb"} == {0}


def test_buffers_are_given_back(bench):
    bench.control(mig={"0": SEVEN})
    bench.read(3)
    assert len(bench.node.gpm_samples) == 2 * 7 + 2
    bench.control(mig={"0": SEVEN[:1]})
    bench.read(4)
    assert len(bench.node.gpm_samples) == 2 + 2
    for _ in range(3):
        bench.control(mig={"0": SEVEN[:1]}, lost=[0])
        bench.read(5)
        bench.control(mig={"0": SEVEN[:1]})
        bench.read(700)
        assert bench.read().state == "ok"
        assert len(bench.node.gpm_samples) == 2 + 2


def test_where_a_sample_is_dear_it_is_taken_less_often(bench):
    tree, asker = MigTree(), Asker(bench.calls, "gpu", pynvml.nvmlDeviceGetHandleByIndex(0))
    tree.look(asker)
    activity = Activity(tree, 5 * NS)
    bench.calls.seconds["nvmlGpmMigSampleGet"], bench.calls.counts["nvmlGpmMigSampleGet"] = 500.0, 1_000_000
    for second in range(1, 41):
        bench.node.advance(bench.now_ns + second * NS)
        activity.read(asker, {}, {}, Moment(0, bench.now_ns + second * NS))
    taken = bench.calls.counts["nvmlGpmMigSampleGet"] - 1_000_000
    assert taken == 4 * 6  # 4 instances, 0.5 ms each, of 0.3 ms in a second: every 7 s
    activity.close()
    assert len(bench.node.gpm_samples) == 0
