"""Every metric we export: name, type, unit, help, labels. /metrics, docs, rules and dashboards are checked against it.

`name` is the name people query. A counter's name ends in ``_total``; a histogram's series add ``_bucket``, ``_sum``
and ``_count``. `unit` is the OpenMetrics unit, which the name (without ``_total``) must end in.
"""

from agent.core.catalogue_cost import COST
from agent.core.catalogue_engines import ENGINES
from agent.core.catalogue_gpu import GPUS
from agent.core.catalogue_sidecar import SIDECAR
from agent.core.catalogue_slots import SLOTS
from agent.core.catalogue_types import NODE, Metric
from agent.core.catalogue_workloads import WORKLOADS
from agent.core.catalogue_xids import XIDS

STREAM = ("node", "stream")
DESTINATION = ("node", "stream", "destination")

LATENCY_BOUNDS_SECONDS = (
    0.05,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    1.5,
    2.0,
    3.0,
    5.0,
    7.5,
    10.0,
    20.0,
    30.0,
    60.0,
    120.0,
    300.0,
)
"""Whole-request durations. 2.0 is a bound on purpose: the latency alert must not interpolate."""

FIRST_TOKEN_BOUNDS_SECONDS = (0.005, 0.01, 0.02, 0.04, 0.06, 0.1, 0.25, 0.5, 0.75, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 60.0)
OUTPUT_TOKEN_BOUNDS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)

