"""What is under way at the end: finished when it is quick, cut when it is not, never left hanging."""

import anyio
import pytest

from agent.delivery.drain import Drain


async def test_a_cancellation_waits_for_what_is_quick_and_cuts_what_is_not():
    drain, ended = Drain(), []
    release, both = anyio.Event(), anyio.Event()

    async def work(name: str, event: anyio.Event) -> None:
        with drain.scope() as scope:
            if name == "slow":
                both.set()
            await event.wait()
        ended.append((name, scope.cancelled_caught))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(work, "quick", release)
            group.start_soon(work, "slow", anyio.Event())
            await both.wait()
            group.cancel_scope.cancel()
            drain.begin(0.1)
            release.set()
    assert ended == [("quick", False), ("slow", True)]
    assert drain.begun


async def test_what_begins_during_the_drain_has_no_more_time():
    drain = Drain()
    drain.begin(0.05)
    with anyio.fail_after(5), drain.scope(60) as scope:
        await anyio.sleep_forever()
    assert scope.cancelled_caught


async def test_without_a_drain_the_own_time_counts():
    drain = Drain()
    with anyio.fail_after(5), drain.scope(0.05) as scope:
        await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert not drain.begun


async def test_errors_pass():
    drain = Drain()
    with pytest.raises(KeyError), drain.scope():
        raise KeyError
