"""Pods in, what is wrong with our own annotations on them out: words for doctor. Pure."""

from collections.abc import Iterable, Sequence

from agent.collect.discovery.kubernetes.objects import Pod
from agent.collect.discovery.kubernetes.pods import (
    CONTAINER,
    ENGINE,
    PORT,
    meant_container,
    named_engine,
    port_number,
    told,
)
from agent.engines.contract import EngineFile


def pod_notes(pods: Iterable[Pod], engines: Sequence[EngineFile]) -> dict[str, str]:
    """`pod NAMESPACE/NAME` -> what is wrong; only those with which something is."""
    found = {f"pod {pod.namespace}/{pod.name}": _wrong(pod, engines) for pod in pods}
    return {name: words for name, words in found.items() if words}


def _wrong(pod: Pod, engines: Sequence[EngineFile]) -> str:
    kind, port = told(pod, ENGINE), told(pod, PORT)
    if port and not port_number(port):
        return f"{PORT}: expected a port such as 8000, got {port!r}"
    if not kind:
        return ""
    if named_engine(pod, engines) is None:
        return f"{ENGINE}: expected one of {', '.join(one.kind for one in engines)}, got {kind!r}"
    if not meant_container(pod, engines):
        names = ", ".join(one.name for one in pod.containers)
        return f"{ENGINE}: it is not clear which container is meant: name one of {names} in {CONTAINER}"
    return ""
