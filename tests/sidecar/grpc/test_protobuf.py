"""Fields of protobuf messages: the real library's bytes, cut anywhere, and garbage."""

from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from agent.sidecar.grpc.protobuf import Field, fields, text, varint


def test_fields_of_a_real_message() -> None:
    data = service_pb2.ModelInferRequest(model_name="llm", id="7", raw_input_contents=[b"abc"]).SerializeToString()
    found = list(fields(data))
    assert [field.number for field in found] == [1, 3, 7]
    assert [text(data, field) for field in found] == ["llm", "7", "abc"]


def test_numbers_of_every_kind() -> None:
    message = service_pb2.InferParameter
    assert next(fields(message(int64_param=300).SerializeToString())) == Field(2, 300)
    assert next(fields(message(bool_param=True).SerializeToString())) == Field(1, 1)
    assert next(fields(message(double_param=1.0).SerializeToString())).number == 4


@given(st.integers(0, 2**64 - 1))
def test_varints(value: int) -> None:
    data = service_pb2.InferParameter(uint64_param=value).SerializeToString()
    assert varint(data, 1, len(data)) == (value, len(data))


@given(st.text(max_size=20), st.binary(max_size=300), st.integers(0, 400))
def test_a_cut_message_gives_what_is_there(name: str, content: bytes, cut: int) -> None:
    data = service_pb2.ModelInferRequest(model_name=name, raw_input_contents=[content]).SerializeToString()
    whole = list(fields(data))
    for got, expected in zip(fields(data[:cut]), whole, strict=False):
        assert got.number == expected.number
        assert got.value == expected.value
        assert not got.whole or data[got.start : got.stop] == data[expected.start : expected.stop]


@given(st.binary(max_size=200))
def test_garbage_ends(data: bytes) -> None:
    for field in fields(data):
        assert 0 <= field.start <= field.stop <= len(data)
        text(data, field)
