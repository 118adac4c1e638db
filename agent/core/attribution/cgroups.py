"""The cgroup file of a process in, what it belongs to out: a pod's container, another container, a job, a unit. Pure.

Paths are searched, not matched from their start: under kind or k3s they have a prefix, and seen from within a cgroup
namespace they begin with `/../..`. Names are those that kubelet (drivers systemd and cgroupfs), containerd, CRI-O,
Docker, Podman, Slurm and systemd give.
"""

import re

from agent.core.workloads import Workload

_HEX = r"[0-9a-f]"
# Under the systemd driver dashes are underscores, as a dash parts a slice from its parent. Static pods have neither.
_POD = re.compile(
    rf"(?:^|[/-])pod(?P<uid>{_HEX}{{8}}[-_]{_HEX}{{4}}[-_]{_HEX}{{4}}[-_]{_HEX}{{4}}[-_]{_HEX}{{12}}|{_HEX}{{32}})"
    r"(?:\.slice)?(?=[/:]|$)"
)
_CONTAINER = re.compile(rf"(?<!{_HEX})(?P<id>{_HEX}{{64}})(?!{_HEX})")
_SLURM_JOB = re.compile(r"slurm[^/]*/(?:[^/]+/)*?job_(?P<job>[0-9]+(?:_[0-9]+)?)(?=/|$)")
_UNIT = re.compile(r"[^/]+\.(?:service|scope)(?=/|$)")
_CONTAINER_SCOPE = re.compile(rf"(?:[a-z-]+-)?{_HEX}{{64}}\.scope")
_SLURM_TITLE = re.compile(r"slurmstepd: \[(?P<job>[0-9]+(?:_[0-9]+)?)[.\]]")


def parse_cgroup(text: str) -> Workload | None:
    """What the process of this /proc/PID/cgroup belongs to: ids only; names are for others to find.

    Empty when it runs in no container, job or unit; None when the text is no cgroup file. `job` of a container that
    a batch system started is filled beside its id.
    """
    paths = [line.split(":", 2)[2] for line in text.splitlines() if line.count(":") >= 2]
    if not paths:
        return None
    pod_uid = container = job = unit = ""
    for path in paths:
        pods = list(_POD.finditer(path))
        inside = path[pods[-1].end() :] if pods else path
        containers = _CONTAINER.findall(inside)
        if pods:
            pod_uid = pod_uid or pods[-1]["uid"].replace("_", "-")
        if containers:
            container = container or containers[-1]
        slurm = _SLURM_JOB.search(path)
        if slurm is not None:
            job = job or slurm["job"]
        units = [name for name in _UNIT.findall(path) if not _CONTAINER_SCOPE.fullmatch(name)]
        if units:
            unit = unit or units[-1]
    if not job and not container and not pod_uid and unit != "init.scope":
        job = unit
    return Workload(pod_uid=pod_uid, container_id=container, job=job)


def is_root_only(text: str) -> bool:
    """Whether all paths are `/`: on a host no group at all; within a cgroup namespace, our own container."""
    paths = [line.split(":", 2)[2] for line in text.splitlines() if line.count(":") >= 2]
    return bool(paths) and all(path == "/" for path in paths)


def slurm_job_in_title(cmdline: str) -> str:
    """The job in the title of a slurmstepd (`slurmstepd: [123.batch]`), for nodes without Slurm's cgroups; or ''."""
    match = _SLURM_TITLE.match(cmdline)
    return match["job"] if match else ""
