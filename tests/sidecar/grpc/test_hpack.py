"""Header blocks of ours are read by the library, and the library's by ours, also when they are remembered."""

from hpack import Decoder, Encoder, HeaderTuple, NeverIndexedHeaderTuple
from hypothesis import given
from hypothesis import strategies as st

from agent.sidecar.grpc.hpack import BlockDecoder, BlockEncoder

NAMES = st.sampled_from((b":status", b"content-type", b"x-a", b"grpc-status", b"authorization", b"x-request-id"))
PAIRS = st.tuples(NAMES, st.one_of(st.sampled_from((b"200", b"a", b"")), st.binary(max_size=400)))
BLOCKS = st.lists(st.lists(PAIRS, max_size=6), max_size=12)


@given(BLOCKS)
def test_what_is_encoded_is_decoded(blocks: list[list[tuple[bytes, bytes]]]) -> None:
    encoder, decoder = BlockEncoder(), Decoder()
    for block in blocks:
        assert [tuple(pair) for pair in decoder.decode(encoder.encode(block), raw=True)] == block


@given(BLOCKS, st.integers(0, 4096))
def test_what_the_library_encodes_is_decoded(blocks: list[list[tuple[bytes, bytes]]], size: int) -> None:
    encoder, decoder = Encoder(), BlockDecoder(1 << 20)
    for index, block in enumerate(blocks):
        if index == len(blocks) // 2:
            encoder.header_table_size = size
        for _ in range(3):
            assert [tuple(pair) for pair in decoder.decode(encoder.encode(block))] == block


@given(BLOCKS)
def test_blocks_that_leave_the_table_alone_are_remembered(blocks: list[list[tuple[bytes, bytes]]]) -> None:
    encoder, decoder = Encoder(), BlockDecoder(1 << 20)
    for block in blocks:
        secret = [NeverIndexedHeaderTuple(*pair) for pair in block]
        plain = [HeaderTuple(*pair) for pair in block]
        for each in (secret, plain, secret, plain):
            assert [tuple(pair) for pair in decoder.decode(encoder.encode(each))] == block


def test_no_value_is_left_in_the_other_sides_table() -> None:
    encoder, decoder = BlockEncoder(), Decoder()
    decoder.decode(encoder.encode([(b"authorization", b"Bearer secret"), (b"x-a", b"1")]), raw=True)
    assert not decoder.header_table.dynamic_entries
