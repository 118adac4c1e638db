"""Pids in, what /proc shows of them out: since when, under what name, in which cgroup. Blocks, short."""

import os
from collections.abc import Iterable
from pathlib import Path

from msgspec.structs import replace

from agent.clock import NS, boot_ns, unix_ns
from agent.core.attribution.cgroups import is_root_only, parse_cgroup, slurm_job_in_title
from agent.core.attribution.stat import ProcessStat, parse_stat
from agent.core.attribution.users import SeenProcess
from agent.core.workloads import Workload

# Inodes of the first namespaces (include/linux/proc_ns.h); every other one has a larger or smaller number.
_FIRST_PID_NAMESPACE = "pid:[4026531836]"
_FIRST_CGROUP_NAMESPACE = "cgroup:[4026531835]"
_KERNEL_THREADS = "kthreadd"  # process 2 of the host, and of no container
_MOST_ANCESTORS = 32
_MOST_PROCESSES = 4096


class Processes:
    """Looks at processes in `proc`. The start of a process stays what it was first found to be, whatever clocks do."""

    def __init__(self, proc: Path) -> None:
        self._proc = proc
        self._started: dict[tuple[int, int], int] = {}
        self._ticks = os.sysconf("SC_CLK_TCK")
        self._own_groups_hidden = _link(Path("/proc/self/ns/cgroup")) != _FIRST_CGROUP_NAMESPACE
        self.slurm_without_job = False  # a process of a Slurm job was seen whose job is not known

    def are_the_hosts(self) -> bool:
        """Whether pids here are those of the host, which are the ones that the driver speaks of."""
        if _link(self._proc / "self/ns/pid") == _FIRST_PID_NAMESPACE:
            return True
        second = self._stat(2)
        return second is not None and second.name == _KERNEL_THREADS

    def look(self, pids: Iterable[int]) -> dict[int, SeenProcess]:
        """Those of `pids` that are there."""
        booted_at_ns = unix_ns() - boot_ns()
        kept: dict[tuple[int, int], int] = {}
        found: dict[int, SeenProcess] = {}
        self.slurm_without_job = False
        for pid in sorted(pids)[:_MOST_PROCESSES]:
            stat = self._stat(pid)
            if stat is None:
                continue
            key = (pid, stat.start_ticks)
            kept[key] = self._started.get(key, booted_at_ns + stat.start_ticks * NS // self._ticks)
            found[pid] = SeenProcess(started_at_ns=kept[key], name=stat.name, place=self._place(pid, stat))
        self._started = kept
        return found

    def may_see_files(self, pids: Iterable[int]) -> bool | None:
        """Whether open files of other processes are shown to us; None if there is no other process to try it on."""
        own = os.getpid()
        for pid in (*sorted(pids), 1):
            if pid == own:
                continue
            try:
                os.listdir(self._proc / str(pid) / "fd")  # noqa: PTH208  # names are enough
            except PermissionError:
                return False
            except OSError:
                continue  # it has gone
            return True
        return None

    def _place(self, pid: int, stat: ProcessStat) -> Workload | None:
        text = _read(self._proc / str(pid) / "cgroup")
        if self._own_groups_hidden and is_root_only(text):
            return None  # it runs in our own container, whose path we are not shown
        place = parse_cgroup(text)
        if place is None or place.pod_uid or place.container_id or place.job[:1].isdecimal():
            return place
        job = self._slurm_job(stat)
        return replace(place, job=job) if job else place

    def _slurm_job(self, stat: ProcessStat) -> str:
        """The job of the slurmstepd above a process, for nodes where Slurm makes no cgroups."""
        for _ in range(_MOST_ANCESTORS):
            parent = stat.parent
            above = self._stat(parent) if parent > 1 else None
            if above is None:
                return ""
            if above.name == "slurmstepd":
                title = _read(self._proc / str(parent) / "cmdline").replace("\0", " ")
                job = slurm_job_in_title(title)
                self.slurm_without_job |= not job
                return job
            stat = above
        return ""

    def _stat(self, pid: int) -> ProcessStat | None:
        return parse_stat(_read(self._proc / str(pid) / "stat"))


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except (OSError, ValueError):
        return ""


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""
