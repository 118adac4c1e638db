"""GPU readings and who holds the GPUs → the rows of the page's GPU table. Plain values, already in words."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from markupsafe import Markup

from agent.api import formats
from agent.api.charts import Frame, Trace, described, plot, top_of
from agent.api.services import NodeServices
from agent.api.view import Cell, Charts
from agent.core.cost.present import PresentSlot
from agent.core.gpu_readings import GpuErrors, GpuReading, GpuSnapshot, MigReading
from agent.core.workloads import Attribution, Workload

NS = 1_000_000_000
HOT_CELSIUS = 85.0  # the thresholds of the shipped rules, drawn and coloured here
FULL_RATIO = 0.95
STALE_SECONDS = 15.0
MOST_NAMES = 4


@dataclass(slots=True)
class SliceRow:
    """One MIG device of a GPU."""

    profile: str
    uuid: str
    memory: str
    activity: str
    who: str


@dataclass(slots=True)
class GpuRow:
    """One line of the GPU table."""

    index: int
    model: str
    uuid: str
    state: str
    reason: str
    simulated: bool
    throttled: list[str]
    cells: list[Cell]
    who: str = ""
    warnings: list[str] = field(default_factory=list)
    slices: list[SliceRow] = field(default_factory=list)


def gpu_rows(
    snapshot: GpuSnapshot | None,
    charts: Charts,
    frame: Frame,
    workloads: Attribution | None = None,
    slots: Iterable[PresentSlot] = (),
) -> list[GpuRow]:
    """A row per GPU, in the order of their index."""
    states = {slot.slot: slot.state.replace("_", " ") for slot in slots}
    gpus = sorted(snapshot.gpus, key=lambda gpu: gpu.index) if snapshot else []
    power_top = top_of(
        [Trace("", "", points) for points in charts["power"].values()],
        max((gpu.power_limit_watts or 0.0 for gpu in gpus), default=0.0),
    )
    rows = []
    for gpu in gpus:
        row = _gpu_row(gpu, _cells(gpu, charts, frame, power_top))
        row.who = _joined("" if gpu.mig else states.get(gpu.uuid, ""), who(gpu.uuid, workloads))
        row.slices = [_slice(mig, workloads, states) for mig in gpu.mig or ()]
        rows.append(row)
    return rows


def _gpu_row(gpu: GpuReading, cells: list[Cell]) -> GpuRow:
    # A GPU at rest lowers its clocks for that reason; nobody needs to act on it.
    throttled = [r.replace("_", " ") for r in gpu.throttle_reasons or () if "idle" not in r and "application" not in r]
    return GpuRow(
        gpu.index,
        gpu.model,
        gpu.uuid,
        gpu.state,
        gpu.reason,
        gpu.simulated,
        throttled,
        cells,
        warnings=gpu_warnings(gpu),
    )


def _joined(*texts: str) -> str:
    return " · ".join(text for text in texts if text)


def _cells(gpu: GpuReading, charts: Charts, frame: Frame, power_top: float) -> list[Cell]:
    def small(kind: str, name: str, tone: str, top: float, mark: float | None = None) -> Markup:
        points = charts[kind].get((gpu.uuid,), [])
        show = formats.percent if top == 1.0 else formats.figure
        return plot(frame, [Trace(name, tone, points)], top, described(name, points, show), mark)

    used = memory_ratio(gpu.memory_used_bytes, gpu.memory_total_bytes)
    memory_note = f"of {formats.gib(gpu.memory_total_bytes)}" if gpu.memory_total_bytes is not None else ""
    limit = f"of {formats.figure(gpu.power_limit_watts, 'W')}" if gpu.power_limit_watts is not None else ""
    temperature = gpu.temperature_celsius
    hot = temperature is not None and temperature > HOT_CELSIUS
    full = used is not None and used > FULL_RATIO
    busy = small("utilization", "Utilisation", "a", 1.0)
    return [
        Cell("Utilisation", formats.percent(gpu.utilization_ratio), _busy_note(gpu), "", busy),
        Cell(
            "Memory",
            formats.percent(used),
            f"{formats.gib(gpu.memory_used_bytes, '')} {memory_note}" if memory_note else "",
            "warn" if full else "",
            small("memory", "Memory used", "b", 1.0, FULL_RATIO),
        ),
        Cell(
            "Temperature",
            formats.figure(temperature, "°C"),
            "",
            "bad" if hot else "",
            small("temperature", "Temperature", "c", 100.0, HOT_CELSIUS),
        ),
        Cell("Power", formats.figure(gpu.power_watts, "W"), limit, "", small("power", "Power", "d", power_top)),
    ]


def _busy_note(gpu: GpuReading) -> str:
    if gpu.utilization_doubtful:
        return "but no process"
    if gpu.activity is not None and gpu.activity.tensor_ratio is not None:
        return f"tensor {formats.percent(gpu.activity.tensor_ratio)}"
    return ""


def _slice(mig: MigReading, workloads: Attribution | None, states: Mapping[str, str]) -> SliceRow:
    used = memory_ratio(mig.memory_used_bytes, mig.memory_total_bytes)
    memory = f"{formats.percent(used)} of {formats.gib(mig.memory_total_bytes)}" if used is not None else ""
    busy = mig.activity.graphics_engine_ratio if mig.activity else None
    activity = f"{formats.percent(busy)} active" if busy is not None else ""
    whose = _joined(states.get(mig.uuid, ""), who(mig.uuid, workloads))
    return SliceRow(mig.profile, mig.uuid, memory, activity, whose)


def gpu_warnings(gpu: GpuReading) -> list[str]:
    """What the GPU says is wrong with it although it answers."""
    errors = gpu.errors or GpuErrors()
    found = []
    if errors.recovery_action not in (None, "none"):
        found.append(f"wants: {str(errors.recovery_action).replace('_', ' ')}")
    if errors.row_remap_failed:
        found.append("row remap failed")
    if errors.row_remap_pending or errors.retired_pages_pending:
        found.append("memory repair at next reset")
    if (errors.ecc_errors or {}).get("uncorrected_volatile"):
        found.append("uncorrected ECC errors")
    links = gpu.nvlink
    if links is not None and links.links and links.links_active is not None and links.links_active < links.links:
        found.append(f"NVLink {links.links_active} of {links.links}")
    return found


def who(slot: str, workloads: Attribution | None) -> str:
    """Who holds a slot, and who else uses it; empty when nobody is known."""
    if workloads is None:
        return ""
    holders = [holding.workload for holding in workloads.holdings if holding.slot == slot]
    names = dict.fromkeys(name for workload in holders if (name := _name(workload)))
    for user in workloads.users:
        if user.slot == slot and (user.workload is None or user.workload not in holders):
            names[_name(user.workload) or user.name or f"pid {user.pid}"] = None
    shown = list(names)[:MOST_NAMES]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _name(workload: Workload | None) -> str:
    if workload is None:
        return ""
    if workload.pod:
        return f"{workload.namespace}/{workload.pod}"
    if workload.job:
        return f"job {workload.job}"
    return workload.container or workload.container_id[:12]


def memory_ratio(used_bytes: int | None, total_bytes: int | None) -> float | None:
    """Memory in use, of what is installed."""
    if used_bytes is None or not total_bytes:
        return None
    return used_bytes / total_bytes


def gpu_notice(node: NodeServices) -> str:
    """A sentence when the GPU readings are missing, old or incomplete; empty when all is well."""
    snapshot = node.board.gpus
    if snapshot is None:
        return "No reading of the GPUs has arrived yet."
    age = (node.unix_ns() - snapshot.read_at_ns) / NS
    if age > STALE_SECONDS:
        return f"These readings are {formats.duration(age)} old: the GPU reader does not answer. {snapshot.message}"
    if snapshot.driver != "ok" or not snapshot.gpus:
        return snapshot.message or f"No GPU is visible (driver state: {snapshot.driver.replace('_', ' ')})."
    return snapshot.message
