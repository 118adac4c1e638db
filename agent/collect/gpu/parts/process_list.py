"""The processes that hold memory on the GPU, and how much of its SM time each of them had."""

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from agent.collect.gpu.parts.mig_tree import MigTree
from agent.collect.gpu.parts.part import Asker, FieldKey, Fields, Moment, Tier
from agent.collect.gpu.process_lists import ProcessLists
from agent.collect.gpu.process_load import DeviceLoad, ProcessLoad
from agent.collect.gpu.processes import read_mig_processes, read_processes


class BusyTime:
    """Remembers each tick's utilisation, to which the processes' are compared. After `Utilization`; no call."""

    tier: Tier = "fast"
    fields: tuple[FieldKey, ...] = ()

    def __init__(self, load: DeviceLoad) -> None:
        self._load = load

    def read(self, _asker: Asker, _fields: Fields, known: Mapping[str, Any], _now: Moment) -> dict[str, Any]:
        """Nothing of its own."""
        self._load.add(known.get("utilization_ratio"))
        return {}


class Processes:
    """NVML's three lists as one. In MIG mode all of it goes into `tree`, and `MigReadings` says it.

    A process without a sample since the last look has None as its SM utilisation, not 0: on a GPU that is busy the
    driver has no sample for those that idle, but neither has it for any where it cannot tell.
    """

    tier: Tier = "slow"
    fields: tuple[FieldKey, ...] = ()

    def __init__(self, tree: MigTree, load: DeviceLoad) -> None:
        self._tree = tree
        self._device_load = load
        self._load = ProcessLoad()
        self._lists = ProcessLists()

    def read(self, asker: Asker, _fields: Fields, known: Mapping[str, Any], now: Moment) -> dict[str, Any]:
        """Processes by pid, and the instant."""
        total = known.get("memory_total_bytes")
        kinds = self._lists.wanted(known.get("memory_used_bytes"))
        if self._tree.enabled:
            read_mig_processes(asker, self._tree, now.unix_ns, total, kinds)
            self._lists.seen(self._tree.all_processes)
            return {}
        processes = read_processes(asker.calls, asker.gpu, asker.handle, total, kinds)
        if processes is None:
            return {}
        self._lists.seen(processes)
        device = self._device_load.take()
        if processes:  # one call less for a GPU with nothing on it
            ratios = self._load.read(asker, [one.pid for one in processes], device, now.unix_ns)
            processes = tuple(replace(one, sm_utilization_ratio=ratios.get(one.pid)) for one in processes)
        return {"processes": processes, "processes_read_at_ns": now.unix_ns}
