from agent.collect.gpu.bench import BENCH_FIRST_NS, BENCH_MOST_NS, CRASHES_TO_BENCH, Bench


def test_pauses_double_until_the_gpu_answers():
    bench, pauses = Bench(), []
    for _ in range(8):
        bench.put(3, "hung", "it hangs", 0)
        pauses.append(bench.benched[3].pause_ns)
    assert pauses[:3] == [BENCH_FIRST_NS, 2 * BENCH_FIRST_NS, 4 * BENCH_FIRST_NS]
    assert pauses[-1] == BENCH_MOST_NS
    assert bench.troubled(3)
    assert not bench.troubled(None)
    bench.answered(3)
    assert not bench.troubled(3)
    bench.put(3, "hung", "it hangs", 0)
    assert bench.benched[3].pause_ns == BENCH_FIRST_NS


def test_nobody_comes_back_before_his_time_or_while_his_reader_is_stuck():
    bench = Bench()
    bench.put(1, "hung", "it hangs", 0, pid=11)
    bench.put(2, "hung", "it hangs", 0, pid=12)
    assert bench.due(BENCH_FIRST_NS - 1, ()) == []
    assert bench.due(BENCH_FIRST_NS, (11,)) == [2]
    bench.admit(2)
    assert list(bench.benched) == [1]
    assert bench.due(BENCH_FIRST_NS, ()) == [1]
    bench.keep(1, BENCH_FIRST_NS, 13)
    assert (bench.benched[1].pause_ns, bench.benched[1].pid, bench.benched[1].reason) == (
        2 * BENCH_FIRST_NS,
        13,
        "it hangs",
    )


def test_a_gpu_on_which_reader_after_reader_crashes():
    bench = Bench()
    assert [bench.crashed(5, 0) for _ in range(CRASHES_TO_BENCH)] == [False, False, True]
    assert (bench.benched[5].state, bench.benched[5].pid) == ("error", None)
    assert "3 readers" in bench.benched[5].reason


def test_crashes_elsewhere_and_good_ticks_begin_the_count_anew():
    bench = Bench()
    assert not any(bench.crashed(index, 0) for index in (5, 5, 6, 5, 5))
    bench.well()
    assert not bench.crashed(5, 0)
    assert not any(bench.crashed(None, 0) for _ in range(9))
