"""The sidecar's metrics, on its own admin address. It does not know its node: that label is the scraper's to add."""

from agent.core.catalogue_types import NODE, Metric

SIDECAR: tuple[Metric, ...] = (
    Metric("engineroom_sidecar_requests_in_flight", "gauge", "Requests being forwarded now.", NODE),
    Metric("engineroom_sidecar_client_connections", "gauge", "Open connections of clients.", NODE),
    Metric("engineroom_sidecar_forwarded_total", "counter", "Requests of every kind that were forwarded.", NODE),
    Metric("engineroom_sidecar_upstream_up", "gauge", "1 unless the last connection to an engine failed.", NODE),
    Metric("engineroom_sidecar_upstream_idle_connections", "gauge", "Unused open connections to the engine.", NODE),
    Metric("engineroom_sidecar_upstream_connects_total", "counter", "Connections made to the engine.", NODE),
    Metric(
        "engineroom_sidecar_upstream_retries_total",
        "counter",
        "Requests sent again because a kept connection had died, or another engine could take them.",
        NODE,
    ),
    Metric(
        "engineroom_sidecar_observation_failures_total",
        "counter",
        "Failures to observe a request that was forwarded.",
        NODE,
    ),
    Metric(
        "engineroom_sidecar_requests_total",
        "counter",
        "Recorded requests, by outcome; lost_record: those that the killed predecessor of this process left.",
        ("node", "outcome"),
    ),
    Metric(
        "engineroom_sidecar_request_duration_seconds",
        "histogram",
        "First byte in to last byte out.",
        ("node", "model", "outcome"),
        "seconds",
    ),
    Metric(
        "engineroom_sidecar_time_to_first_token_seconds",
        "histogram",
        "First byte in to first token out, of requests that were ok or timed out.",
        ("node", "model"),
        "seconds",
    ),
    Metric(
        "engineroom_sidecar_time_per_output_token_seconds",
        "histogram",
        "Per streamed request that was ok or timed out, mean time between output tokens.",
        ("node", "model"),
        "seconds",
    ),
    Metric(
        "engineroom_sidecar_queue_seconds",
        "histogram",
        "Time held back in the sidecar until a quota had room.",
        ("node", "model"),
        "seconds",
    ),
    Metric(
        "engineroom_sidecar_tokens_total",
        "counter",
        "Tokens, in disjoint kinds: input (computed), input_cached, output.",
        ("node", "model", "kind"),
    ),
    Metric("engineroom_sidecar_events_total", "counter", "Record events that were made.", NODE),
    Metric(
        "engineroom_sidecar_events_dropped_total",
        "counter",
        "Record events lost for want of room, by kind.",
        ("node", "event"),
    ),
    Metric("engineroom_sidecar_inflight_slots", "gauge", "Requests that fit into the in-flight file as it is.", NODE),
    Metric(
        "engineroom_sidecar_inflight_taken_slots",
        "gauge",
        "Requests in the in-flight file: those that run, and ended ones whose end is not durable yet.",
        NODE,
    ),
    Metric(
        "engineroom_sidecar_inflight_untracked_total",
        "counter",
        "Requests for which the in-flight file had no room: a kill while they ran would not have been told.",
        NODE,
    ),
    Metric(
        "engineroom_sidecar_inflight_unreadable_total",
        "counter",
        "Slots of the in-flight file that made no sense when this process started.",
        NODE,
    ),
    Metric("engineroom_sidecar_tenants", "gauge", "Tenants that the sidecar tells apart.", NODE),
    Metric(
        "engineroom_sidecar_tenants_grouped_total", "counter", "Times a further tenant was counted as `other`.", NODE
    ),
    Metric(
        "engineroom_sidecar_credentials_rejected_total",
        "counter",
        "Heads of requests with credentials that name nobody, by reason (missing: refused without any; unknown, "
        "expired, unfit).",
        ("node", "reason"),
    ),
    Metric("engineroom_sidecar_connections", "gauge", "Connections of clients that count against the limit.", NODE),
    Metric("engineroom_sidecar_connections_limit", "gauge", "Most connections of clients.", NODE),
    Metric(
        "engineroom_sidecar_refused_total",
        "counter",
        "Connections and requests turned away, by reason: connections, source_connections, rate, slow_head, slow_body, "
        "head_size, body_size, pipelined.",
        ("node", "reason"),
    ),
    Metric(
        "engineroom_sidecar_upstream_requests_in_flight",
        "gauge",
        "Requests that each engine is at work on.",
        ("node", "upstream"),
    ),
    Metric(
        "engineroom_sidecar_upstream_serving",
        "gauge",
        "0 while an engine is passed over because of its failures.",
        ("node", "upstream"),
    ),
    Metric(
        "engineroom_sidecar_upstream_ready",
        "gauge",
        "0 while an engine says by its readiness check that it takes nothing.",
        ("node", "upstream"),
    ),
    Metric("engineroom_sidecar_upstream_chosen_total", "counter", "Times an engine was chosen.", ("node", "upstream")),
    Metric(
        "engineroom_sidecar_upstream_failures_total",
        "counter",
        "Requests that got no connection, or a 5xx before anything else.",
        ("node", "upstream"),
    ),
    Metric(
        "engineroom_sidecar_upstream_ejections_total",
        "counter",
        "Times an engine was passed over for a while because of its failures.",
        ("node", "upstream"),
    ),
    Metric(
        "engineroom_sidecar_panic_choices_total",
        "counter",
        "Times an engine was chosen although all of them were to be passed over.",
        NODE,
    ),
    Metric(
        "engineroom_sidecar_workers", "gauge", "Worker processes, by state: running, silent, down.", ("node", "state")
    ),
    Metric("engineroom_sidecar_worker_restarts_total", "counter", "Workers that died and were started again.", NODE),
    Metric(
        "engineroom_sidecar_quota_requests_total",
        "counter",
        "Requests that a rule was about, by what became of them there: admitted, would_refuse (it only watches), "
        "refused, queued. At most 100 tenants for each rule, the rest is `other`.",
        ("node", "rule", "tenant", "result"),
    ),
    Metric(
        "engineroom_sidecar_quota_reservation_overrun_total",
        "counter",
        "What requests used beyond what had been reserved for them: tokens, or units of money.",
        ("node", "rule", "kind"),
    ),
    Metric("engineroom_sidecar_quota_waiting", "gauge", "Requests that wait for room.", NODE),
    Metric(
        "engineroom_sidecar_quota_unpriced_total",
        "counter",
        "Requests under a limit of money for which no price was known yet.",
        NODE,
    ),
    Metric(
        "engineroom_sidecar_quota_lease_valid",
        "gauge",
        "1 while the agent's leases hold; 0: each rule says what then happens.",
        NODE,
    ),
    Metric(
        "engineroom_sidecar_quota_lease_age_seconds",
        "gauge",
        "Time since the agent last answered about leases.",
        NODE,
        "seconds",
    ),
)
