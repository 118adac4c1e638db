import sys

import anyio
import pytest

from agent.collect.gpu.child import Child
from agent.collect.gpu.retrial import answers_again
from agent.demo.gpus.control import Control, write


async def tried(path, index, seconds):
    command = [sys.executable, "-m", "agent.demo.gpus.reader", "--machine", "h100x8", "--control", str(path)]
    child = await Child.start(command, {})
    try:
        with anyio.fail_after(20):
            return await answers_again(child, index, seconds)
    finally:
        await child.end(0)


@pytest.mark.parametrize(
    ("wish", "index", "answers"),
    [
        (Control(), 5, True),
        (Control(hang=[4, 6]), 5, True),  # nobody else is touched
        (Control(lost=[5]), 5, True),
        (Control(), 99, True),  # it is not there any more
    ],
)
async def test_one_that_does_not_hang(tmp_path, wish, index, answers):
    write(tmp_path / "control", wish)
    assert await tried(tmp_path / "control", index, 15) is answers


async def test_one_that_hangs(tmp_path):
    write(tmp_path / "control", Control(hang=[5]))
    assert not await tried(tmp_path / "control", 5, 1.5)


async def test_one_that_ends_the_reader(tmp_path):
    (tmp_path / "control").write_text("no control")
    assert not await tried(tmp_path / "control", 5, 15)
