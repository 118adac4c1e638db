"""The file of requests in flight: what it holds after a kill, what it makes of garbage, and what it costs."""

import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.ports import ConfigError
from agent.sidecar.ids import RANDOM_BITS, RequestId, uuid7
from agent.sidecar.records.inflight import (
    FILE_NAME,
    HEADER_BYTES,
    NOT_TRACKED,
    SLOT_BYTES,
    InFlight,
    LostRequest,
    open_inflight,
)

NS = 1_000_000_000
NOW = 1_795_000_000 * NS + 123_456_789
DICE = random.Random(4)


def new_id(now_ns: int = NOW) -> RequestId:
    return uuid7(now_ns, DICE.getrandbits(RANDOM_BITS))


def reopened(inflight: InFlight, now_ns: int = NOW + 60 * NS, **sizes: int) -> InFlight:
    """What the next start finds; the killed one's map is only dropped, as the kernel does."""
    return open_inflight(inflight.file.parent, "me", now_ns, **sizes)


def test_what_was_begun_and_not_released_is_left_with_all_that_was_told(tmp_path: Path) -> None:
    inflight = open_inflight(tmp_path, "me", NOW)
    ids = [new_id() for _ in range(4)]
    slots = [inflight.begin(id_.hex, NOW, "/v1/chat/completions", "acme") for id_ in ids]
    inflight.tell(slots[1], "10.0.0.1:8000", "llama")
    inflight.alive(NOW + 5 * NS)
    inflight.ended(slots[2], 7)
    inflight.ended(slots[3], 8)
    inflight.release(7)
    assert inflight.taken == 3
    left = reopened(inflight).left
    common = {"started_at_ns": NOW, "ended_at_ns": NOW + 5 * NS, "path": "/v1/chat/completions", "tenant": "acme"}
    assert left == [
        LostRequest(slot=slots[0], id=ids[0].text, model=None, upstream=None, **common),
        LostRequest(slot=slots[1], id=ids[1].text, model="llama", upstream="10.0.0.1:8000", **common),
        LostRequest(slot=slots[3], id=ids[3].text, model=None, upstream=None, **common),
    ]


def test_an_end_that_was_dropped_or_found_elsewhere_lets_go_at_once(tmp_path: Path) -> None:
    inflight = open_inflight(tmp_path, "me", NOW)
    slot = inflight.begin(new_id().hex, NOW, "/")
    inflight.ended(slot, 0)
    assert inflight.taken == 0
    assert reopened(inflight).left == []


def test_a_request_that_nobody_saw_alive_ended_when_it_began(tmp_path: Path) -> None:
    inflight = open_inflight(tmp_path, "me", NOW)
    inflight.alive(NOW)
    inflight.begin(new_id(NOW + NS).hex, NOW + NS, "/")
    assert [lost.ended_at_ns for lost in reopened(inflight).left] == [NOW + NS]


def test_a_second_kill_does_not_make_the_first_ones_requests_run_longer(tmp_path: Path) -> None:
    first = open_inflight(tmp_path, "me", NOW)
    old = new_id()
    first.begin(old.hex, NOW, "/")
    first.alive(NOW + NS)
    second = reopened(first)
    young = new_id(NOW + 60 * NS)
    second.begin(young.hex, NOW + 60 * NS, "/")
    second.alive(NOW + 70 * NS)
    third = reopened(second, NOW + 100 * NS)
    ended = {lost.id: lost.ended_at_ns for lost in third.left}
    assert ended == {old.text: NOW + NS, young.text: NOW + 70 * NS}
    for lost in third.left:
        third.ended(lost.slot, 1)
    third.release(1)
    assert reopened(third).left == []


def test_the_number_up_to_which_all_is_released_survives(tmp_path: Path) -> None:
    inflight = open_inflight(tmp_path, "me", NOW)
    inflight.release(41)
    inflight.release(40)
    assert reopened(inflight).released_through == 41


