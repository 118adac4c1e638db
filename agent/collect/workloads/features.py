"""What could be asked and read in, a `Feature` for each right and mount out: what lacks without it, what opens it."""

from collections.abc import Iterator

from msgspec import Struct

from agent.core.workloads import Feature


class Access(Struct, frozen=True, kw_only=True):
    """How each source fared: '' is well, else what was wrong with it. `holders_from`: what holders are known by now."""

    kubelet: str
    checkpoint: str
    pod_logs: str
    container_logs: str
    host_pids: bool
    pids_seen: bool = True  # False: the driver names processes, and none of them is in /proc
    process_files: bool | None = None
    slurm_without_job: bool = False
    holders_from: str = ""  # pod_resources, kept, checkpoint; '' is nobody's word


def features(access: Access) -> tuple[Feature, ...]:
    """All of them, in a fixed order; what says nothing on this machine is left out."""
    return (*_kubernetes(access), *_processes(access))


def _kubernetes(access: Access) -> Iterator[Feature]:
    if access.kubelet and access.checkpoint and access.pod_logs and not access.holders_from:
        # Nothing of Kubernetes at all: one line, not four.
        yield Feature(
            name="pod_resources",
            enabled=False,
            reason=f"which pod holds which GPU is not known. Kubelet: {access.kubelet}. Outside of Kubernetes nobody "
            "hands out GPUs and nothing is missing",
        )
        return
    yield Feature(name="pod_resources", enabled=not access.kubelet, reason=_kubelet(access))
    yield _off_if(
        access.checkpoint,
        "checkpoint",
        "there is no second word on who holds GPUs, and none while kubelet is away: its checkpoint file",
    )
    yield _off_if(access.pod_logs, "pod_logs", "pods have no uid, and pods that ended cannot be told: /var/log/pods")
    yield _off_if(
        access.container_logs,
        "container_logs",
        "containers are known by id where a pod has several: /var/log/containers",
    )


def _kubelet(access: Access) -> str:
    if not access.kubelet:
        return ""
    known = {
        "kept": "who holds GPUs is told from kubelet's last answer for a while",
        "checkpoint": "who holds GPUs is read from kubelet's checkpoint file",
    }.get(access.holders_from, "which pod holds which GPU is not known")
    return f"{known}. Kubelet: {access.kubelet}"


def _off_if(problem: str, name: str, without: str) -> Feature:
    return Feature(name=name, enabled=not problem, reason=f"{without} {problem}" if problem else "")


def _processes(access: Access) -> Iterator[Feature]:
    pids = access.host_pids and access.pids_seen
    why = ""
    if not access.host_pids:
        why = (
            "who uses a GPU is not known: the driver names processes by the host's pids, and this /proc is not the "
            "host's. Set hostPID: true, or mount the host's /proc and name it in workloads.proc"
        )
    elif not access.pids_seen:
        why = (
            "who uses a GPU is not known: none of the processes that the driver names is in /proc. Set hostPID: true; "
            "if it is set, /proc is mounted with hidepid: run as root, or in the group that its option gid names"
        )
    yield Feature(name="host_pid", enabled=pids, reason=why)
    if access.process_files is not None:
        yield Feature(
            name="process_files",
            enabled=access.process_files,
            reason=""
            if access.process_files
            else "the processes behind an engine's port are not known, so neither are its GPUs: open files of other "
            "processes are closed to us. Add the capability SYS_PTRACE, or name its GPUs (engines.targets, gpus)",
        )
    if access.slurm_without_job:
        yield Feature(
            name="slurm_jobs",
            enabled=False,
            reason="processes of Slurm have no job: there is neither a cgroup of it nor a title of slurmstepd. "
            "Set ProctrackType=proctrack/cgroup",
        )
