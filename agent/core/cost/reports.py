"""Questions to the ledger and their answers: plain values between the ledger, the API and the page."""

from typing import Literal

from msgspec import Struct

SlotState = Literal[
    "request",
    "unattributed",
    "loaded_idle",
    "warmup",
    "other_workload",
    "allocated_idle",
    "unallocated",
    "broken",
    "gap",
]
Dimension = Literal["tenant", "model", "engine", "gpu", "gpu_model", "node", "state", "outcome"]
Basis = Literal["usage", "allocation"]


class ReportQuery(Struct, frozen=True, kw_only=True):
    """`start_ns` <= bucket < `end_ns`; `step_seconds` None means one row per group for the whole window.

    Basis ``usage`` shows states as they were booked. Basis ``allocation`` spreads every state that is not `request`
    or `unattributed` over the requests and bypass traffic of the same slot in the same window, by their GPU time.

    With a `tenant`, rows and totals hold that tenant's part of the report only; its share of idle time is the same as
    in the whole report.
    """

    start_ns: int
    end_ns: int
    aggregate: tuple[Dimension, ...] = ("state",)
    step_seconds: int | None = None
    basis: Basis = "usage"
    tenant: str | None = None


class ReportRow(Struct, frozen=True, kw_only=True):
    """One group. `cost_nano` is None when no price covers the GPU; the GPU time is exact all the same."""

    start_ns: int
    end_ns: int
    group: dict[str, str]
    gpu_ns: int
    cost_nano: int | None
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


class Report(Struct, frozen=True, kw_only=True):
    """Rows sum to the bill of the window, or of its tenant: `total_gpu_ns` and `total_cost_nano` are those sums."""

    query: ReportQuery
    currency: str | None
    rows: tuple[ReportRow, ...]
    total_gpu_ns: int
    total_cost_nano: int | None


class SlotReconciliation(Struct, frozen=True, kw_only=True):
    """The identity of one slot: the parts booked equal price x time, to the last nano-unit."""

    gpu: str
    gpu_model: str
    from_ns: int
    to_ns: int
    wall_ns: int
    parts_ns: dict[str, int]  # state -> GPU ns
    bill_nano: int | None  # floor(price x wall time), from the price book alone
    parts_nano: dict[str, int]  # state -> nano-units booked
    reconciles: bool


class Reconciliation(Struct, frozen=True, kw_only=True):
    """`reconciles` is True when every slot does, in time and in money."""

    node: str
    currency: str | None
    slots: tuple[SlotReconciliation, ...]
    bill_nano: int | None
    parts_nano: dict[str, int]
    reconciles: bool


class PricePart(Struct, frozen=True, kw_only=True):
    """What one GPU's hourly price is made of; parts sum to the price before rounding."""

    name: str
    nano_per_hour: int


class GpuPrice(Struct, frozen=True, kw_only=True):
    """The price in force for a GPU model, as shown to people."""

    gpu_model: str
    currency: str
    nano_per_hour: int
    effective_from: str
    parts: tuple[PricePart, ...] = ()


class RequestCost(Struct, frozen=True, kw_only=True):
    """The price of one request and where it came from."""

    id: str
    engine: str
    model: str | None
    tenant: str | None
    outcome: str | None
    started_at_ns: int
    ended_at_ns: int | None
    gpu_ns: int
    cost_nano: int | None
    currency: str | None
    settled: bool
    input_tokens: int | None = None
    input_cached_tokens: int | None = None
    output_tokens: int | None = None
