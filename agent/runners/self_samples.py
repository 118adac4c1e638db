"""The state of rules, deliveries and money in, samples for /metrics and the history out."""

from collections.abc import Iterable, Iterator, Mapping

from agent.clock import NS
from agent.core.alerts.alert import AlertState
from agent.core.board import Board
from agent.core.cost.present import PresentSlot
from agent.core.metrics.published import gauge, labelled
from agent.core.metrics.published_gpu import gpu_labels
from agent.core.metrics.samples import Labels, Sample
from agent.delivery.latest import DeliveryCounts
from agent.runners.rules import RuleRunner
from agent.runners.settlement import Settlement

NANO = 1_000_000_000


def rule_samples(node: str, rules: RuleRunner) -> Iterator[Sample]:
    """Alerts by state, and how the rules themselves are doing."""
    base: Labels = (("node", node),)
    states = [alert.state for alert in rules.alerts()]
    for state in (AlertState.PENDING, AlertState.FIRING):
        yield from gauge("engineroom_alerts", states.count(state), (*base, ("state", state.value)))
    statuses = rules.statuses()
    yield from gauge("engineroom_rule_evaluation_seconds", sum(status.duration_seconds for status in statuses), base)
    yield from gauge("engineroom_rule_failures", sum(status.health == "err" for status in statuses), base)


def delivery_samples(node: str, counts: Mapping[str, DeliveryCounts], pending: Mapping[str, int]) -> Iterator[Sample]:
    """What each destination of alerts has confirmed, refused and not yet been told."""
    base: Labels = (("node", node),)
    delivered = {name: count.delivered for name, count in counts.items()}
    rejected = {name: count.rejected for name, count in counts.items()}
    yield from labelled("engineroom_alerts_delivered_total", delivered, "destination", base)
    yield from labelled("engineroom_alerts_rejected_total", rejected, "destination", base)
    yield from labelled("engineroom_alerts_pending", pending, "destination", base)


def money_samples(node: str, settlement: Settlement, board: Board) -> Iterator[Sample]:
    """Booked money and GPU time, which go on where the ledger ends; prices in force; accepted request events.

    Money leaves its integers here: a Prometheus value is a float. The ledger and the reports keep the integers.
    """
    base: Labels = (("node", node),)
    for (state, tenant, model, currency), nano in settlement.cost_total_nano.items():
        labels = (*base, ("state", state), ("tenant", tenant), ("model", model), ("currency", currency))
        yield from gauge("engineroom_cost_total", nano / NANO, labels)
    for (uuid, state), ns in settlement.slot_total_ns.items():
        yield from gauge("engineroom_gpu_slot_seconds_total", ns / NS, (*base, ("uuid", uuid), ("state", state)))
    yield from labelled("engineroom_records_accepted_total", settlement.senders.accepted, "kind", base)
    yield from gauge("engineroom_records_repeated_total", settlement.senders.repeated, base)
    yield from labelled("engineroom_records_refused_total", settlement.senders.refused, "reason", base)
    yield from gauge("engineroom_records_missing", settlement.senders.missing, base)
    prices = {price.gpu_model: price for price in settlement.prices_in_force()}
    for gpu in board.gpus.gpus if board.gpus else ():
        price = prices.get(gpu.model)
        if price is not None:
            labels = (*gpu_labels(node, gpu), ("currency", price.currency))
            yield from gauge("engineroom_cost_gpu_hour", price.nano_per_hour / NANO, labels)


def slot_samples(node: str, slots: Iterable[PresentSlot]) -> Iterator[Sample]:
    """Which state each slot is in now, why, and how much memory is stranded on it."""
    for slot in slots:
        base: Labels = (("node", node), ("uuid", slot.gpu), ("slot", slot.slot))
        simulated: Labels = (("simulated", "true" if slot.simulated else ""),)
        labels = (*base, ("state", slot.state), ("reason", slot.reason), *simulated)
        yield from gauge("engineroom_gpu_slot_state", 1, labels)
        yield from gauge("engineroom_gpu_slot_share_ratio", slot.weight / slot.weights, (*base, *simulated))
        cause: Labels = (("cause", slot.stranded_cause),)
        yield from gauge("engineroom_gpu_memory_stranded_bytes", slot.stranded_bytes, (*base, *cause, *simulated))
