"""Which lists are asked for."""

from agent.collect.gpu.parts.part import RARE
from agent.collect.gpu.process_lists import KINDS, UNEXPLAINED_BYTES, ProcessLists
from agent.core.gpu_readings import GpuProcess

SERVER = GpuProcess(pid=1, kind="compute", memory_used_bytes=10**10)
CLIENT = GpuProcess(pid=2, kind="mps", memory_used_bytes=10**9)


def rounds(lists, number, used, *processes):
    asked = []
    for _ in range(number):
        asked.append(set(lists.wanted(used)))
        lists.seen(processes)
    return asked


def test_empty_lists_are_asked_for_now_and_then():
    assert rounds(ProcessLists(), 2 * RARE, 10**10, SERVER) == [set(KINDS), *[{"compute"}] * (RARE - 1)] * 2


def test_a_list_with_somebody_on_it_is_asked_for_each_time():
    asked = rounds(ProcessLists(), RARE, 11 * 10**9, SERVER, CLIENT)
    assert asked == [set(KINDS), *[{"compute", "mps"}] * (RARE - 1)]


def test_memory_that_nobody_holds_makes_all_lists_worth_asking_for():
    lists = ProcessLists()
    rounds(lists, 1, 10**10, SERVER)
    assert lists.wanted(10**10 + UNEXPLAINED_BYTES) == ("compute",)
    assert lists.wanted(10**10 + UNEXPLAINED_BYTES + 1) == KINDS


def test_a_process_that_does_not_say_what_it_holds_explains_all():
    lists = ProcessLists()
    rounds(lists, 1, 10**10, GpuProcess(pid=1, kind="compute"))
    assert lists.wanted(10**11) == ("compute",)
    assert ProcessLists().wanted(None) == KINDS
