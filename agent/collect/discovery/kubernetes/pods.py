"""Pods in, what their labels, annotations and images say about engines out. Pure.

Annotations of Prometheus are believed only for a container that is an engine by its image, by its process, or because
`engineroom.io/engine` or `llm-d.ai/engine-type` says so: most annotated pods are something else.
"""

import re
from collections.abc import Iterable, Sequence

from msgspec import Struct

from agent.collect.discovery.kubernetes.objects import Container, Pod
from agent.core.readings import EngineRole
from agent.engines.arguments import number
from agent.engines.contract import EngineFile, Process, Recognised

_PROMETHEUS = "prometheus.io/"
_OURS = "engineroom.io/"
ENGINE, CONTAINER, PORT = f"{_OURS}engine", f"{_OURS}container", f"{_OURS}port"
_LWS = "leaderworkerset.sigs.k8s.io/"
_DISAGGREGATED = "disaggregatedset.x-k8s.io/"
_ROLES: dict[str, EngineRole] = {"prefill": "prefill", "decode": "decode"}
_HTTP_NAMES = ("http", "metrics", "http-metrics")


class PodEngine(Struct, frozen=True, kw_only=True):
    """A container, and the engine in it as far as the API server tells; `engine` None: by its image it is none."""

    pod: Pod
    container: Container
    engine: EngineFile | None = None
    part: str = "server"
    port: int | None = None
    metrics_port: int | None = None  # where metrics are shown elsewhere than at `port`
    path: str = ""  # of the metrics page, where an annotation names another than the engine's first
    scheme: str = "http"
    group: str = ""
    nodes: int | None = None
    node_rank: int | None = None
    role: EngineRole | None = None
    service: str = ""
    model: str = ""
    why: str = ""  # why it may not be asked, '' if it may

    @property
    def name(self) -> str:
        return f"{self.pod.namespace}/{self.pod.name}"


def pod_engines(pods: Iterable[Pod], engines: Sequence[EngineFile]) -> list[PodEngine]:
    """Every container of the pods, with what is known of the engine in it."""
    return [one for pod in pods for one in _containers(pod, engines)]


def image_name(image: str) -> str:
    """The name of an image without its registry, tag and digest."""
    name = image.partition("@")[0]
    first, slash, rest = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        name = rest
    path, slash, last = name.rpartition("/")
    return f"{path}{slash}{last.partition(':')[0]}"


def _containers(pod: Pod, engines: Sequence[EngineFile]) -> list[PodEngine]:
    by_image = {one.name: _of_image(one, engines) for one in pod.containers}
    said = named_engine(pod, engines)
    if said is not None:
        meant = meant_container(pod, engines)
        by_image = {name: said if name == meant else None for name in by_image}
    return [describe(pod, one, by_image[one.name]) for one in pod.containers]


def describe(pod: Pod, container: Container, engine: EngineFile | None) -> PodEngine:
    """What the pod says about the container, if an engine of this kind runs in it."""
    said = _recognised(container, engine)
    port = _port(pod, container, engine, said)
    nodes = said.nodes or _number(container.environ.get("LWS_GROUP_SIZE", told(pod, f"{_LWS}size")))
    index = _number(told(pod, f"{_LWS}worker-index"))
    worker = said.part == "worker" or (index not in (None, 0) and _own_port(pod) is None and not container.ports)
    metrics_port = _metrics_port(pod, container, engine, port)
    return PodEngine(
        pod=pod,
        container=container,
        engine=engine,
        part="worker" if worker else "server",
        port=port,
        metrics_port=metrics_port,
        path=_path(pod, container, engine),
        scheme="https" if _believed(pod, container) and told(pod, f"{_PROMETHEUS}scheme") == "https" else "http",
        group=(_group(pod, container) if nodes != 1 else "") or said.group or "",
        nodes=nodes,
        node_rank=said.node_rank if said.node_rank is not None else index,
        role=said.role or _role(pod),
        service=_service(pod),
        model=said.model or "",
        why=_why(pod, container, port),
    )


def _of_image(container: Container, engines: Sequence[EngineFile]) -> EngineFile | None:
    name = image_name(container.image)
    return next((engine for engine in engines if any(re.search(one, name) for one in engine.images)), None)


def named_engine(pod: Pod, engines: Sequence[EngineFile]) -> EngineFile | None:
    """The engine that the pod names, if we know it: by our kind, or by the gateway's name, which begins with that."""
    name = told(pod, ENGINE) or told(pod, "llm-d.ai/engine-type")
    return next((one for one in engines if name and (name == one.kind or name.startswith(f"{one.kind}-"))), None)


