import os
import signal
import subprocess
import sys
from functools import partial

import anyio
import pytest
from anyio.abc import TaskStatus

from agent.clock import boot_ns
from agent.lifecycle import Health, every, running, until_signal


async def test_a_failing_cycle_leaves_the_others_running_and_shows_as_its_health() -> None:
    health, done = Health(), anyio.Event()
    runs = 0

    async def good() -> None:
        nonlocal runs
        runs += 1
        if runs == 3:
            done.set()

    async def bad() -> None:
        raise OSError("the disk is on fire")

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(every, "good", 0.01, good, health)
            group.start_soon(every, "bad", 0.01, bad, health)
            await done.wait()
            group.cancel_scope.cancel()
    assert health.cycles["good"].ok
    assert health.failing() == {"bad": "OSError: the disk is on fire"}
    assert health.cycles["bad"].failures >= 1


async def test_strict_cycles_raise() -> None:
    async def bad() -> None:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        await every("bad", 1, bad, Health(), strict=True)


async def test_a_late_cycle_skips_turns_and_counts_them() -> None:
    health, turns, done = Health(), 0, anyio.Event()

    async def slow() -> None:
        nonlocal turns
        turns += 1
        end = boot_ns() + 35_000_000
        while boot_ns() < end:  # a step that hogs the loop for three and a half intervals
            pass
        if turns == 2:
            done.set()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(every, "slow", 0.01, slow, health)
            await done.wait()
            group.cancel_scope.cancel()
    assert health.cycles["slow"].missed >= 3


async def test_a_failing_cycle_is_not_a_stalled_one_so_that_a_full_disk_is_no_crash_loop() -> None:
    health = Health()
    cycle = health.cycle("settlement", 1.0, essential=True)
    cycle.last_end_boot_ns = boot_ns()
    assert not health.stalled()
    cycle.last_end_boot_ns -= 40 * 10**9
    assert list(health.stalled()) == ["settlement"]


async def test_readiness_waits_for_every_essential_cycle() -> None:
    health = Health()
    health.cycle("gpus", essential=True)
    health.cycle("extra")
    assert health.waiting() == ["gpus"]


async def test_a_signal_is_a_wish_to_stop_not_an_error() -> None:
    health = Health()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            await group.start(partial(until_signal, health))
            os.kill(os.getpid(), signal.SIGTERM)
    assert health.draining


async def test_nested_groups_stop_from_the_inside_out() -> None:
    stopped: list[str] = []

    async def part(name: str, *, task_status: TaskStatus[None]) -> None:
        try:
            task_status.started()
            await anyio.sleep_forever()
        finally:
            stopped.append(name)

    with anyio.fail_after(10):
        async with running() as outer:
            await outer.start(part, "outer")
            async with running() as inner:
                await inner.start(part, "inner")
    assert stopped == ["inner", "outer"]


CRASH = """
import anyio
from agent.lifecycle import Health, every, running, until_signal

async def pulse():
    raise OSError("a cycle may fail")

async def station():
    raise RuntimeError("a station may not")

async def main():
    health = Health()
    async with running() as group:
        group.start_soon(every, "pulse", 0.01, pulse, health)
        group.start_soon(station)
        await until_signal(health)

anyio.run(main, backend_options={"use_uvloop": True})
"""


def test_a_crash_outside_a_cycle_ends_the_process_with_status_1() -> None:
    done = subprocess.run([sys.executable, "-c", CRASH], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert "RuntimeError: a station may not" in done.stderr


def test_garbage_is_looked_for_less_often_once_everything_stands() -> None:
    program = (
        "import gc; from agent.lifecycle import rest_from_collecting; before = gc.get_threshold();"
        "rest_from_collecting(); print(gc.get_threshold()[0] > before[0], gc.get_freeze_count() > 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]
