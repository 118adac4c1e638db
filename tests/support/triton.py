"""A scripted Triton: a real gRPC server (grpcio) with Triton's own service definition; messages of DeepSpeed-MII."""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import grpc
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.support.upstream import WAIT_SECONDS

T = TypeVar("T")
Infer = Callable[[Any, grpc.ServicerContext], Any]
Stream = Callable[[Iterator[Any], grpc.ServicerContext], Iterator[Any]]
BIG = 256 * 2**20
STOP_SECONDS = 5


def echo(request: Any, _: grpc.ServicerContext) -> Any:
    """Every input comes back as an output of the same name."""
    answer = service_pb2.ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
    for tensor in request.inputs:
        answer.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    answer.raw_output_contents.extend(request.raw_input_contents)
    return answer


def token(model: str, text: str, request_id: str = "", *, final: bool | None = None) -> Any:
    """One answer of a stream with a text in it; `final` as a decoupled model says it."""
    answer = service_pb2.ModelInferResponse(model_name=model, model_version="1", id=request_id)
    answer.outputs.add(name="text_output", datatype="BYTES", shape=[1])
    data = text.encode()
    answer.raw_output_contents.append(len(data).to_bytes(4, "little") + data)
    if final is not None:
        answer.parameters["triton_final_response"].bool_param = final
    return service_pb2.ModelStreamInferResponse(infer_response=answer)


def empty_final(model: str, request_id: str = "") -> Any:
    """The answer without outputs that ends a decoupled model's answers, for clients that ask for it."""
    answer = service_pb2.ModelInferResponse(model_name=model, model_version="1", id=request_id)
    answer.parameters["triton_final_response"].bool_param = True
    return service_pb2.ModelStreamInferResponse(infer_response=answer)


def decoupled(count: int) -> Stream:
    """Each request gets `count` tokens and an empty final answer."""

    def stream(requests: Iterator[Any], _: grpc.ServicerContext) -> Iterator[Any]:
        for request in requests:
            for number in range(count):
                yield token(request.model_name, f"t{number}", request.id, final=False)
            yield empty_final(request.model_name, request.id)

    return stream


@dataclass(slots=True)
class ScriptedTriton:
    """A server that runs; what it has seen."""

    port: int = 0
    infer: Infer = echo
    stream: Stream = field(default_factory=lambda: decoupled(3))
    metadata: list[dict[str, str | bytes]] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)
    server: Any = None

    secure: bool = False
    path: str | None = None  # of its socket

    @property
    def url(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        return f"https://localhost:{self.port}" if self.secure else f"http://127.0.0.1:{self.port}"

    def watch(self, context: grpc.ServicerContext) -> None:
        """Note when this call ends before the script does."""
        self.metadata.append(dict(context.invocation_metadata()))
        context.add_callback(self.cancelled.set)


class _Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):
    def __init__(self, state: ScriptedTriton) -> None:
        self.state = state

    def ServerLive(self, _request: Any, _context: grpc.ServicerContext) -> Any:  # noqa: N802 - gRPC's name
        return service_pb2.ServerLiveResponse(live=True)

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 - gRPC's name
        self.state.watch(context)
        return self.state.infer(request, context)

    def ModelStreamInfer(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: N802 - gRPC's name
        self.state.watch(context)
        yield from self.state.stream(requests, context)


@contextmanager
def triton(
    infer: Infer = echo,
    stream: Stream | None = None,
    *,
    port: int = 0,
    workers: int = 16,
    options: Sequence[tuple[str, Any]] = (),
    compression: grpc.Compression | None = None,
    credentials: grpc.ServerCredentials | None = None,
    path: str | None = None,
) -> Iterator[ScriptedTriton]:
    """A Triton that answers as the scripts say, on threads of its own; at `path` on a unix socket."""
    state = ScriptedTriton(infer=infer, stream=stream or decoupled(3), secure=credentials is not None, path=path)
    pool = futures.ThreadPoolExecutor(max_workers=workers)
    sizes = [("grpc.max_receive_message_length", BIG), ("grpc.max_send_message_length", BIG), ("grpc.so_reuseport", 0)]
    state.server = grpc.server(pool, options=[*sizes, *options], compression=compression)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Servicer(state), state.server)
    if credentials is not None:
        state.port = state.server.add_secure_port(f"127.0.0.1:{port}", credentials)
    else:
        state.port = state.server.add_insecure_port(f"unix:{path}" if path is not None else f"127.0.0.1:{port}")
    state.server.start()
    try:
        yield state
    finally:
        state.server.stop(None).wait(STOP_SECONDS)
        pool.shutdown(wait=True)


