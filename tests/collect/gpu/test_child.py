"""A child is any program that answers; here one-liners stand for readers that misbehave."""

import sys
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from agent.collect.gpu.child import Child, ReaderEnded
from agent.collect.gpu.frames import Tick

FD = "import os,sys,socket; s = socket.socket(fileno=int(sys.argv[sys.argv.index('--fd') + 1])); "


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def program(text):
    return [sys.executable, "-c", FD + text]


async def test_end_waits_for_one_that_ends_by_itself():
    child = await Child.start(program("s.recv(1)"), {})
    assert child.status() is None
    await child.end(5)
    assert child.status() == 0


async def test_end_kills_one_that_does_not():
    child = await Child.start(program("s.recv(1); os.read(os.pipe()[0], 1)"), {})
    with anyio.fail_after(5):
        await child.end(0.1)
    assert child.status() == -9


async def test_abandon_does_not_wait():
    child = await Child.start(program("s.recv(1); os.read(os.pipe()[0], 1)"), {})
    await child.abandon()
    assert await child.reaped(5)
    assert child.status() == -9


async def test_a_closed_socket_is_said():
    child = await Child.start(program("s.recv(9)"), {})
    await child.send(Tick(unix_ns=0, boot_ns=0))
    with pytest.raises(ReaderEnded, match="closed"):
        await child.answer()
    await child.end(5)
    with pytest.raises(ReaderEnded):
        await child.send(Tick(unix_ns=0, boot_ns=0))


@pytest.mark.parametrize("said", ["b'x' * 9", "bytes([0, 0, 0, 1, 5])"])
async def test_what_is_no_message_ends_the_conversation(said):
    child = await Child.start(program(f"s.recv(1); s.sendall({said}); s.recv(999)"), {})
    await child.send(Tick(unix_ns=0, boot_ns=0))
    with pytest.raises(ReaderEnded):
        await child.answer()
    await child.end(5)


async def test_the_environment_is_added_to_ours():
    child = await Child.start(
        program("sys.exit(7 if os.environ['X'] == 'y' and os.environ['PATH'] else 1)"), {"X": "y"}
    )
    assert await child.reaped(10)
    assert child.status() == 7
    await child.end(0)


async def test_a_program_that_is_absent_leaves_nothing_open(tmp_path):
    async def fail():
        with pytest.raises(OSError, match="absent"):
            await Child.start([str(tmp_path / "absent")], {})

    await fail()  # the first time the event loop may open something of its own
    before = open_files()
    for _ in range(5):
        await fail()
    with anyio.fail_after(5):
        while open_files() > before:  # the event loop closes sockets a turn later
            await anyio.lowlevel.checkpoint()
