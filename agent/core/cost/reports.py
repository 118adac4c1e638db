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
# Why a slot is in its state. '' in entries of before there were reasons.
SlotReason = Literal[
    "",
    "configured",  # owned: the configuration says which engine's it is
    "process",  # owned: an engine's process is on it; other_workload: a process that is no engine's
    "replica",  # owned: the holder of this share runs the engine
    "holding",  # owned: processes are hidden, and the only engine in the container that was given it is this one
    "group_worker",  # unattributed: it works for an engine whose requests another node knows, or nobody
    "group_idle",  # loaded_idle or warmup: the same, while nothing of its group works on this node
    "split_equal",  # several are on a shared slot, and nobody can say whose processes they are
    "memory",  # other_workload: processes are not listed, but more memory is in use than the driver's own
    "power",  # other_workload: neither processes nor memory are reported, but it is busy and draws power
    "not_seen",  # nothing was reported that could tell whether somebody is on it
    "not_allocated",  # in use by somebody to whom it was not given
    "held_no_process",  # allocated_idle: given to somebody who has no process on it
    "held_empty",  # allocated_idle: given to somebody who has no memory on it
    "free",  # unallocated: given to nobody
    "no_process",  # unallocated: nobody says who holds what, and nobody is on it
    "mig_unpartitioned",  # unallocated: no MIG device has this part of the GPU
    "lost",
    "hung",
    "reset_required",
    "missing",  # broken: a working driver does not list it any more
    "error",  # gap: it could not be read
    "not_watched",  # gap: no snapshot, or no driver
]
Dimension = Literal[
    "tenant",
    "model",
    "engine",
    "group",
    "gpu",
    "gpu_model",
    "node",
    "state",
    "outcome",
    "waste",  # why a request's cost bought nothing: its outcome where that is not `ok`, else ''
    "slot",
    "reason",
    "namespace",
    "pod",
]
Basis = Literal["usage", "allocation"]
IdlePolicy = Literal["none", "model", "node", "even", "owner"]
"""Who pays for what nobody used, on the basis `allocation`. `none`: rows of its own. `model`: the requests of the
engine's model, by GPU time; what belongs to no model stays. `node`: all requests of the node, by GPU time. `even`: all
tenants who sent a request, equal parts. `owner`: the tenant the slot is reserved for; what has no owner stays."""
SHARED_STATES = ("loaded_idle", "warmup", "allocated_idle", "unallocated", "broken", "gap")
"""What `IdlePolicy` spreads. Work for others (`other_workload`) is never anybody else's."""

FilterOp = Literal["is", "is_not", "contains", "contains_not", "starts", "starts_not", "ends", "ends_not"]


class Term(Struct, frozen=True):
    """A row passes when its `dimension` compares with any of `values` (for the negated ones: with none of them)."""

    dimension: Dimension
    op: FilterOp
    values: tuple[str, ...]


class ReportQuery(Struct, frozen=True, kw_only=True):
    """Buckets that begin in [`start_ns`, `end_ns`), cut into rows at `edges`: instants in between, ascending.

    Without edges there is one row per group for the whole window. (Calendar steps have no fixed length.)

    Basis ``usage`` shows states as they were booked. Basis ``allocation`` spreads `SHARED_STATES` by the policy `idle`,
    step by step. What is spread becomes part of the rows of those who pay; only with ``owner`` it keeps its state, as
    the owner's. Bypass traffic (`unattributed`) pays its part under ``model`` and ``node``. Where nobody is there to
    pay, the rows stay as they are. The sum over all rows is the same under every policy.

    With a `tenant`, rows and totals hold that tenant's part of the report only; its share of idle time is the same as
    in the whole report. The same holds for `filter`, of which every term must pass.
    """

    start_ns: int
    end_ns: int
    aggregate: tuple[Dimension, ...] = ("state",)
    basis: Basis = "usage"
    tenant: str | None = None
    edges: tuple[int, ...] = ()
    idle: IdlePolicy = "model"
    filter: tuple[Term, ...] = ()


class ReportRow(Struct, frozen=True, kw_only=True):
    """One group. `cost_nano` is None when no price covers the GPU; the GPU time is exact all the same."""

    start_ns: int
    end_ns: int
    group: dict[str, str]
    gpu_ns: int
    cost_nano: int | None
    requests: int = 0
    input_tokens: int = 0  # with the cached ones
    output_tokens: int = 0
    input_cached_tokens: int = 0
    work_ns: int = 0  # of `gpu_ns`: charged for prefill and decode work
    energy_uj: int | None = None  # None: nothing of it was metered
    metered_ns: int = 0


class Report(Struct, frozen=True, kw_only=True):
    """Rows sum to the bill of the window, or of its tenant: `total_gpu_ns` and `total_cost_nano` are those sums."""

    query: ReportQuery
    currency: str | None
    rows: tuple[ReportRow, ...]
    total_gpu_ns: int
    total_cost_nano: int | None
    # What the rows cover. Wider than asked where only hours or days are kept of the time at an end of the window.
    start_ns: int = 0
    end_ns: int = 0
    total_energy_uj: int | None = None
    notes: tuple[str, ...] = ()  # for people: what was widened, left out or converted


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
    energy_uj: int | None = None  # by the meter's first and last reading; None: no meter
    parts_uj: dict[str, int] = {}
    metered_ns: int = 0


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
    work_ns: int = 0  # of `gpu_ns`: its own prefill and decode; the rest is its share of the common time
    energy_uj: int | None = None
    seen_by: str = "sidecar"
    waste: str = ""
    attempt: int = 0
    max_output_tokens: int | None = None
    gpu_model: str = ""
    slots: tuple[str, ...] = ()  # on which it ran, as far as is kept
    price: GpuPrice | None = None  # of a GPU hour then
    precision: str = ""  # one sentence: how the cost was found, and how exact that is