def meant_container(pod: Pod, engines: Sequence[EngineFile]) -> str:
    """The container that the pod's word is about; '' if that is not clear."""
    named = told(pod, CONTAINER)
    if named:
        return named if named in [one.name for one in pod.containers] else ""
    by_image = [one.name for one in pod.containers if _of_image(one, engines) is not None]
    if len(by_image) == 1:
        return by_image[0]
    port = _own_port(pod) or port_number(told(pod, f"{_PROMETHEUS}port"))
    declared = [one.name for one in pod.containers if port in [each.container_port for each in one.ports]]
    if len(declared) == 1:
        return declared[0]
    return pod.containers[0].name if len(pod.containers) == 1 else ""


def _recognised(container: Container, engine: EngineFile | None) -> Recognised:
    """What the command says that the pod gives; without the image's part of it, its options at least."""
    if engine is None:
        return Recognised()
    argv = container.command
    name = argv[0].rpartition("/")[2][:15] if argv else ""
    found = engine.recognise(Process(pid=0, name=name, argv=argv, environ=container.environ))
    return found or Recognised(port=number(argv, "--port"))


def _port(pod: Pod, container: Container, engine: EngineFile | None, said: Recognised) -> int | None:
    """The port of its HTTP interface, by whoever knows it best; None if nobody says so."""
    if engine is None:
        return None
    own = _own_port(pod)
    if own is not None or said.port is not None:
        return own if own is not None else said.port
    annotated = port_number(told(pod, f"{_PROMETHEUS}port"))
    if annotated is not None and _believed(pod, container) and annotated != engine.metrics_port:
        return annotated
    declared = [port for port in container.ports if port.container_port != engine.metrics_port]
    usual = [port.container_port for port in declared if port.container_port in engine.default_ports]
    named = [port.container_port for port in declared if port.name in _HTTP_NAMES]
    if usual or named:
        return (usual or named)[0]
    silent = not any(one.ports for one in pod.containers)
    alone = len(pod.containers) == 1 and not pod.on_host
    return engine.default_ports[0] if silent and alone and engine.default_ports else None


def _metrics_port(pod: Pod, container: Container, engine: EngineFile | None, port: int | None) -> int | None:
    annotated = port_number(told(pod, f"{_PROMETHEUS}port"))
    if engine is None or annotated is None or not _believed(pod, container):
        return None
    return annotated if annotated not in (port, engine.metrics_port) else None


def _believed(pod: Pod, container: Container) -> bool:
    """Whether Prometheus' annotations can be about this container: its port is not another container's."""
    annotated = port_number(told(pod, f"{_PROMETHEUS}port"))
    own = {port.container_port for port in container.ports}
    others = {port.container_port for one in pod.containers if one is not container for port in one.ports}
    return annotated is None or annotated in own or annotated not in others


def _path(pod: Pod, container: Container, engine: EngineFile | None) -> str:
    """The annotated path, if it is one that the engine file knows: nothing else is ever asked."""
    path = told(pod, f"{_PROMETHEUS}path")
    if engine is None or not _believed(pod, container) or path not in engine.metrics_paths[1:]:
        return ""
    return path


def _why(pod: Pod, container: Container, port: int | None) -> str:
    scrape = told(pod, f"{_PROMETHEUS}scrape").lower()
    if scrape == "false" and not told(pod, ENGINE):
        return (
            "its pod is annotated with prometheus.io/scrape: false, so it is not asked: annotate it with "
            "engineroom.io/engine (the kind of engine) to have it read by us all the same"
        )
    if not pod.address:
        return "its pod has no address yet"
    if pod.on_host and not container.running:
        return "its container does not run, and on the host's network another may listen at its port meanwhile"
    if port is None:
        return "its pod does not say at which port it answers: annotate it with engineroom.io/port"
    return ""


def _group(pod: Pod, container: Container) -> str:
    """The leader's name, which LeaderWorkerSet tells all containers of a group; else put together as it does."""
    leader = container.environ.get("LWS_LEADER_ADDRESS", "")
    name, index = told(pod, f"{_LWS}name"), told(pod, f"{_LWS}group-index")
    return leader or (f"{name}-{index}.{name}.{pod.namespace}" if name and index else "")


def _role(pod: Pod) -> EngineRole | None:
    said = (told(pod, f"{prefix}role") for prefix in ("llm-d.ai/", _DISAGGREGATED, _LWS, _OURS))
    return next((_ROLES[word] for word in said if word in _ROLES), None)


def _service(pod: Pod) -> str:
    """The name that the parts of a disaggregated service share: ours, its set's, else the model that they serve."""
    own = told(pod, f"{_OURS}service")
    shared = told(pod, f"{_DISAGGREGATED}name") or (told(pod, "llm-d.ai/model") if _role(pod) else "")
    return own or (f"{pod.namespace}/{shared}" if shared else "")


def _own_port(pod: Pod) -> int | None:
    return port_number(told(pod, PORT))


def told(pod: Pod, key: str) -> str:
    """An annotation of the pod, else its label of that name; '' without."""
    return (pod.annotations.get(key) or pod.labels.get(key) or "").strip()


def port_number(text: str) -> int | None:
    """The port that a text says; None if it is none."""
    number = _number(text)
    return number if number and number < 65536 else None


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None