CATALOGUE: tuple[Metric, ...] = (
    *GPUS,
    *XIDS,
    *WORKLOADS,
    *SLOTS,
    Metric(
        "engineroom_gpu_slot_seconds_total",
        "counter",
        "GPU time booked to a state; the states of a GPU add up to wall time.",
        ("node", "uuid", "state"),
        "seconds",
    ),
    *ENGINES,
    *COST,
    # Money
    Metric(
        "engineroom_cost_total",
        "counter",
        "GPU cost booked, in whole units of the currency; never decreases.",
        ("node", "state", "tenant", "model", "currency"),
    ),
    Metric(
        "engineroom_cost_gpu_hour",
        "gauge",
        "Price of one GPU hour in force now.",
        ("node", "gpu", "uuid", "gpu_model", "currency"),
    ),
    # Alerts on the node
    Metric(
        "engineroom_alerts", "gauge", "Alerts of the node's own rules in a state (pending, firing).", ("node", "state")
    ),
    Metric(
        "engineroom_rule_evaluation_seconds", "gauge", "Time the last evaluation of all rules took.", NODE, "seconds"
    ),
    Metric("engineroom_rule_failures", "gauge", "Rules whose last evaluation failed.", NODE),
    Metric(
        "engineroom_alerts_delivered_total",
        "counter",
        "Alert states confirmed by a destination.",
        ("node", "destination"),
    ),
    Metric(
        "engineroom_alerts_rejected_total",
        "counter",
        "Alert states a destination refused for good.",
        ("node", "destination"),
    ),
    Metric(
        "engineroom_alerts_pending",
        "gauge",
        "Alert states not yet confirmed by a destination.",
        ("node", "destination"),
    ),
    # The agent itself
    Metric("engineroom_build_info", "gauge", "Constant 1; the label tells the version.", ("node", "version")),
    Metric("engineroom_cycle_up", "gauge", "1 when the last run of a periodic part succeeded.", ("node", "cycle")),
    Metric(
        "engineroom_cycle_runs_total", "counter", "Runs of a periodic part, by result.", ("node", "cycle", "result")
    ),
    Metric(
        "engineroom_cycle_missed_total",
        "counter",
        "Turns of a periodic part skipped because it was late.",
        ("node", "cycle"),
    ),
    Metric(
        "engineroom_cycle_last_seconds",
        "gauge",
        "Time the last run of a periodic part took.",
        ("node", "cycle"),
        "seconds",
    ),
    Metric("engineroom_history_series", "gauge", "Series kept in memory for rules and queries.", NODE),
    Metric("engineroom_history_bytes", "gauge", "Memory used by the kept series.", NODE, "bytes"),
    Metric(
        "engineroom_history_dropped_samples_total",
        "counter",
        "Samples not kept in memory, by reason.",
        ("node", "reason"),
    ),
    Metric("engineroom_records_accepted_total", "counter", "Request events stored durably, by kind.", ("node", "kind")),
    Metric("engineroom_records_repeated_total", "counter", "Request events that came again and changed nothing.", NODE),
    Metric(
        "engineroom_records_refused_total",
        "counter",
        "Request events that will never be stored, by reason (unreadable, value, tenant, sender).",
        ("node", "reason"),
    ),
    Metric(
        "engineroom_records_missing",
        "gauge",
        "Request events, of all since the ledger began, that sidecars numbered and that have not come.",
        NODE,
    ),
    *SIDECAR,
    # Streams of the spool and their destinations. Of each stream, at every instant:
    # accepted = waiting + the sum of items over `result`.
    Metric("engineroom_delivery_accepted_items_total", "counter", "Items made durable, to be delivered.", STREAM),
    Metric("engineroom_delivery_waiting_items", "gauge", "Items accepted and not settled.", STREAM),
    Metric(
        "engineroom_delivery_items_total",
        "counter",
        "Items settled, by result: delivered, duplicate, refused_kept (by the destination's failure store), dead, "
        "dropped:<reason>, unknown (the marks that would tell were damaged).",
        (*STREAM, "result"),
    ),
    Metric(
        "engineroom_delivery_oldest_age_seconds",
        "gauge",
        "Age of the oldest waiting item; 0 for none.",
        STREAM,
        "seconds",
    ),
    Metric("engineroom_delivery_up", "gauge", "1 if the last answer of the destination was a good one.", DESTINATION),
    Metric(
        "engineroom_delivery_paused",
        "gauge",
        "1 while the destination takes nothing until somebody mends something.",
        DESTINATION,
    ),
    Metric("engineroom_delivery_attempts_total", "counter", "Requests begun.", DESTINATION),
    Metric("engineroom_delivery_retries_total", "counter", "Requests after which items are sent again.", DESTINATION),
    Metric("engineroom_delivery_concurrency", "gauge", "Requests that may be under way now.", DESTINATION),
    Metric("engineroom_spool_used_bytes", "gauge", "Space that the stream's files take.", STREAM, "bytes"),
    Metric("engineroom_spool_limit_bytes", "gauge", "Most space that the stream may take.", STREAM, "bytes"),
    Metric("engineroom_spool_blocked", "gauge", "1 while the stream cannot be written, or not be read.", STREAM),
    Metric("engineroom_spool_sync_seconds", "gauge", "Time the last sync to the disk took.", STREAM, "seconds"),
    Metric("engineroom_spool_syncs_total", "counter", "Syncs to the disk.", STREAM),
    Metric("engineroom_spool_damaged_frames_total", "counter", "Frames that could not be read back.", STREAM),
    Metric(
        "engineroom_spool_retired_segments_total", "counter", "Files given up because a write to them failed.", STREAM
    ),
    Metric(
        "engineroom_listener_unusable_files",
        "gauge",
        "Files of credentials and certificates that cannot be used as they are now; the last good ones are in force.",
        ("node", "listener"),
    ),
    Metric(
        "engineroom_listener_certificate_expiry_timestamp_seconds",
        "gauge",
        "When the certificate that clients are shown expires.",
        ("node", "listener"),
        "seconds",
    ),
    Metric(
        "engineroom_series_overflow_total", "counter", "Samples counted into the label value `other` at the cap.", NODE
    ),
    Metric(
        "engineroom_clock_step_seconds",
        "gauge",
        "How far the wall clock stepped against the bill's clock.",
        NODE,
        "seconds",
    ),
)

BY_NAME: dict[str, Metric] = {metric.name: metric for metric in CATALOGUE}
