"""A kubelet's pod-resources service over a unix socket: a real gRPC server (grpcio), messages by the protobuf library.

The messages are declared here once more, and encoded by Google's library: our reader is judged by it, not by itself.
"""

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

Mode = Literal["ok", "stall", "error", "unimplemented", "list_only", "garbage"]
_KINDS = descriptor_pb2.FieldDescriptorProto
_STOP_SECONDS = 5


def _messages() -> dict[str, Any]:
    """k8s.io/kubelet/pkg/apis/podresources/v1/api.proto: message -> fields (name, number, type, repeated)."""
    text, number = _KINDS.TYPE_STRING, _KINDS.TYPE_INT64
    declared: dict[str, list[tuple[str, int, Any, bool]]] = {
        "ListPodResourcesResponse": [("pod_resources", 1, "PodResources", True)],
        "AllocatableResourcesResponse": [
            ("devices", 1, "ContainerDevices", True),
            ("cpu_ids", 2, number, True),
            ("memory", 3, "ContainerMemory", True),
        ],
        "PodResources": [
            ("name", 1, text, False),
            ("namespace", 2, text, False),
            ("containers", 3, "ContainerResources", True),
            ("cpu_ids", 4, number, True),
            ("memory", 5, "ContainerMemory", True),
        ],
        "ContainerResources": [
            ("name", 1, text, False),
            ("devices", 2, "ContainerDevices", True),
            ("cpu_ids", 3, number, True),
            ("memory", 4, "ContainerMemory", True),
            ("dynamic_resources", 5, "DynamicResource", True),
        ],
        "ContainerMemory": [("memory_type", 1, text, False), ("size", 2, _KINDS.TYPE_UINT64, False)],
        "ContainerDevices": [
            ("resource_name", 1, text, False),
            ("device_ids", 2, text, True),
            ("topology", 3, "TopologyInfo", False),
        ],
        "TopologyInfo": [("nodes", 1, "NUMANode", True)],
        "NUMANode": [("ID", 1, number, False)],
        "DynamicResource": [
            ("claim_name", 2, text, False),
            ("claim_namespace", 3, text, False),
            ("claim_resources", 4, "ClaimResource", True),
        ],
        "ClaimResource": [
            ("cdi_devices", 1, "CDIDevice", True),
            ("driver_name", 2, text, False),
            ("pool_name", 3, text, False),
            ("device_name", 4, text, False),
            ("share_id", 5, text, False),
        ],
        "CDIDevice": [("name", 1, text, False)],
    }
    file = descriptor_pb2.FileDescriptorProto(name="podresources.proto", package="v1", syntax="proto3")
    for name, fields in declared.items():
        message = file.message_type.add(name=name)
        for field_name, field_number, kind, repeated in fields:
            label = _KINDS.LABEL_REPEATED if repeated else _KINDS.LABEL_OPTIONAL
            if isinstance(kind, str):
                message.field.add(
                    name=field_name,
                    number=field_number,
                    type=_KINDS.TYPE_MESSAGE,
                    type_name=f".v1.{kind}",
                    label=label,
                )
            else:
                message.field.add(name=field_name, number=field_number, type=kind, label=label)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"v1.{name}")) for name in declared}


MESSAGES = _messages()


def pod(
    namespace: str, name: str, container: str, devices: dict[str, Sequence[str]], claims: Sequence[Any] = ()
) -> Any:
    """A pod with one container that has devices, and CPUs and memory as pods of class Guaranteed have."""
    answer = MESSAGES["PodResources"](name=name, namespace=namespace)
    one = answer.containers.add(name=container, cpu_ids=[0, 1, 300])
    one.memory.add(memory_type="memory", size=2**33)
    for resource, ids in devices.items():
        for device in ids:  # kubelet writes an entry for each device, with the node of its memory
            entry = one.devices.add(resource_name=resource, device_ids=[device])
            entry.topology.nodes.add(ID=1)
    one.dynamic_resources.extend(claims)
    return answer


def claim(
    name: str, namespace: str, *devices: str, driver: str = "gpu.nvidia.com", pool: str = "node-1", cdi: bool = False
) -> Any:
    """A DRA claim with devices; `cdi`: with their CDI names alone, as kubelets before 1.32 tell them."""
    answer = MESSAGES["DynamicResource"](claim_name=name, claim_namespace=namespace)
    for device in devices:
        one = answer.claim_resources.add()
        one.cdi_devices.add(name=f"k8s.{driver}/claim=0b0c8f5e-{device}")
        if not cdi:
            one.driver_name, one.pool_name, one.device_name = driver, pool, device
    return answer


def allocatable(devices: dict[str, Iterable[str]]) -> list[Any]:
    """Entries of AllocatableResourcesResponse."""
    return [
        MESSAGES["ContainerDevices"](resource_name=resource, device_ids=[device])
        for resource, ids in devices.items()
        for device in ids
    ]


@dataclass(slots=True)
class FakeKubelet:
    """What it says, how it behaves, and how often it was asked."""

    path: Path
    pods: list[Any] = field(default_factory=list)
    allocatable: list[Any] = field(default_factory=list)
    mode: Mode = "ok"
    asked: list[str] = field(default_factory=list)
    stalled: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)

    def answer(self, method: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.asked.append(method)
        assert request == b""
        if self.mode == "stall":
            self.stalled.set()
            self.release.wait(60)
        if self.mode == "error":
            context.abort(grpc.StatusCode.INTERNAL, "failed to get the device manager")
        if self.mode == "unimplemented" or (self.mode == "list_only" and method == "GetAllocatableResources"):
            context.abort(grpc.StatusCode.UNIMPLEMENTED, f"unknown method {method}")
        if self.mode == "garbage":
            return b"\x0a\xff\xff\xff\x7fnot a message"
        if method == "List":
            return MESSAGES["ListPodResourcesResponse"](pod_resources=self.pods).SerializeToString()
        return MESSAGES["AllocatableResourcesResponse"](
            devices=self.allocatable, cpu_ids=range(300)
        ).SerializeToString()


class _Methods(grpc.GenericRpcHandler):
    def __init__(self, state: FakeKubelet) -> None:
        self.state = state

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        prefix, _, method = details.method.rpartition("/")
        if prefix != "/v1.PodResourcesLister":
            return None
        return grpc.unary_unary_rpc_method_handler(lambda request, context: self.state.answer(method, request, context))


@contextmanager
def kubelet(path: Path, mode: Mode = "ok") -> Iterator[FakeKubelet]:
    """A kubelet at `path`, on threads of its own. `path` must be short: a socket's name has 107 bytes."""
    state = FakeKubelet(path, mode=mode)
    pool = futures.ThreadPoolExecutor(max_workers=4)
    options = [("grpc.max_send_message_length", -1)]
    server = grpc.server(pool, handlers=[_Methods(state)], options=options)
    server.add_insecure_port(f"unix:{path}")
    server.start()
    try:
        yield state
    finally:
        state.release.set()
        server.stop(None).wait(_STOP_SECONDS)
        pool.shutdown(wait=True)
        path.unlink(missing_ok=True)
