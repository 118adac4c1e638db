"""Cost of evaluating a typical rule file over a full history, of taking in a scrape, and of remembering a sample."""

import gc
import statistics
import time

from agent.core.metrics.promql import evaluate, parse
from agent.core.metrics.samples import Sample, SeriesKey
from agent.core.metrics.series import History
from bench.figures import Figure

RULES = (
    "sum by (engine, model, le) (rate(engineroom_llm_request_duration_seconds_bucket[5m]))",
    "histogram_quantile(0.99, sum by (engine, model, le) (rate(engineroom_llm_request_duration_seconds_bucket[5m])))",
    "histogram_quantile(0.5, sum by (engine, model, le) (rate(engineroom_llm_time_to_first_token_seconds_bucket[5m])))",
    (
        'sum by (engine, model) (rate(engineroom_llm_requests_total{outcome=~"error|timeout"}[5m])) '
        "/ (sum by (engine, model) (rate(engineroom_llm_requests_total[5m])) > 0) > 0.01"
    ),
    "sum by (engine, model) (rate(engineroom_llm_requests_total[5m]))",
    "max by (uuid) (engineroom_gpu_temperature_celsius) > 85",
    "max by (uuid) (engineroom_gpu_memory_used_bytes) / max by (uuid) (engineroom_gpu_memory_total_bytes) > 0.95",
    "avg_over_time(engineroom_gpu_utilization_ratio[5m]) < 0.05 and on (uuid) engineroom_gpu_power_watts > 100",
    (
        "max_over_time(engineroom_llm_requests_waiting[10m]) > 10 "
        'and on (engine) rate(engineroom_llm_tokens_total{kind="output"}[1m]) > 0'
    ),
    "(day_of_month() - 1 + hour() / 24) / days_in_month()",
)
ROUNDS = 30
NOW_MS = 1_700_000_000_000
MINUTES = 30
GPU_GAUGES = ("temperature_celsius", "memory_used_bytes", "memory_total_bytes", "utilization_ratio", "power_watts")


def run() -> list[Figure]:
    """Fill the history as a node with 8 GPUs and 2 engines does in half an hour, and ask it."""
    history, append_us = _filled()
    rules = [parse(text) for text in RULES]
    rounds = []
    for _ in range(ROUNDS):
        gc.collect()
        started = time.perf_counter()
        for rule in rules:
            evaluate(rule, history, NOW_MS)
        rounds.append((time.perf_counter() - started) * 1000)
    stats = history.stats
    return [
        Figure(name="promql_rule_eval_ms", value=statistics.median(rounds), unit="ms/10 rules", bar=10, better="lower"),
        Figure(name="history_append_600_series_us", value=append_us, unit="us/scrape", bar=500, better="lower"),
        Figure(
            name="history_bytes_per_sample", value=stats.bytes / stats.samples, unit="bytes", bar=12, better="lower"
        ),
    ]


def engine_keys(engine: str, count: int = 600) -> list[SeriesKey]:
    """Series of one engine: histograms, counters, gauges, and enough raw ones to make `count`."""
    labels = [("node", "n1"), ("engine", engine), ("model", "llama-3-8b"), ("source", "engine")]
    keys = []
    bounds = [str(bound / 10) for bound in range(1, 24)] + ["+Inf"]
    for name in ("request_duration_seconds", "time_to_first_token_seconds", "time_per_output_token_seconds"):
        keys += [SeriesKey(f"engineroom_llm_{name}_bucket", [*labels, ("le", bound)]) for bound in bounds]
    outcomes = ("ok", "error", "timeout", "client_abort", "rejected")
    keys += [SeriesKey("engineroom_llm_requests_total", [*labels, ("outcome", outcome)]) for outcome in outcomes]
    keys += [SeriesKey("engineroom_llm_tokens_total", [*labels, ("kind", kind)]) for kind in ("input", "output")]
    keys.append(SeriesKey("engineroom_llm_requests_waiting", labels))
    raw = [SeriesKey(f"vllm:raw_{index // 24}", [*labels, ("n", str(index))]) for index in range(count - len(keys))]
    return keys + raw


def gpu_keys() -> list[SeriesKey]:
    """Series of 8 GPUs, 30 each."""
    keys = []
    for gpu in range(8):
        labels = [("node", "n1"), ("gpu", str(gpu)), ("uuid", f"GPU-{gpu}"), ("gpu_model", "H100")]
        keys += [SeriesKey(f"engineroom_gpu_{name}", labels) for name in GPU_GAUGES]
        keys += [SeriesKey(f"engineroom_gpu_more_{index}", labels) for index in range(30 - len(GPU_GAUGES))]
    return keys


def _filled() -> tuple[History, float]:
    history = History()
    engines = {name: engine_keys(name) for name in ("vllm-1", "vllm-2")}
    gpus = gpu_keys()
    appends = []
    start = NOW_MS - MINUTES * 60_000
    for second in range(1, MINUTES * 60 + 1):
        at_ms = start + second * 1000
        history.append("gpu", at_ms, [Sample(key, 40.0 + second % 60) for key in gpus])
        if second % 5 == 0:
            for name, keys in engines.items():
                samples = [Sample(key, float(second * (index % 24 + 1))) for index, key in enumerate(keys)]
                started = time.perf_counter()
                history.append(f"engine:{name}", at_ms, samples)
                appends.append((time.perf_counter() - started) * 1e6)
    return history, statistics.median(appends)
