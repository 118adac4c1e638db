"""A /proc, kubelet's files and the log folders of a machine, as folders of their own."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

FIRST_PID_NAMESPACE = "pid:[4026531836]"


@dataclass(slots=True)
class ProcTree:
    """A /proc. `host`: whether it is that of the host; else that of a container."""

    root: Path
    host: bool = True

    def __post_init__(self) -> None:
        namespace = self.root / "self/ns"
        namespace.mkdir(parents=True)
        (namespace / "pid").symlink_to(FIRST_PID_NAMESPACE if self.host else "pid:[4026532811]")

    def process(
        self,
        pid: int,
        cgroup: str = "0::/\n",
        *,
        name: str = "python3",
        start_ticks: int = 5000,
        parent: int = 1,
        cmdline: str = "",
    ) -> Path:
        """A process; written over one that had this pid before."""
        folder = self.root / str(pid)
        folder.mkdir(exist_ok=True)
        columns = ["S", str(parent), *["0"] * 17, str(start_ticks), *["0"] * 20]
        (folder / "stat").write_text(f"{pid} ({name}) {' '.join(columns)}\n")
        (folder / "cgroup").write_text(cgroup)
        (folder / "cmdline").write_text(cmdline)
        (folder / "fd").mkdir(exist_ok=True)
        return folder


def log_folders(root: Path, pods: dict[tuple[str, str, str], dict[str, str]]) -> tuple[Path, Path]:
    """/var/log/pods and /var/log/containers. `pods`: (namespace, pod, uid) -> container -> its id."""
    pod_logs, container_logs = root / "pods", root / "containers"
    pod_logs.mkdir(parents=True)
    container_logs.mkdir()
    for (namespace, pod, uid), containers in pods.items():
        for container, container_id in containers.items():
            folder = pod_logs / f"{namespace}_{pod}_{uid}" / container
            folder.mkdir(parents=True)
            (folder / "0.log").write_text("")
            if container_id:
                link = container_logs / f"{pod}_{namespace}_{container}-{container_id}.log"
                link.symlink_to(folder / "0.log")
    return pod_logs, container_logs


def checkpoint(
    path: Path,
    given: Iterable[tuple[str, str, str, list[str]]],
    registered: dict[str, list[str]] | None = None,
    *,
    by_node: bool = True,
) -> Path:
    """kubelet_internal_checkpoint. `given`: (pod uid, container, resource, ids); by NUMA node or, as once, not."""
    entries = [
        {
            "PodUID": uid,
            "ContainerName": container,
            "ResourceName": resource,
            "DeviceIDs": {"1": ids} if by_node else ids,
            "AllocResp": "CgAaAA==",
        }
        for uid, container, resource, ids in given
    ]
    data = {"Data": {"PodDeviceEntries": entries, "RegisteredDevices": registered or {}}, "Checksum": 1234567890}
    path.write_text(json.dumps(data))
    return path
