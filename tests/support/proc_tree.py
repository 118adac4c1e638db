"""A /proc, kubelet's files and the log folders of a machine, as folders of their own."""

import ipaddress
import json
import struct
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
        cmdline: str | bytes = "",
        state: str = "S",
        environ: str = "",
        network: str = "",
        sockets: Iterable[int] = (),
    ) -> Path:
        """A process; written over one that had this pid before. `network`: one of `self.network`; `sockets`: inodes."""
        folder = self.root / str(pid)
        folder.mkdir(exist_ok=True)
        columns = [state, str(parent), *["0"] * 17, str(start_ticks), *["0"] * 20]
        (folder / "stat").write_text(f"{pid} ({name}) {' '.join(columns)}\n")
        (folder / "cgroup").write_text(cgroup)
        (folder / "cmdline").write_bytes(cmdline if isinstance(cmdline, bytes) else cmdline.encode())
        (folder / "environ").write_text(environ)
        (folder / "fd").mkdir(exist_ok=True)
        for link in (folder / "net", *(folder / "fd").iterdir()):
            link.unlink(missing_ok=True)
        if network:
            (folder / "net").symlink_to(self.root / "networks" / network)
        for at, inode in enumerate(sockets):
            (folder / "fd" / str(at + 3)).symlink_to(f"socket:[{inode}]")
        return folder

    def network(
        self,
        name: str,
        listening: Iterable[tuple[str, int, int]] = (),
        addresses: Iterable[str] = (),
        *,
        ours: bool = False,
    ) -> str:
        """A network namespace. `listening`: (address, port, inode); written over one that had this name before."""
        folder = self.root / "networks" / name
        folder.mkdir(parents=True, exist_ok=True)
        sockets = list(listening)
        for file, version in (("tcp", 4), ("tcp6", 6)):
            lines = [tcp_line(*one) for one in sockets if ipaddress.ip_address(one[0]).version == version]
            (folder / file).write_text(TCP_HEADER + "".join(lines) + ESTABLISHED)
        own = [ipaddress.ip_address(one) for one in addresses]
        four = "".join(f"     |-- {one}\n        /32 host LOCAL\n" for one in own if one.version == 4)
        (folder / "fib_trie").write_text(f"Local:\n  +-- 0.0.0.0/0 3 0 5\n{four}")
        six = [f"{int(one):032x} 02 40 00 80     eth0\n" for one in own if one.version == 6]
        (folder / "if_inet6").write_text("".join(six))
        (folder / "route").write_text("Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n")
        if ours and not (self.root / "self/net").exists():
            (self.root / "self/net").symlink_to(folder)
        return name


TCP_HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
_REST = "00000000:00000000 00:00000000 00000000     0        0"
ESTABLISHED = f"   9: 0100007F:1F40 0100007F:D431 01 {_REST} 999 1 0\n"


def tcp_line(address: str, port: int, inode: int) -> str:
    """A listening socket as /proc/net/tcp and tcp6 print it: addresses as 32-bit words of the machine's byte order."""
    packed = ipaddress.ip_address(address.partition("%")[0]).packed
    words = "".join(f"{word:08X}" for word in struct.unpack(f"={len(packed) // 4}I", packed))
    return f"   0: {words}:{port:04X} {'0' * len(words)}:0000 0A {_REST} {inode} 1 0\n"


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
