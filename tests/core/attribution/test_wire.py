"""The reader against Google's encoder, and against damage."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.attribution.wire import Message, read
from tests.support.kubelet import MESSAGES


@given(st.text(), st.text(), st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5))
def test_what_the_library_writes_is_read(name: str, namespace: str, cpus: list[int]) -> None:
    written = MESSAGES["PodResources"](name=name, namespace=namespace, cpu_ids=cpus)
    written.containers.add(name=name)
    found = read(written.SerializeToString())
    assert (found.text(1), found.text(2)) == (name, namespace)
    assert [one.text(1) for one in found.messages(3)] == [name]
    assert found.messages(5) == []


def test_every_kind_of_field() -> None:
    raw = b"\x08\x96\x01" + b"\x11" + bytes(8) + b"\x1a\x02hi" + b"\x1a\x00" + b"\x25" + bytes(4)
    found = read(raw)
    assert found == Message({2: [bytes(8)], 3: [b"hi", b""], 4: [bytes(4)]}, {1: [150]})
    assert found.texts(3) == ["hi", ""]
    assert found.text(3) == ""
    assert found.text(9) == ""


@pytest.mark.parametrize(
    "raw",
    [
        *(b"\x80", b"\xff" * 11, b"\x0a\x05abc", b"\x0a", b"\x0b", b"\x0c", b"\x0e\x01", b"\x09\x00"),
        *(b"\x08", b"\x08\x80", b"\x0a\xff\xff\xff\x7fx"),
    ],
    ids=bytes.hex,
)
def test_damage_is_an_error(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read(raw)


def test_text_that_is_none() -> None:
    with pytest.raises(ValueError, match="utf-8"):
        read(b"\x0a\x01\xff").text(1)
    with pytest.raises(ValueError, match="utf-8"):
        read(b"\x0a\x01\xff").texts(1)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    try:
        read(raw).texts(1)
    except ValueError:
        pass
