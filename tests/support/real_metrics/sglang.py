"""SGLang's metrics code (0.4.10 to 0.5.23) from its wheel: finished requests and scheduler steps in, its page out.

`python -m tests.support.real_metrics.sglang WHEEL VERSION FOLDER`; as in the server, through prometheus_client's
multiprocess mode, for which PROMETHEUS_MULTIPROC_DIR must name an empty folder.
"""

import dataclasses
import enum
import importlib
import random
import types
from pathlib import Path
from typing import Any

from tests.support.real_metrics.observed import Observed, arguments, fitting
from tests.support.real_metrics.stubs import Anything, Config, definitions, file_of, serve

MODEL = "Qwen/Qwen3-8B"
STEPS = 30
NEW, OLD = "sglang.srt.observability.metrics_collector", "sglang.srt.metrics.collector"
STAGES = "sglang.srt.observability.scheduler_stage_metrics"


class _Mode(enum.Enum):
    NULL = "null"
    PREFILL = "prefill"
    DECODE = "decode"


class _Environment:
    """Every switch is off."""

    def __getattr__(self, _: str) -> Any:
        return types.SimpleNamespace(get=lambda: False)


def _presets(root: Path) -> dict[str, dict[str, Any]]:
    file = file_of(root, STAGES)
    parts = ("context", "disagg", "observability", "parallel", "schedule", "serving")
    settings = Config(served_model_name=MODEL, prefill_delayer_max_delay_passes=30)
    context: dict[str, Any] = {f"get_{part}": lambda: settings for part in parts}
    return {
        "sglang.srt.utils": {"get_bool_env_var": lambda *_, **__: False},
        STAGES: {name: value for name, value in (definitions(file) if file else {}).items() if name.isupper()},
        "sglang.srt.runtime_context": context | {"exports_expert_balancedness_to_prometheus": lambda: False},
        "sglang.srt.environ": {"envs": _Environment()},
        "sglang.srt.disaggregation.utils": {"DisaggregationMode": _Mode},
    }


class _Driver:
    def __init__(self, root: Path, version: tuple[int, ...]) -> None:
        collector = OLD if file_of(root, OLD) else NEW
        utilities = ("sglang.srt.metrics.utils", "sglang.srt.observability.utils", "sglang.srt.utils.gauge_histogram")
        serve(root, {"sglang"}, (collector, *utilities), _presets(root))
        self.code = importlib.import_module(collector)
        self.version = version
        self.dice = random.Random(5)
        self.observed = Observed(MODEL)
        self.labels: dict[str, Any] = {"model_name": MODEL}
        scheduler: dict[str, Any] = dict(self.labels)
        if version >= (0, 5, 16):
            self.labels["engine_type"] = "unified"
        if version >= (0, 4, 10):
            scheduler |= {"engine_type": "unified", "tp_rank": 0, "pp_rank": 0}
        if version >= (0, 5, 7):
            scheduler["moe_ep_rank"] = 0
        settings = Config(served_model_name=MODEL, prefill_delayer_max_delay_passes=30)
        switches = dict.fromkeys(("enable_lora", "enable_hierarchical_cache", "enable_streaming_session"), False)
        self.scheduler = fitting(
            self.code.SchedulerMetricsCollector, labels=scheduler, server_args=settings, **switches
        )
        buckets = ("time_to_first_token", "inter_token_latency", "e2e_request_latency")
        self.tokenizer = fitting(
            self.code.TokenizerMetricsCollector,
            labels=self.labels,
            server_args=settings,
            collect_tokens_histogram=True,
            **{f"bucket_{name}": None for name in buckets},
        )

    def step(self) -> None:
        """One step of the scheduler, and the requests that finished."""
        dice, values = self.dice, self.observed.values
        stats = self.code.SchedulerStats()
        values["requests_running"], values["requests_waiting"] = dice.randint(1, 30), dice.choice([0, 0, 4])
        values["kv_cache_usage_ratio"] = round(dice.random(), 2)
        count = getattr(self.code, "QueueCount", None)
        given = {
            "num_running_reqs": values["requests_running"],
            "num_queue_reqs": values["requests_waiting"],
        }
        given = {name: count(total=value) if count else value for name, value in given.items()}
        given["token_usage"] = given["full_token_usage"] = values["kv_cache_usage_ratio"]
        given |= {"max_running_requests_under_SLO": None, "engine_startup_time": 41.2, "engine_load_weights_time": 12.9}
        names = {one.name for one in dataclasses.fields(stats)}
        for name in names:
            if name in given:
                setattr(stats, name, given[name])
            elif isinstance(getattr(stats, name), Anything):
                setattr(stats, name, 0)
        self.scheduler.log_stats(stats)
        for _ in range(dice.choice([0, 1, 2])):
            self._finished()
        if hasattr(self.scheduler, "observe_queue_time"):
            queued = abs(dice.gauss(0.03, 0.1))
            self.scheduler.observe_queue_time(queued)
            self.observed.took("queue_seconds", queued)

    def _finished(self) -> None:
        dice, observed = self.dice, self.observed
        prompt, output, whole = dice.choice([64, 500, 2100]), dice.randint(10, 400), abs(dice.gauss(4, 2))
        cached, gap, first = prompt // 4 * dice.choice([0, 1]), abs(dice.gauss(0.014, 0.004)), abs(dice.gauss(0.2, 0.1))
        fitting(
            self.tokenizer.observe_one_finished_request,
            labels=self.labels,
            prompt_tokens=prompt,
            generation_tokens=output,
            cached_tokens=cached,
            e2e_latency=whole,
            has_grammar=False,
            is_streaming=True,
            time_per_output_token=gap,
            cached_tokens_details={"device": cached, "host": 0} if cached else None,
            retraction_count=0,
        )
        fitting(self.tokenizer.observe_time_to_first_token, labels=self.labels, value=first, stream=True)
        new = 10
        fitting(self.tokenizer.observe_inter_token_latency, labels=self.labels, internval=gap * new, num_new_tokens=new)
        observed.requests["ok"] += 1
        if self.version < (0, 5, 16):  # there is nothing that tells the cached tokens apart and never runs backwards
            cached = 0
        observed.tokens.update({"input": prompt - cached, "output": output, "input_cached": cached})
        observed.took("request_duration_seconds", whole)
        observed.took("time_to_first_token_seconds", first)
        tells_means = hasattr(self.tokenizer, "histogram_request_time_per_output_token")
        observed.took("time_per_output_token_seconds", *([gap] if tells_means else [gap] * new))

    def abort(self) -> None:
        """One request that was given up."""
        if hasattr(self.tokenizer, "observe_one_aborted_request"):
            fitting(self.tokenizer.observe_one_aborted_request, labels=self.labels)
            self.observed.requests["client_abort"] += 1


def main() -> None:
    """All steps, then the page, put together from the files of multiprocess mode."""
    root, version, folder, _ = arguments()
    driver = _Driver(root, version)
    for _ in range(STEPS):
        driver.step()
    driver.abort()
    from prometheus_client import CollectorRegistry, generate_latest, multiprocess

    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    driver.observed.write(generate_latest(registry).decode(), folder)


if __name__ == "__main__":
    main()
