"""vLLM's V1 metrics code (0.8 to 0.33) from its wheel: iterations of a scheduler in, its page out.

`python -m tests.support.real_metrics.vllm_v1 WHEEL VERSION FOLDER [dp]`; with `dp` two data-parallel ranks.
"""

import dataclasses
import importlib
import inspect
import random
import sys
import types
from pathlib import Path
from typing import Any

from tests.support.real_metrics.observed import Observed, arguments, fitting
from tests.support.real_metrics.stubs import Config, definitions, serve

MODEL = "meta-llama/Llama-3.1-8B-Instruct"
STEPS = 60
REAL = (
    "vllm.v1.metrics",
    "vllm.v1.metrics.buckets",
    "vllm.v1.metrics.cache_hit_source",
    "vllm.v1.metrics.loggers",
    "vllm.v1.metrics.prometheus",
    "vllm.v1.metrics.reader",
    "vllm.v1.metrics.stats",
    "vllm.v1.metrics.utils",
    "vllm.v1.spec_decode.metrics",
    "vllm.distributed.ec_transfer.ec_connector.metrics",
    "vllm.distributed.kv_transfer.kv_connector.v1.metrics",
)
OUTCOMES = {"STOP": "ok", "LENGTH": "ok", "REPETITION": "ok", "ABORT": "client_abort", "ERROR": "error"}
WEIGHTS = {"STOP": 80, "LENGTH": 15, "ABORT": 4, "ERROR": 3, "REPETITION": 2}


