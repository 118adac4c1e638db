"""Letters to a real stream and back; what a crash between the steps leaves behind."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.http_outcome import REASON_CHARACTERS
from agent.delivery.deadletters import VERSION, DeadLetter, DeadLetters, Refused, read_letter, replay
from tests.support.streams import two_streams


async def test_a_letter_has_everything_and_is_durable_when_buried(tmp_path: Path):
    async with two_streams(tmp_path) as (_items, dead):
        letters = DeadLetters(dead, "items", "elastic", now_ns=lambda: 123)
        assert await letters.bury([Refused(7, b"\x00bytes\xff", "no\nway" + "x" * 999), Refused(9, b"", "")]) == []
        assert dead.state().accepted == 2
        batch = await dead.read(10, 1000)
        first, second = map(read_letter, batch.items)
    assert (first.version, first.stream, first.destination, first.at_ns) == (VERSION, "items", "elastic", 123)
    assert (first.sequence, first.item, second.sequence, second.item) == (7, b"\x00bytes\xff", 9, b"")
    assert first.reason.startswith("no way")
    assert len(first.reason) <= REASON_CHARACTERS


async def test_an_item_too_large_for_a_letter_is_named_and_the_others_are_buried(tmp_path: Path):
    async with two_streams(tmp_path) as (items, dead):
        largest = b"x" * (64 << 10)
        while True:
            try:
                items.put([largest])
                break
            except ValueError:
                largest = largest[:-1]  # so large that it just fits into a stream
        letters = DeadLetters(dead, "items", "elastic")
        refused = [Refused(1, b"small", "r"), Refused(2, largest, "r"), Refused(3, b"small", "r")]
        assert await letters.bury(refused) == [2]
        batch = await dead.read(10, 1 << 20)
        found = [read_letter(item).sequence for item in batch.items]
        found += [read_letter(item).sequence for item in (await dead.read(10, 1 << 20)).items] if len(found) < 2 else []
        assert found == [1, 3]


async def test_replay_gives_the_items_back_and_takes_the_letters_out(tmp_path: Path):
    async with two_streams(tmp_path) as (items, dead):
        await DeadLetters(dead, "items", "d").bury([Refused(1, b"one", "r"), Refused(2, b"two", "r")])
        batch = await dead.read(10, 1000)
        letters = [read_letter(item) for item in batch.items]
        assert await replay(batch.sequences, letters, dead, items) == 2
        assert (await items.read(10, 1000)).items == [b"one", b"two"]
        assert (dead.state().waiting, dead.state().results) == (0, {"delivered": 2})
        assert await replay([], [], dead, items) == 0


class Crashing:
    """A stream in front of which the process ends at the given call."""

    def __init__(self, at: str) -> None:
        self.at, self.did = at, []

    async def append(self, items) -> None:
        self._do("append")

    def settle(self, sequences, result) -> None:
        self._do("settle")

    def _do(self, what: str) -> None:
        if what == self.at:
            raise KeyboardInterrupt
        self.did.append(what)


@pytest.mark.parametrize(("source", "dead", "left"), [("append", "", ([], [])), ("", "settle", (["append"], []))])
async def test_a_crash_in_a_replay_leaves_a_copy_too_many_never_one_too_few(source, dead, left):
    letter = DeadLetter(stream="s", destination="d", reason="r", at_ns=1, sequence=1, item=b"i")
    to, out = Crashing(source), Crashing(dead)
    with pytest.raises(KeyboardInterrupt):
        await replay([5], [letter], out, to)
    assert (to.did, out.did) == left


def test_newer_letters_and_what_is_none_are_refused_in_words():
    letter = DeadLetter(stream="s", destination="d", reason="r", at_ns=1, sequence=1, item=b"i")
    newer = msgspec.msgpack.encode(msgspec.structs.replace(letter, version=VERSION + 1))
    with pytest.raises(ValueError, match="update it"):
        read_letter(newer)
    with pytest.raises(ValueError, match="not a dead letter"):
        read_letter(b"\xc1")


def test_a_letter_with_more_fields_is_read():
    made = {"stream": "s", "destination": "d", "reason": "r", "at_ns": 1, "sequence": 2, "item": b"i", "more": [1]}
    assert read_letter(msgspec.msgpack.encode(made)).item == b"i"


@given(st.binary(max_size=200))
def test_no_bytes_break_it(data):
    try:
        read_letter(data)
    except ValueError:
        pass
