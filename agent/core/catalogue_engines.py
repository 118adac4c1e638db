"""Metrics of inference engines: their canonical signals, their health, and how they are read."""

from agent.core.catalogue_types import Metric

LLM = ("node", "engine", "model", "source")
ENGINE = ("node", "engine")
ENGINE_KIND = (*ENGINE, "kind")

ENGINES: tuple[Metric, ...] = (
    Metric(
        "engineroom_llm_up",
        "gauge",
        "1 while the engine answers as an engine: it may yet not serve (engineroom_llm_ready), or not show its metrics "
        "(engineroom_engine_scrapes_total). Absent while its process loads and does not answer yet.",
        ENGINE_KIND,
    ),
    Metric(
        "engineroom_llm_live", "gauge", "1 while its process answers; for a worker, while it is there.", ENGINE_KIND
    ),
    Metric("engineroom_llm_ready", "gauge", "1 while the engine serves, as far as it says.", ENGINE_KIND),
    Metric("engineroom_llm_started", "gauge", "1 once the engine has been ready since its process began.", ENGINE_KIND),
    Metric(
        "engineroom_llm_ready_after_seconds",
        "gauge",
        "Time from the start of the engine's process until it was ready; absent where that was not watched.",
        ENGINE_KIND,
        "seconds",
    ),
    Metric(
        "engineroom_llm_info",
        "gauge",
        "Constant 1 for each served model. The role is prefill or decode where the engine does only that part of the "
        "work of a service; engines over several nodes have the same group.",
        (*ENGINE_KIND, "version", "model", "role", "group", "part", "service"),
    ),
    Metric(
        "engineroom_llm_requests_total",
        "counter",
        "Requests ended, by outcome: ok, error, timeout, client_abort, rejected, and lost_record: the sidecar was "
        "killed while they ran. Only error and timeout count as failures.",
        (*LLM, "outcome"),
    ),
    Metric("engineroom_llm_request_duration_seconds", "histogram", "First byte in to last byte out.", LLM, "seconds"),
    Metric(
        "engineroom_llm_time_to_first_token_seconds", "histogram", "First byte in to first token out.", LLM, "seconds"
    ),
    Metric(
        "engineroom_llm_time_per_output_token_seconds",
        "histogram",
        "Per request, mean time between output tokens.",
        LLM,
        "seconds",
    ),
    Metric(
        "engineroom_llm_queue_seconds", "histogram", "Time waited inside the engine before work began.", LLM, "seconds"
    ),
    Metric(
        "engineroom_llm_tokens_total",
        "counter",
        "Tokens, in disjoint kinds: input (computed), input_cached, output.",
        (*LLM, "kind"),
    ),
    Metric(
        "engineroom_llm_requests_running",
        "gauge",
        "Requests the engine works on now; from the sidecar: those it has under way there, queued ones included.",
        LLM,
    ),
    Metric("engineroom_llm_requests_waiting", "gauge", "Requests that wait inside the engine.", LLM),
    Metric("engineroom_llm_kv_cache_usage_ratio", "gauge", "Share of the KV cache in use.", LLM, "ratio"),
    Metric("engineroom_llm_preemptions_total", "counter", "Requests put back by the engine for lack of KV cache.", LLM),
    Metric(
        "engineroom_llm_model_memory_bytes",
        "gauge",
        "GPU memory that the loaded model takes, as the engine says.",
        LLM,
        "bytes",
    ),
    Metric("engineroom_engines", "gauge", "Engines watched, by how they were found.", ("node", "found_by")),
    Metric("engineroom_engine_restarts_total", "counter", "Restarts of the engine that this agent saw.", ENGINE),
    Metric(
        "engineroom_engine_crash_looping",
        "gauge",
        "1 after three restarts within ten minutes, until ten minutes pass without one.",
        ENGINE,
    ),
    Metric("engineroom_engine_scrape_seconds", "gauge", "Time the last scrape of an engine took.", ENGINE, "seconds"),
    Metric(
        "engineroom_engine_scrapes_total",
        "counter",
        "Scrapes of an engine, by result: ok, no_metrics (it answers and shows no metrics page that it could have), "
        "failed.",
        (*ENGINE, "result"),
    ),
    Metric(
        "engineroom_engine_page_problems",
        "gauge",
        "Lines of the metrics page that could not be read, and series given twice.",
        ENGINE,
    ),
)
