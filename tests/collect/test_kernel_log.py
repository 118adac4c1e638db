"""The kernel's own device where it may be read, and pipes and files that carry its lines."""

import os
from contextlib import asynccontextmanager

import anyio
import pytest

from agent.clock import boot_ns, unix_ns
from agent.collect.gpu.settings import KernelLogSettings
from agent.collect.kernel_log import KernelLog

LINE = "NVRM: Xid (PCI:0000:07:00): {xid}, pid=7, name=python, text\n"


class Heard:
    def __init__(self, path):
        self.new, self.old = [], []
        self.log = KernelLog(KernelLogSettings(path=path), self._add, self.old.extend, 0.02, 0.02)

    def _add(self, events):
        self.new += events

    async def until(self, right):
        with anyio.fail_after(10):
            while not right():  # noqa: ASYNC110 -- some of these conditions have no event
                await anyio.sleep(0.005)


@asynccontextmanager
async def following(path):
    heard = Heard(path)
    async with anyio.create_task_group() as group:
        group.start_soon(heard.log.run)
        yield heard
        group.cancel_scope.cancel()


async def test_a_pipe_whose_writers_come_and_go(tmp_path):
    path = tmp_path / "kmsg"
    os.mkfifo(path)
    async with following(path) as heard:
        await heard.until(lambda: heard.log.feature.enabled)
        for xid in (13, 79):
            with path.open("w") as writer:
                writer.write("usb 1-1: new device\n" + LINE.format(xid=xid))
        await heard.until(lambda: len(heard.new) == 2)
    first = heard.new[0]
    assert [event.xid for event in heard.new] == [13, 79]
    assert (first.source, first.uuid, first.pci_bus_id, first.pid) == ("kernel", "", "0000:07:00", 7)
    assert abs(first.at_ns - unix_ns()) < 10e9


async def test_a_line_that_comes_in_parts(tmp_path):
    path = tmp_path / "kmsg"
    os.mkfifo(path)
    async with following(path) as heard:
        await heard.until(lambda: heard.log.feature.enabled)
        with path.open("w") as writer:
            for part in (LINE[:9], LINE[9:].format(xid=31)):
                writer.write(part)
                writer.flush()
                await heard.until(lambda: heard.log._rest or heard.new)
        await heard.until(lambda: heard.new)
    assert heard.new[0].xid == 31


async def test_a_file_that_grows_is_cut_and_is_rotated(tmp_path):
    path = tmp_path / "kern.log"
    path.write_text(LINE.format(xid=1))
    async with following(path) as heard:
        await heard.until(lambda: heard.log.feature.enabled)
        with path.open("a") as writer:
            writer.write(LINE.format(xid=2))
        await heard.until(lambda: len(heard.new) == 1)
        path.rename(tmp_path / "kern.log.1")
        path.write_text(LINE.format(xid=3))
        await heard.until(lambda: len(heard.new) == 2)
        path.write_text("NVRM: Xid (")  # cut: shorter than what was read of it
        await heard.until(lambda: heard.log._rest)
        with path.open("a") as writer:
            writer.write(LINE.format(xid=4).removeprefix("NVRM: Xid ("))
        await heard.until(lambda: len(heard.new) == 3)
    assert [event.xid for event in heard.new] == [2, 3, 4]


async def test_one_that_is_absent_says_so_and_is_read_from_its_beginning_when_it_comes(tmp_path):
    path = tmp_path / "kern.log"
    async with following(path) as heard:
        await heard.until(lambda: "does not exist" in heard.log.feature.reason)
        assert not heard.log.feature.enabled
        assert "mount" in heard.log.feature.reason
        fresh = tmp_path / "fresh"
        fresh.write_text(LINE.format(xid=79))
        fresh.rename(path)
        await heard.until(lambda: heard.new)
    assert heard.log.feature.enabled
    assert heard.log.feature.reason == ""


async def test_one_that_may_not_be_read(tmp_path):
    heard = Heard(tmp_path)  # a folder: it opens, and cannot be read
    async with anyio.create_task_group() as group:
        group.start_soon(heard.log.run)
        await heard.until(lambda: "cannot be read" in heard.log.feature.reason)
        group.cancel_scope.cancel()
    heard.log._say(PermissionError(1, "Operation not permitted"))
    assert "CAP_SYSLOG" in heard.log.feature.reason
    assert "Xids" in heard.log.feature.reason


def record(sequence, at_us, message, priority=3):
    return f"{priority},{sequence},{at_us},-;{message}".encode()


def test_records_before_the_start_are_history_and_programs_are_not_believed(tmp_path):
    heard = Heard(tmp_path)
    now_us = boot_ns() // 1000
    said = [
        record(1, now_us - 60_000_000, LINE.format(xid=48)),
        record(2, now_us + 1000, LINE.format(xid=79)),
        record(3, now_us + 1000, LINE.format(xid=62), priority=12),
        record(4, now_us, "usb 1-1: new device"),
    ]
    found = [event for data in said for event in heard.log._record(data)]
    heard.log._hand_over(found)
    assert [event.xid for event in heard.old] == [48]
    assert [event.xid for event in heard.new] == [79]
    assert abs(heard.old[0].at_ns - (unix_ns() - 60e9)) < 5e9


def test_records_that_were_overwritten_are_counted_and_none_is_told_twice(tmp_path):
    heard = Heard(tmp_path)
    now_us = boot_ns() // 1000
    for sequence in (5, 6, 10, 6, 10, 11):
        heard.log._hand_over(list(heard.log._record(record(sequence, now_us + 1000, LINE.format(xid=79)))))
    assert heard.log.lost_lines == 3
    assert len(heard.new) == 4
    assert list(heard.log._record(b"gibberish")) == []


def kernels_own():
    try:
        os.close(os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK))
    except OSError as error:
        return str(error)
    return ""


@pytest.mark.skipif(bool(kernels_own()), reason=f"the kernel log cannot be read here: {kernels_own()}")
async def test_the_kernels_own_log():
    """Every record that it has is read, to the end, and then it is waited for more."""
    async with following("/dev/kmsg") as heard:
        await heard.until(lambda: heard.log.feature.enabled)
        assert heard.log._sequence is not None
    assert heard.new == []
