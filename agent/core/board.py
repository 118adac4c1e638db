"""The latest state of the node: written by the stations that own each field, read by the API and the exporters."""

from dataclasses import dataclass, field

from agent.core.gpu_readings import GpuSnapshot
from agent.core.readings import EngineSnapshot
from agent.core.workloads import Attribution


@dataclass(slots=True)
class Board:
    """Latest values only; whoever needs the past asks the series history or the ledger.

    Each field is replaced whole by its one writer: `gpus` by the GPU reader, `workloads` by the workload
    watch, `engines[name]` by that engine's scraper.
    """

    node: str
    gpus: GpuSnapshot | None = None
    engines: dict[str, EngineSnapshot] = field(default_factory=dict)
    workloads: Attribution | None = None