@pytest.mark.parametrize("name", ["node-17:9480", "n" * 256, "名" * 256, "😀" * 256])
def test_who_left_them_is_known(tmp_path: Path, name: str) -> None:
    """What is left in a folder may be told by another sidecar, but in the name of the one that was killed."""
    killed = open_inflight(tmp_path, name, NOW)
    assert killed.left_by == name
    killed.begin(new_id().hex, NOW, "/")
    assert reopened(killed).left_by == name
    assert reopened(killed).left_by == "me"


def test_it_grows_by_doubling_up_to_its_bound_and_then_counts(tmp_path: Path) -> None:
    inflight = open_inflight(tmp_path, "me", NOW, first_slots=2, most_slots=5)
    ids = [new_id() for _ in range(7)]
    slots = [inflight.begin(id_.hex, NOW, "/") for id_ in ids]
    assert slots == [0, 1, 2, 3, 4, NOT_TRACKED, NOT_TRACKED]
    assert (inflight.slots, inflight.taken, inflight.untracked) == (5, 5, 2)
    for slot in slots:  # one that has no slot can be told of as any other
        inflight.tell(slot, "u", "m")
        inflight.ended(slot, 3)
    assert len(reopened(inflight, first_slots=2, most_slots=5).left) == 5
    inflight.release(3)
    assert inflight.taken == 0


def test_the_same_few_slots_are_used_again_and_again(tmp_path: Path) -> None:
    inflight = open_inflight(tmp_path, "me", NOW)
    used = set()
    for number in range(1, 100):
        slot = inflight.begin(new_id().hex, NOW, "/")
        used.add(slot)
        inflight.ended(slot, number)
        inflight.release(number)
    assert used == {0}


def test_texts_are_cut_and_names_that_do_not_fit_are_left_out(tmp_path: Path) -> None:
    """A cut tenant, or address, would be another one; a path and a model are only shown."""
    inflight = open_inflight(tmp_path, "me", NOW)
    one = inflight.begin(new_id().hex, NOW, "/" + "ü" * 100, "漢" * 64)
    inflight.tell(one, "h" * 80, "m" * 200)
    two = inflight.begin(new_id().hex, NOW, "/a\x00b\n", "😀" * 64)
    inflight.tell(two, "h" * 81, "")
    first, second = reopened(inflight).left
    assert first.path == "/" + "ü" * 35
    assert (first.tenant, first.upstream, first.model) == ("漢" * 64, "h" * 80, "m" * 128)
    assert (second.path, second.tenant, second.upstream, second.model) == ("/ab", None, None, None)


def test_a_request_that_is_told_again_has_the_last_upstream(tmp_path: Path) -> None:
    inflight = open_inflight(tmp_path, "me", NOW)
    slot = inflight.begin(new_id().hex, NOW, "/")
    inflight.tell(slot, "a-long-name:8000", "model")
    inflight.tell(slot, "b:1", "m")
    (lost,) = reopened(inflight).left
    assert (lost.upstream, lost.model) == ("b:1", "m")


def test_what_a_slot_told_of_an_earlier_request_is_not_told_of_the_next(tmp_path: Path) -> None:
    inflight = open_inflight(tmp_path, "me", NOW)
    slot = inflight.begin(new_id().hex, NOW, "/long/path", "acme")
    inflight.tell(slot, "a:1", "m")
    inflight.ended(slot, 0)
    assert inflight.begin(new_id().hex, NOW, "/") == slot
    (lost,) = reopened(inflight).left
    assert (lost.path, lost.tenant, lost.upstream, lost.model) == ("/", None, None, None)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 40),
    st.lists(st.tuples(st.integers(0, HEADER_BYTES + 8 * SLOT_BYTES - 1), st.binary(min_size=1, max_size=64))),
)
def test_a_torn_file_is_never_the_end(tmp_path_factory: pytest.TempPathFactory, cut: int, dirt: list) -> None:
    """Whatever a power cut left: it opens, what it tells can be, and it works as new."""
    folder = tmp_path_factory.mktemp("torn")
    inflight = open_inflight(folder, "me", NOW, first_slots=8)
    ids = {new_id().text: None for _ in range(6)}
    for text in ids:
        inflight.tell(inflight.begin(text.replace("-", ""), NOW, "/v1/completions", "acme"), "a:1", "m")
    inflight.close()
    content = bytearray((folder / FILE_NAME).read_bytes())
    for at, piece in dirt:
        content[at : at + len(piece)] = piece
    (folder / FILE_NAME).write_bytes(content[: max(0, len(content) - cut * 100)])
    try:
        found = open_inflight(folder, "me", NOW + NS, first_slots=8)
    except ConfigError:
        assert int.from_bytes(content[8:12], "little") > 1, "only a newer format is refused"
        return
    assert len({lost.slot for lost in found.left}) == len(found.left)
    for lost in found.left:
        assert lost.started_at_ns <= lost.ended_at_ns <= lost.started_at_ns + 24 * 3600 * NS
        assert all(text is None or text.isprintable() for text in lost[4:])
    if not dirt and not cut:
        assert {lost.id for lost in found.left} == set(ids)
    taken = {lost.slot for lost in found.left}
    assert found.begin(new_id().hex, NOW, "/") not in taken
    found.close()