class _Driver:
    def __init__(self, root: Path, ranks: int) -> None:
        reasons = definitions(root / "vllm/v1/engine/__init__.py", "FINISH_REASON_STRINGS", "FinishReason")
        self.reasons = list(reasons["FinishReason"])
        environment = types.ModuleType("vllm.envs")
        environment.VLLM_COMPUTE_NANS_IN_LOGITS = False  # type: ignore[attr-defined]
        environment.VLLM_KV_CACHE_LAYOUT = None  # type: ignore[attr-defined]
        presets = {"vllm": {"envs": environment}, "vllm.v1.engine": {"FinishReason": reasons["FinishReason"]}}
        serve(root, {"vllm", "ray"}, REAL, presets)
        sys.modules["vllm.envs"] = environment
        loggers = importlib.import_module("vllm.v1.metrics.loggers")
        self.stats = importlib.import_module("vllm.v1.metrics.stats")
        self.dice = random.Random(7)
        self.observed = Observed(MODEL)
        self.ranks = range(ranks)
        self.usage = dict.fromkeys(self.ranks, 0.0)
        self.running = dict.fromkeys(self.ranks, 0)
        self.waiting = dict.fromkeys(self.ranks, 0)
        logger, config = loggers.PrometheusStatLogger, _config(ranks)
        if "engine_indexes" in inspect.signature(logger.__init__).parameters:
            self.loggers = [logger(config, list(self.ranks))] * ranks
        else:
            self.loggers = [logger(config, rank) for rank in self.ranks]
        for one in dict.fromkeys(self.loggers):
            if hasattr(one, "log_engine_initialized"):
                one.log_engine_initialized()

    def step(self, number: int, rank: int) -> None:
        """One iteration of one rank's scheduler."""
        scheduler, iteration = self._scheduler(rank), self._iteration(number)
        fitting(
            self.loggers[rank].record,
            scheduler_stats=scheduler,
            iteration_stats=iteration,
            mm_cache_stats=None,
            engine_idx=rank,
        )

    def _scheduler(self, rank: int) -> Any:
        stats = self.stats.SchedulerStats()
        self.running[rank], self.waiting[rank] = self.dice.randint(1, 24), self.dice.choice([0, 0, 0, 2, 5])
        self.usage[rank] = self.dice.random() * 0.8
        given = {
            "num_running_reqs": self.running[rank],
            "num_waiting_reqs": self.waiting[rank],
            "kv_cache_usage": self.usage[rank],
            "gpu_cache_usage": self.usage[rank],
        }
        names = {one.name for one in dataclasses.fields(stats)}
        for name in names & given.keys():
            setattr(stats, name, given[name])
        return stats

    def _iteration(self, number: int) -> Any:
        stats, observed, dice = self.stats.IterationStats(), self.observed, self.dice
        finished = dice.choice([0, 1, 2, 3])
        stats.num_generation_tokens = dice.randint(40, 400)
        observed.tokens["output"] += stats.num_generation_tokens
        if hasattr(stats, "prompt_token_stats"):
            prompts = stats.prompt_token_stats
            prompts.computed, prompts.local_cache_hit = 500 * finished, 300 * finished
            prompts.cached_tokens, prompts.total = 300 * finished, 800 * finished
            observed.tokens["input"] += 500 * finished
            observed.tokens["input_cached"] += 300 * finished
        else:  # it does not tell the cached ones apart
            stats.num_prompt_tokens = 800 * finished
            observed.tokens["input"] += 800 * finished
        stats.num_preempted_reqs = int(number % 25 == 24)
        observed.values["preemptions_total"] = observed.values.get("preemptions_total", 0) + stats.num_preempted_reqs
        stats.time_to_first_tokens_iter = [abs(dice.gauss(0.18, 0.12)) + 0.02 for _ in range(finished)]
        observed.took("time_to_first_token_seconds", *stats.time_to_first_tokens_iter)
        gaps = [abs(dice.gauss(0.018, 0.006)) for _ in range(12)]
        for name in ("inter_token_latencies_iter", "time_per_output_tokens_iter"):
            if hasattr(stats, name):
                setattr(stats, name, gaps)
        if not self._tells_means:
            observed.took("time_per_output_token_seconds", *gaps)
        stats.n_params_iter, stats.max_num_generation_tokens_iter = [1] * finished, [200] * finished
        stats.finished_requests = [self._finished() for _ in range(finished)]
        return stats

    @property
    def _tells_means(self) -> bool:
        """Whether a finished request carries the mean of its gaps, which then is what we read."""
        return "mean_time_per_output_token" in {f.name for f in dataclasses.fields(self.stats.FinishedRequestStats)}

    def _finished(self) -> Any:
        dice, observed = self.dice, self.observed
        (reason,) = dice.choices(self.reasons, [WEIGHTS[one.name] for one in self.reasons])
        queued, prefill, count = abs(dice.gauss(0.02, 0.05)), abs(dice.gauss(0.15, 0.1)), dice.randint(20, 400)
        decode = count * abs(dice.gauss(0.018, 0.004))
        observed.requests[OUTCOMES[reason.name]] += 1
        observed.took("request_duration_seconds", queued + prefill + decode + 0.01)
        observed.took("queue_seconds", queued)
        if self._tells_means:
            observed.took("time_per_output_token_seconds", decode / (count - 1))
        return fitting(
            self.stats.FinishedRequestStats,
            finish_reason=reason,
            request_id="chatcmpl-x",
            e2e_latency=queued + prefill + decode + 0.01,
            num_prompt_tokens=dice.choice([64, 220, 900, 3100]),
            num_generation_tokens=count,
            max_tokens_param=dice.choice([128, 256, 512]),
            queued_time=queued,
            prefill_time=prefill,
            inference_time=prefill + decode,
            decode_time=decode,
            mean_time_per_output_token=decode / (count - 1),
            num_cached_tokens=32,
            num_preemptions=0,
            is_corrupted=False,
        )


def _config(ranks: int) -> Config:
    cache = Config(num_gpu_blocks=21847, block_size=16)
    cache.metrics_info = lambda: {"block_size": "16", "num_gpu_blocks": "21847"}
    return Config(
        model_config=Config(served_model_name=MODEL, max_model_len=32768, is_diffusion=False),
        observability_config=Config(show_hidden_metrics=False, kv_cache_metrics=False, enable_mfu_metrics=False),
        cache_config=cache,
        device_config=Config(device_type="cuda"),
        parallel_config=Config(data_parallel_size=ranks),
    )


def main() -> None:
    """All steps of all ranks, then the page."""
    root, _, folder, flags = arguments()
    driver = _Driver(root, 2 if "dp" in flags else 1)
    for number in range(STEPS):
        for rank in driver.ranks:
            driver.step(number, rank)
    driver.observed.values |= {
        "requests_running": sum(driver.running.values()),
        "requests_waiting": sum(driver.waiting.values()),
        "kv_cache_usage_ratio": max(driver.usage.values()),
    }
    from prometheus_client import generate_latest

    driver.observed.write(generate_latest().decode(), folder)


if __name__ == "__main__":
    main()
