"""What is read of messages: Triton's and DeepSpeed-MII's, made by the real protobuf library."""

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from agent.core.requests import Usage
from agent.sidecar.grpc.messages import Message
from agent.sidecar.grpc.tokens import HEAD_BYTES, MiiReading, Reading, is_recorded, reading_for
from tests.support.triton import empty_final, mii_messages, token

INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
MII = "/modelresponse.ModelResponse/GeneratorReply"


def message(value: Any) -> Message:
    data = value.SerializeToString()
    return Message(data[:HEAD_BYTES], len(data), False)


def ask(prompt: bytes, model: str = "llm") -> Any:
    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name="text_input", datatype="BYTES", shape=[1])
    request.raw_input_contents.append(struct.pack("<I", len(prompt)) + prompt)
    request.inputs.add(name="max_tokens", datatype="INT32", shape=[1])
    request.raw_input_contents.append(struct.pack("<i", 128))
    return request


@pytest.mark.parametrize(
    ("path", "recorded"),
    [
        (INFER, True),
        (STREAM, True),
        ("/inference.GRPCInferenceService/ServerLive", False),
        ("/inference.GRPCInferenceService/ModelStatistics", False),
        ("/inference.GRPCInferenceService/CudaSharedMemoryRegister", False),
        ("/grpc.health.v1.Health/Check", False),
        ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", False),
        (MII, True),
        (MII + "Stream", True),
        ("/modelresponse.ModelResponse/Terminate", False),
        ("/somebody.Else/Does", True),
    ],
)
def test_what_is_recorded(path: str, recorded: bool) -> None:
    assert is_recorded(path) is recorded


def test_a_request_to_triton() -> None:
    reading = reading_for(INFER)
    reading.request(message(ask(b"x" * 396)))
    assert (reading.model, reading.input_tokens, reading.max_output_tokens) == ("llm", 100, 128)
    assert not reading.streamed


def test_the_model_is_read_from_the_first_bytes() -> None:
    reading = reading_for(INFER)
    reading.request(Message(ask(b"x" * 396).SerializeToString()[:10], 500, False))
    assert reading.model == "llm"


def test_numbers_in_tensors_are_no_text() -> None:
    request = service_pb2.ModelInferRequest(model_name="resnet")
    request.inputs.add(name="image", datatype="FP32", shape=[1000])
    request.raw_input_contents.append(b"\0" * 4000)
    reading = reading_for(INFER)
    reading.request(message(request))
    assert (reading.input_tokens, reading.max_output_tokens) == (0, None)


def test_answers_of_a_decoupled_model_are_tokens() -> None:
    reading = reading_for(STREAM)
    reading.request(message(ask(b"hello")))
    reading.request_counted(1)
    for number in range(5):
        reading.response(message(token("llm", "t", final=False)), 100 + number)
        assert not reading.answered
    reading.response(message(empty_final("llm")), 200)
    assert reading.answered
    assert reading.streamed
    assert reading.first_token_at_ns == 100
    assert reading.usage() == Usage(output_tokens=5, source="counted")
    assert reading.output_tokens() == 5


def test_one_answer_for_each_request_is_no_token() -> None:
    reading = reading_for(STREAM)
    reading.request_counted(2)
    reading.response(message(token("resnet", "t")), 1)
    reading.response(message(token("resnet", "t", final=True)), 2)
    assert reading.usage() == Usage()
    assert reading.output_tokens() is None
    assert (reading.first_token_at_ns, reading.model) == (1, "resnet")


def test_more_answers_than_requests_are_tokens_too() -> None:
    reading = reading_for(STREAM)
    reading.request_counted(1)
    reading.response(message(token("llm", "a")), 1)
    reading.response(message(token("llm", "b")), 2)
    assert reading.usage() == Usage(output_tokens=2, source="counted")


def test_an_error_told_in_a_stream() -> None:
    reading = reading_for(STREAM)
    reading.response(message(service_pb2.ModelStreamInferResponse(error_message="no such model")), 1)
    assert (reading.error, reading.first_token_at_ns) == ("no such model", None)


def test_a_reply_of_mii_tells_its_tokens() -> None:
    request_type, reply_type = mii_messages()
    request = request_type(request=["x" * 40, "y" * 40])
    request.query_kwargs["max_new_tokens"].ivalue = 64
    reading = reading_for(MII)
    reading.request(message(request))
    assert (reading.input_tokens, reading.max_output_tokens) == (20, 64)
    reply = reply_type()
    reply.response.add(
        response="a", finish_reason="stop", prompt_tokens=9, generated_tokens=5, time_taken=-1, model_time_taken=-1
    )
    reply.response.add(response="b", finish_reason="length", prompt_tokens=8, generated_tokens=7)
    reading.response(message(reply), 1)
    assert reading.usage() == Usage(input_tokens=17, output_tokens=12, source="reported")
    assert (reading.finish_reason, reading.first_token_at_ns) == ("length", None)


def test_a_stream_of_mii_counts_up() -> None:
    _, reply_type = mii_messages()
    reading = reading_for(MII + "Stream")
    for count, (piece, reason) in enumerate((("a", "none"), ("b", "none"), ("c", "none")), 1):
        reply = reply_type()
        reply.response.add(response=piece, finish_reason=reason, prompt_tokens=9, generated_tokens=count)
        reading.response(message(reply), count)
        assert reading.output_tokens() == count
    last = reply_type()
    last.response.add(response="", finish_reason="stop", prompt_tokens=9, generated_tokens=3)
    reading.response(message(last), 9)
    assert reading.usage() == Usage(input_tokens=9, output_tokens=3, source="reported")
    assert (reading.finish_reason, reading.first_token_at_ns) == ("stop", 1)


def test_a_reply_too_long_to_be_read_tells_nothing() -> None:
    _, reply_type = mii_messages()
    reply = reply_type()
    reply.response.add(response="x" * (HEAD_BYTES + 1), prompt_tokens=9, generated_tokens=5)
    reading = MiiReading(streamed=False)
    reading.response(message(reply), 1)
    assert reading.usage() == Usage()


@given(st.binary(max_size=300), st.sampled_from((INFER, STREAM, MII, MII + "Stream", "/x.Y/Z")))
def test_no_message_breaks_a_reading(data: bytes, path: str) -> None:
    reading: Reading = reading_for(path)
    reading.request(Message(data, len(data), False))
    reading.request_counted(1)
    reading.response(Message(data, len(data) + 1, False), 1)
    reading.output_tokens()
    assert isinstance(reading.usage(), Usage)