async def in_thread(address: str, talk: Callable[[Any], T], **how: Any) -> T:
    """A tritonclient of its own on a thread, since it blocks. `how`: as it is made, such as with TLS."""
    from tritonclient.grpc import InferenceServerClient

    def run() -> T:
        with InferenceServerClient(address, **how) as client:
            return talk(client)

    return await anyio.to_thread.run_sync(run)


def streamed(client: Any, model: str, answers: int, headers: dict[str, str] | None = None) -> list[Any]:
    """What one question in a stream brings: so many answers, each a result or an error."""
    got: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: got.put(error or result), headers=headers)
    client.async_stream_infer(model, [text_input("hi")], enable_empty_final_response=True)
    found = [got.get(timeout=WAIT_SECONDS) for _ in range(answers)]
    client.stop_stream()
    return found


def text_input(text: str, name: str = "text_input") -> Any:
    """A tensor with one text, as tritonclient wants it."""
    from tritonclient.grpc import InferInput

    tensor = InferInput(name, [1], "BYTES")
    tensor.set_data_from_numpy(np.array([text.encode()], dtype=np.object_))
    return tensor


def array_input(array: Any, name: str = "data") -> Any:
    """A tensor of floats."""
    from tritonclient.grpc import InferInput

    tensor = InferInput(name, list(array.shape), "FP32")
    tensor.set_data_from_numpy(array)
    return tensor


def mii_messages() -> tuple[Any, Any]:
    """The classes MultiStringRequest and MultiGenerationReply of `modelresponse`, version 0.3.3."""
    pool = descriptor_pool.DescriptorPool()
    file = descriptor_pb2.FileDescriptorProto(name="mii.proto", package="modelresponse", syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto
    one, many = kinds.LABEL_OPTIONAL, kinds.LABEL_REPEATED
    value = file.message_type.add(name="Value")
    for number, (name, kind) in enumerate(
        (("svalue", kinds.TYPE_STRING), ("ivalue", kinds.TYPE_INT64), ("fvalue", kinds.TYPE_FLOAT)), 1
    ):
        value.field.add(name=name, number=number, type=kind, label=one)
    request = file.message_type.add(name="MultiStringRequest")
    request.field.add(name="request", number=1, type=kinds.TYPE_STRING, label=many)
    entry = request.nested_type.add(name="QueryKwargsEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=kinds.TYPE_STRING, label=one)
    entry.field.add(name="value", number=2, type=kinds.TYPE_MESSAGE, type_name=".modelresponse.Value", label=one)
    kwargs = ".modelresponse.MultiStringRequest.QueryKwargsEntry"
    request.field.add(name="query_kwargs", number=2, type=kinds.TYPE_MESSAGE, type_name=kwargs, label=many)
    reply = file.message_type.add(name="SingleGenerationReply")
    for number, (name, kind) in enumerate(
        (
            ("response", kinds.TYPE_STRING),
            ("finish_reason", kinds.TYPE_STRING),
            ("prompt_tokens", kinds.TYPE_INT64),
            ("generated_tokens", kinds.TYPE_INT64),
            ("time_taken", kinds.TYPE_FLOAT),
            ("model_time_taken", kinds.TYPE_FLOAT),
        ),
        1,
    ):
        reply.field.add(name=name, number=number, type=kind, label=one)
    replies = file.message_type.add(name="MultiGenerationReply")
    single = ".modelresponse.SingleGenerationReply"
    replies.field.add(name="response", number=1, type=kinds.TYPE_MESSAGE, type_name=single, label=many)
    pool.Add(file)
    found = [
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"modelresponse.{name}"))
        for name in ("MultiStringRequest", "MultiGenerationReply")
    ]
    return found[0], found[1]
