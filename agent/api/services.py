"""What the API needs from the rest of the agent, as Protocols and plain values; the composition root fills it in."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from msgspec import Struct

from agent.api.cost_tables import Budgets
from agent.api.cost_variance import Variances, nothing_billed
from agent.api.savings_sources import SavingsSources
from agent.clock import NS, boot_ns, unix_ns
from agent.core.board import Board
from agent.core.cost.budgets import Standing
from agent.core.cost.constants import TariffView
from agent.core.cost.focus import FocusNames
from agent.core.cost.present import PresentSlot
from agent.core.cost.reports import GpuPrice, Reconciliation, Report, ReportQuery, RequestCost
from agent.core.quotas.leases import LeaseAnswer, LeaseRequest
from agent.core.quotas.policy import Policy
from agent.core.requests import RecordBatch, RecordReceipt, RefusedEvent
from agent.core.workloads import Feature
from agent.lifecycle import Health

_NAMES = FocusNames()


class Line(NamedTuple):
    """One series of an answer: its labels (with ``__name__`` where the query kept it) and (Unix ms, value) points."""

    labels: dict[str, str]
    points: list[tuple[int, float]]


class Answer(NamedTuple):
    """An instant query's result. A scalar is one line without labels; a string is in `text`."""

    kind: Literal["scalar", "string", "vector", "matrix"]
    lines: list[Line]
    text: str = ""


class QueryRefused(Exception):
    """The query cannot be parsed or is not supported. `kind` is Prometheus' error type."""

    def __init__(self, reason: str, kind: Literal["bad_data", "execution"] = "bad_data") -> None:
        super().__init__(reason)
        self.reason = reason
        self.kind: Literal["bad_data", "execution"] = kind


class Queries(Protocol):
    """PromQL over the history. Instants are Unix milliseconds. Both raise `QueryRefused`."""

    def instant(self, query: str, at_ms: int) -> Answer: ...

    def range(self, query: str, start_ms: int, end_ms: int, step_ms: int) -> list[Line]: ...

    def series(self, selector: str | None, start_ms: int, end_ms: int) -> list[dict[str, str]]:
        """Labels of every kept series that `selector` selects (all of them for None) with a sample in the window."""
        ...


class AlertView(Struct, frozen=True, kw_only=True):
    """One pending or firing alert, rendered."""

    name: str
    state: Literal["pending", "firing"]
    labels: dict[str, str]
    annotations: dict[str, str]
    active_at_ns: int
    value: float | None = None
    fired_at_ns: int | None = None


class RuleView(Struct, frozen=True, kw_only=True):
    """One rule and how its last evaluation went."""

    kind: Literal["alerting", "recording"]
    name: str
    query: str
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    for_seconds: float = 0.0
    keep_firing_for_seconds: float = 0.0
    health: Literal["unknown", "ok", "err"] = "unknown"
    error: str = ""
    evaluation_seconds: float = 0.0
    evaluated_at_ns: int | None = None
    alerts: tuple[AlertView, ...] = ()


class GroupView(Struct, frozen=True, kw_only=True):
    """A rule group of one file."""

    name: str
    file: str
    interval_seconds: float
    rules: tuple[RuleView, ...]
    evaluation_seconds: float = 0.0
    evaluated_at_ns: int | None = None
    limit: int = 0


class DeliveryView(Struct, frozen=True, kw_only=True):
    """How one destination is doing. `ok` is None before the first attempt."""

    destination: str
    ok: bool | None = None
    reason: str = ""
    pending: int | None = None
    delivered: int | None = None
    rejected: int | None = None
    last_success_at_ns: int | None = None


class Ledger(Protocol):
    """The part of the ledger that answers questions."""

    async def report(self, query: ReportQuery, /) -> Report: ...

    async def reconcile(self) -> Reconciliation: ...

    async def request_cost(self, request_id: str, /) -> RequestCost | None: ...


Lease = Callable[[str, str | None, LeaseRequest], LeaseAnswer]
"""A renewal, its sender as for `Accept`, and the tenant its credentials are limited to.

Raises `LateRenewal` and `TryLater`.
"""


def no_quotas(_sender: str, _tenant: str | None, request: LeaseRequest) -> LeaseAnswer:
    """The answer of an agent that has no rules."""
    policy = None if request.revision == "" else Policy()
    return LeaseAnswer(number=request.number, lease_ns=NS, sidecars=1, place=0, revision="", policy=policy)


Accept = Callable[[RecordBatch, str, Sequence[RefusedEvent]], Awaitable[RecordReceipt]]
"""A batch, who the doors say is its sender ('' when they do not ask), and what was refused of it so far."""


def _nothing() -> tuple[()]:
    return ()


def _nobody() -> Mapping[str, str]:
    return {}


@dataclass(slots=True, kw_only=True)
class NodeServices:
    """Everything the API reads. `price_source` says where prices come from, for people; empty when there are none.

    `simulated` and `hold_scale` are sentences shown on the page while they apply; empty otherwise. `hosts` are the
    names, besides loopback names and IP addresses, under which this agent may be asked for (Host header).
    """

    node: str
    version: str
    board: Board
    health: Health
    queries: Queries
    ledger: Ledger
    accept: Accept
    render_metrics: Callable[[bool], bytes]
    lease: Lease = no_quotas
    rule_groups: Callable[[], Sequence[GroupView]] = _nothing
    prices: Callable[[], Sequence[GpuPrice]] = _nothing
    price_source: str = ""
    deliveries: Callable[[], Sequence[DeliveryView]] = _nothing
    slots: Callable[[], Sequence[PresentSlot]] = _nothing
    features: Callable[[], Sequence[Feature]] = _nothing
    standings: Callable[[], Sequence[Standing]] = _nothing  # of budgets
    budgets: Budgets = _nothing  # the same, for the page
    tariff: Callable[[], Sequence[TariffView]] = _nothing
    variance: Variances = nothing_billed
    savings: SavingsSources | None = None  # what findings need beside ledger and board
    focus: FocusNames = _NAMES
    refused: Callable[[], Mapping[str, str]] = _nobody  # ports and processes that discovery does not ask → why
    simulated: str = ""
    hold_scale: str = ""
    time_zone: str = "UTC"
    hosts: frozenset[str] = frozenset()
    unix_ns: Callable[[], int] = unix_ns
    boot_ns: Callable[[], int] = boot_ns
