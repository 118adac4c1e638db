"""Snapshots in, the power that each GPU draws with nobody on it out. Pure.

Learned: the least that was seen while no process was on the GPU. Until then: what recordings of that model showed.
A minimum over all time would be wrong after a start under load, and the table alone is wrong for other boards.
"""

from agent.core.gpu_readings import GpuReading, GpuSnapshot

# Watts of an idle GPU in the recordings of real machines that the tests use (drivers 590 to 610).
RECORDED_IDLE_WATTS = {
    "NVIDIA H100 80GB HBM3": 69.9,
    "NVIDIA H200": 77.7,
    "NVIDIA L40S": 37.0,
    "NVIDIA GeForce RTX 4080 SUPER": 26.0,
    "NVIDIA GeForce RTX 2080 SUPER": 39.0,
}


class IdlePower:
    """Idle power by uuid of the GPUs that are there now."""

    def __init__(self) -> None:
        self._learned: dict[str, float] = {}
        self._watts: dict[str, float] = {}

    @property
    def watts(self) -> dict[str, float]:
        """uuid -> watts; a GPU of which nothing is known is absent."""
        return self._watts

    def see(self, snapshot: GpuSnapshot) -> None:
        """Take in one tick."""
        here = {gpu.uuid for gpu in snapshot.gpus}
        self._learned = {uuid: watts for uuid, watts in self._learned.items() if uuid in here}
        for gpu in snapshot.gpus:
            if gpu.power_watts is not None and _is_free(gpu):
                self._learned[gpu.uuid] = min(gpu.power_watts, self._learned.get(gpu.uuid, gpu.power_watts))
        known = {gpu.uuid: self._learned.get(gpu.uuid, RECORDED_IDLE_WATTS.get(gpu.model)) for gpu in snapshot.gpus}
        self._watts = {uuid: watts for uuid, watts in known.items() if watts is not None}


def _is_free(gpu: GpuReading) -> bool:
    """No process for certain: the list was read, and the driver reports no work either."""
    lists = [mig.processes for mig in gpu.mig] if gpu.mig else [gpu.processes]
    return all(processes == () for processes in lists) and not gpu.utilization_ratio
