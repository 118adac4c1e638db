"""Messages found in DATA, however it is cut."""

from hypothesis import given
from hypothesis import strategies as st

from agent.sidecar.grpc.messages import Message, MessageReader

CAPTURE = 16


def framed(body: bytes, *, compressed: bool = False) -> bytes:
    return bytes([compressed]) + len(body).to_bytes(4) + body


@given(
    st.lists(st.tuples(st.binary(max_size=60), st.booleans()), max_size=8),
    st.lists(st.integers(1, 30), max_size=60),
)
def test_messages_are_found_whatever_the_pieces(bodies: list[tuple[bytes, bool]], cuts: list[int]) -> None:
    data = b"".join(framed(body, compressed=compressed) for body, compressed in bodies)
    reader = MessageReader(CAPTURE)
    found: list[Message] = []
    at = 0
    for size in cuts:
        found += reader.feed(data[at : at + size])
        at += size
    found += reader.feed(data[at:])
    assert found == [Message(body[:CAPTURE], len(body), compressed) for body, compressed in bodies]
    assert reader.count == len(bodies)
    assert not reader.amid


def test_the_beginning_of_a_long_message_is_there_early() -> None:
    reader = MessageReader(CAPTURE)
    assert reader.feed(framed(b"0123456789" * 10)[:3]) == []
    assert reader.amid
    assert reader.coming is None
    assert reader.feed(framed(b"0123456789" * 10)[3:12]) == []
    assert reader.coming == Message(b"0123456", 100, False)
    assert not Message(b"0123456", 100, False).whole
