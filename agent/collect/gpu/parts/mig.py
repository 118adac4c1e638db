"""MIG mode and the MIG devices: which there are, how full they are, and all of it as `GpuReading.mig`."""

from collections.abc import Mapping
from typing import Any

from agent.collect.gpu.calls import Missed
from agent.collect.gpu.parts.mig_tree import InstanceGone, InstanceMemory, MigDevice, MigTree
from agent.collect.gpu.parts.part import Asker, FieldKey, Fields, Moment, Tier
from agent.collect.gpu.processes import read_mig_processes
from agent.core.gpu_readings import MigReading


class MigLayout:
    """Lists the MIG devices anew. First of all parts: others ask differently in MIG mode."""

    tier: Tier = "rare"
    fields: tuple[FieldKey, ...] = ()

    def __init__(self, tree: MigTree) -> None:
        self._tree = tree

    def reconfigured(self) -> None:
        """The driver says that MIG was reconfigured: list the devices again at the next tick."""
        self._tree.stale = True

    def read(self, asker: Asker, _fields: Fields, _known: Mapping[str, Any], _now: Moment) -> dict[str, Any]:
        """Nothing of its own; `MigReadings` says it."""
        self._tree.look(asker)
        return {}


class MigMemory:
    """Memory of each GPU instance."""

    tier: Tier = "slow"
    fields: tuple[FieldKey, ...] = ()

    def __init__(self, tree: MigTree) -> None:
        self._tree = tree

    def read(self, _asker: Asker, _fields: Fields, _known: Mapping[str, Any], _now: Moment) -> dict[str, Any]:
        """Nothing of its own; `MigReadings` says it."""
        read_memory(self._tree)
        return {}


class MigReadings:
    """What is known of the MIG devices. After all parts that fill `tree`; asks only after a reconfiguration."""

    tier: Tier = "fast"
    fields: tuple[FieldKey, ...] = ()

    def __init__(self, tree: MigTree) -> None:
        self._tree = tree

    def read(self, asker: Asker, _fields: Fields, known: Mapping[str, Any], now: Moment) -> dict[str, Any]:
        """`mig` and `mig_slices` unless the devices may not be listed; the processes that are in none of them."""
        tree = self._tree
        if tree.stale:
            tree.look(asker)
            if tree.enabled:
                read_memory(tree)
                read_mig_processes(asker, tree, now.unix_ns, known.get("memory_total_bytes"))
        if not tree.enabled:
            return {}
        found: dict[str, Any] = {"processes": tree.outside, "processes_read_at_ns": tree.processes_read_at_ns}
        if tree.listed:
            found |= {"mig": tuple(_reading(tree, device) for device in tree.devices), "mig_slices": tree.slices}
        return found


def read_memory(tree: MigTree) -> None:
    """Bytes of each GPU instance, asked once for all of its devices. One that cannot say is left without."""
    for number, instance in tree.instances.items():
        before, instance.memory = instance.memory, None
        asker = tree.asker_of(number)
        try:
            # Version 1 is for drivers before 510.
            found = tree.ask(asker, "nvmlDeviceGetMemoryInfo_v2") or tree.ask(asker, "nvmlDeviceGetMemoryInfo")
            for other in instance.devices[1:]:
                tree.ask(tree.asker_of_device(other), "nvmlDeviceGetUUID")  # whether it is still there
        except (InstanceGone, Missed):
            continue
        if found is None:
            continue
        if before is not None and before.total != found.total:
            tree.stale = True  # another instance under the same handle
        instance.memory = InstanceMemory(found.used, found.free, getattr(found, "reserved", None), found.total)


def _reading(tree: MigTree, device: MigDevice) -> MigReading:
    instance = tree.instances[device.gpu_instance]
    memory = instance.memory
    return MigReading(
        uuid=device.uuid,
        index=device.index,
        gpu_instance=device.gpu_instance,
        compute_instance=device.compute_instance,
        profile=tree.profiles[device],
        gpu_instance_slices=device.gpu_instance_slices,
        compute_slices=device.compute_slices,
        placement_start=instance.placement_start,
        multiprocessors=device.multiprocessors,
        memory_used_bytes=memory and memory.used,
        memory_free_bytes=memory and memory.free,
        memory_reserved_bytes=memory and memory.reserved,
        memory_total_bytes=memory and memory.total,
        activity=instance.activity,
        processes=tree.processes.get((device.gpu_instance, device.compute_instance)),
    )
