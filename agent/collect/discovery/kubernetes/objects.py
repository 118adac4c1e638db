"""The API server's answer to a list of pods in, frozen values out: only the fields we use are decoded."""

import msgspec
from msgspec import Struct

from agent.engines.contract import ENVIRONMENT


class _Meta(Struct, rename="camel"):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class Port(Struct, frozen=True, rename="camel"):
    """A port that a container declares."""

    container_port: int
    name: str = ""
    protocol: str = "TCP"


class _Variable(Struct):
    name: str
    value: str | None = None


class _Container(Struct, rename="camel"):
    name: str = ""
    image: str = ""
    command: list[str] | None = None
    args: list[str] | None = None
    ports: list[Port] | None = None
    env: list[_Variable] | None = None
    restart_policy: str = ""


class _Spec(Struct, rename="camel"):
    host_network: bool = False
    containers: list[_Container] | None = None
    init_containers: list[_Container] | None = None


class _ContainerStatus(Struct, rename="camel"):
    name: str = ""
    container_id: str = msgspec.field(name="containerID", default="")
    state: dict[str, object] | None = None


class _Status(Struct, rename="camel"):
    phase: str = ""
    pod_ip: str = msgspec.field(name="podIP", default="")
    container_statuses: list[_ContainerStatus] | None = None
    init_container_statuses: list[_ContainerStatus] | None = None


class _Pod(Struct):
    metadata: _Meta
    spec: _Spec
    status: _Status = msgspec.field(default_factory=_Status)


class _ListMeta(Struct):
    continue_: str = msgspec.field(name="continue", default="")


class _PodList(Struct):
    items: list[_Pod] | None = None
    metadata: _ListMeta = msgspec.field(default_factory=_ListMeta)


class Container(Struct, frozen=True, kw_only=True):
    """A container that keeps running. `environ` has literal values only, and only names in `ENVIRONMENT`."""

    name: str
    image: str
    container_id: str = ""  # of the runtime, without its name; '' before it was started
    running: bool = False
    command: tuple[str, ...] = ()  # as the pod gives it: without what the image would add
    ports: tuple[Port, ...] = ()
    environ: dict[str, str] = {}


class Pod(Struct, frozen=True, kw_only=True):
    """A running pod of this node. Ready or not, going or not: that is for its engine to say."""

    namespace: str
    name: str
    uid: str
    address: str  # '' before it has one
    on_host: bool = False  # it has no network of its own: its address is the node's
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    containers: tuple[Container, ...] = ()


def decode_page(body: bytes) -> tuple[list[Pod], str]:
    """The running pods of one page, and the token of the next page or ''. Raises msgspec.DecodeError."""
    page = msgspec.json.decode(body, type=_PodList)
    return [_pod(pod) for pod in page.items or () if pod.status.phase == "Running"], page.metadata.continue_


def _pod(pod: _Pod) -> Pod:
    told = (*(pod.status.container_statuses or ()), *(pod.status.init_container_statuses or ()))
    statuses = {status.name: status for status in told}
    lasting = [one for one in pod.spec.init_containers or () if one.restart_policy == "Always"]  # native sidecars
    return Pod(
        namespace=pod.metadata.namespace,
        name=pod.metadata.name,
        uid=pod.metadata.uid,
        address=pod.status.pod_ip,
        on_host=pod.spec.host_network,
        labels=pod.metadata.labels or {},
        annotations=pod.metadata.annotations or {},
        containers=tuple(
            _container(one, statuses.get(one.name, _ContainerStatus()))
            for one in (*(pod.spec.containers or ()), *lasting)
        ),
    )


def _container(container: _Container, status: _ContainerStatus) -> Container:
    return Container(
        name=container.name,
        image=container.image,
        container_id=status.container_id.rpartition("//")[2],
        running="running" in (status.state or {}),
        command=(*(container.command or ()), *(container.args or ())),
        ports=tuple(port for port in container.ports or () if port.protocol == "TCP"),
        environ={one.name: one.value for one in container.env or () if one.value and one.name in ENVIRONMENT},
    )
