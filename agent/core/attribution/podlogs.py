"""Names in /var/log/pods and /var/log/containers in, pods and containers out. Pure.

Kubernetes' names hold no underscore, which parts the fields: `<namespace>_<pod>_<uid>` is a pod's folder,
`<pod>_<namespace>_<container>-<container id>.log` a link to a container's log.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from agent.core.workloads import Workload

POD_UID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{32}"
_NAME = r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?"
_FOLDER = re.compile(rf"(?P<namespace>{_NAME})_(?P<pod>{_NAME})_(?P<uid>{POD_UID})")
_LINK = re.compile(rf"(?P<pod>{_NAME})_(?P<namespace>{_NAME})_(?P<container>{_NAME})-(?P<id>[0-9a-f]{{64}})\.log")
_LONGEST_NAME = 255  # a name of this length was cut by kubelet, in the middle of its fields
_DOCKER_LOG = re.compile(r"(?:.*/)?(?P<id>[0-9a-f]{64})-json\.log")


class PodNames(Struct, frozen=True, kw_only=True):
    """The pods that have a log folder here: what uids and container ids are called."""

    by_uid: dict[str, Workload] = {}  # namespace, pod, pod_uid
    by_container_id: dict[str, Workload] = {}  # namespace, pod, container, container_id
    containers: dict[str, tuple[str, ...]] = {}  # pod uid -> names of the containers that have logged

    def has_pod(self, namespace: str, pod: str) -> bool:
        """Whether a pod of this name has a log folder."""
        return any(found.namespace == namespace and found.pod == pod for found in self.by_uid.values())

    def uids(self, namespace: str, pod: str) -> list[str]:
        """The uids under which a pod of this name has a log folder; several if it was made anew."""
        return [uid for uid, found in self.by_uid.items() if found.namespace == namespace and found.pod == pod]


def parse_folder(name: str) -> Workload | None:
    """The pod of a log folder; None if the folder is something else."""
    match = _FOLDER.fullmatch(name)
    if match is None:
        return None
    return Workload(namespace=match["namespace"], pod=match["pod"], pod_uid=match["uid"])


def parse_link(name: str) -> Workload | None:
    """The container of a log link; None if it is something else or was cut."""
    match = _LINK.fullmatch(name)
    if match is None or len(name) >= _LONGEST_NAME:
        return None
    return Workload(
        namespace=match["namespace"], pod=match["pod"], container=match["container"], container_id=match["id"]
    )


def docker_id(log_target: str) -> str:
    """The container id in the path that a pod's log links to under Docker; '' under other runtimes."""
    match = _DOCKER_LOG.fullmatch(log_target)
    return match["id"] if match else ""


def pod_names(folders: Mapping[str, Mapping[str, Sequence[str]]], links: Iterable[str]) -> PodNames:
    """What folders and links say. `folders`: name -> its container folders -> what the logs in it link to."""
    by_uid: dict[str, Workload] = {}
    by_id: dict[str, Workload] = {}
    names: dict[str, tuple[str, ...]] = {}
    for folder, containers in folders.items():
        pod = parse_folder(folder)
        if pod is None:
            continue
        by_uid[pod.pod_uid] = pod
        names[pod.pod_uid] = tuple(sorted(containers))
        for container, targets in containers.items():
            for container_id in filter(None, map(docker_id, targets)):
                by_id[container_id] = replace(pod, container=container, container_id=container_id)
    by_id.update((found.container_id, found) for link in links if (found := parse_link(link)) is not None)
    return PodNames(by_uid=by_uid, by_container_id=by_id, containers=names)