def test_slots_that_cannot_be_are_counted_and_free_again(tmp_path: Path) -> None:
    inflight = open_inflight(tmp_path, "me", NOW, first_slots=4)
    for _ in range(3):
        inflight.begin(new_id().hex, NOW, "/")
    inflight.begin(uuid7(NOW - 3600 * NS, 1).hex, NOW, "/")  # its id was made at another time
    inflight.close()
    file = tmp_path / FILE_NAME
    content = bytearray(file.read_bytes())
    content[HEADER_BYTES + 16 : HEADER_BYTES + 32] = bytes(16)
    content[HEADER_BYTES + SLOT_BYTES] = 7
    file.write_bytes(content)
    found = open_inflight(tmp_path, "me", NOW)
    assert (found.unreadable, [lost.slot for lost in found.left]) == (3, [2])
    assert found.taken == 1
    found.close()
    assert open_inflight(tmp_path, "me", NOW).unreadable == 0


def test_a_file_that_is_not_ours_is_counted_and_replaced(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"hello" * 10)
    inflight = open_inflight(tmp_path, "me", NOW)
    assert (inflight.unreadable, inflight.left) == (1, [])
    inflight.begin(new_id().hex, NOW, "/")
    assert (reopened(inflight).unreadable, len(reopened(inflight).left)) == (0, 1)


def test_a_newer_format_is_refused_with_a_remedy(tmp_path: Path) -> None:
    open_inflight(tmp_path, "me", NOW).close()
    file = tmp_path / FILE_NAME
    content = bytearray(file.read_bytes())
    content[8] = 2
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="newer engineroom") as raised:
        open_inflight(tmp_path, "me", NOW)
    assert raised.value.key == "sidecar.spool_dir"


def test_a_file_that_cannot_be_opened_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(ConfigError, match="cannot be used"):
        open_inflight(tmp_path, "me", NOW)


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """The kernel refuses to make any file of this process larger."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_where_the_file_cannot_grow_requests_go_on_untracked_until_it_can(tmp_path: Path) -> None:
    with no_file_above(1 << 20):
        inflight = open_inflight(tmp_path, "me", NOW, first_slots=4096)
        assert [inflight.begin(new_id().hex, NOW, "/") for _ in range(2)] == [NOT_TRACKED] * 2
    assert inflight.begin(new_id().hex, NOW, "/") == NOT_TRACKED, "not tried again for every request"
    inflight.alive(NOW)
    assert inflight.begin(new_id().hex, NOW, "/") == 0
    assert inflight.untracked == 3
    assert len(reopened(inflight).left) == 1


def test_after_its_end_it_takes_nothing_and_fails_nothing(tmp_path: Path) -> None:
    inflight = open_inflight(tmp_path, "me", NOW)
    slot = inflight.begin(new_id().hex, NOW, "/")
    inflight.close()
    inflight.close()
    inflight.tell(slot, "u", "m")
    inflight.ended(slot, 1)
    inflight.release(1)
    inflight.alive(NOW)
    assert inflight.begin(new_id().hex, NOW, "/") == NOT_TRACKED
    assert len(open_inflight(tmp_path, "me", NOW).left) == 1
