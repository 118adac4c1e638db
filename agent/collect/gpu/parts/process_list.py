"""The processes that hold memory on the GPU."""

from collections.abc import Mapping
from typing import Any

from agent.collect.gpu.parts.part import Asker, FieldKey, Fields, Moment, Tier
from agent.collect.gpu.processes import read_processes


class Processes:
    """NVML's three lists as one."""

    tier: Tier = "slow"
    fields: tuple[FieldKey, ...] = ()

    def read(self, asker: Asker, _fields: Fields, _known: Mapping[str, Any], now: Moment) -> dict[str, Any]:
        """Processes by pid, and the instant."""
        processes = read_processes(asker.calls, asker.gpu, asker.handle)
        return {} if processes is None else {"processes": processes, "processes_read_at_ns": now.unix_ns}
