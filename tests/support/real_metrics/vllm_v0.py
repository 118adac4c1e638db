"""vLLM's V0 metrics code (up to 0.8) from its wheel: iterations of the engine in, its page out.

`python -m tests.support.real_metrics.vllm_v0 WHEEL VERSION FOLDER`
"""

import importlib
import random
import time
from typing import Any

from tests.support.real_metrics.observed import Observed, arguments, fitting
from tests.support.real_metrics.stubs import Config, serve

MODEL = "meta-llama/Llama-3.1-8B-Instruct"
STEPS = 40
OUTCOMES = {"stop": "ok", "length": "ok", "abort": "client_abort"}


def _config() -> Config:
    return Config(
        compilation_config=Config(capture_sizes=[1, 2, 4, 8]),
        model_config=Config(served_model_name=MODEL, max_model_len=8192, enforce_eager=False),
        observability_config=Config(show_hidden_metrics=False),
        cache_config=Config(),
        lora_config=Config(max_loras=4),
    )


def _stats(make: Any, dice: random.Random, observed: Observed, number: int) -> Any:
    """One iteration; what it holds goes to `observed` too."""
    finished = dice.choice([0, 1, 2])

    def seconds(mean: float, spread: float, count: int = finished) -> list[float]:
        return [abs(dice.gauss(mean, spread)) for _ in range(count)]

    reasons = dice.choices(list(OUTCOMES), [8, 2, 1], k=finished)
    firsts, gaps = seconds(0.2, 0.1), seconds(0.018, 0.005, 9)
    whole, queued = seconds(4, 2), seconds(0.02, 0.02)
    output, preempted = dice.randint(5, 40), int(number % 15 == 14)
    observed.requests.update(OUTCOMES[reason] for reason in reasons)
    observed.tokens.update({"input": 500 * finished, "output": output})
    observed.took("time_to_first_token_seconds", *firsts)
    observed.took("time_per_output_token_seconds", *gaps)
    observed.took("request_duration_seconds", *whole)
    observed.took("queue_seconds", *queued)
    observed.values = {
        "requests_running": dice.randint(1, 20),
        "requests_waiting": dice.choice([0, 0, 3]),
        "kv_cache_usage_ratio": dice.random(),
        "preemptions_total": observed.values.get("preemptions_total", 0) + preempted,
    }
    return fitting(
        make,
        now=time.time(),
        num_running_sys=observed.values["requests_running"],
        num_waiting_sys=observed.values["requests_waiting"],
        num_swapped_sys=0,
        gpu_cache_usage_sys=observed.values["kv_cache_usage_ratio"],
        cpu_cache_usage_sys=0.0,
        cpu_prefix_cache_hit_rate=-1.0,
        gpu_prefix_cache_hit_rate=0.31,
        num_prompt_tokens_iter=500 * finished,
        num_generation_tokens_iter=output,
        num_tokens_iter=500 * finished + output,
        time_to_first_tokens_iter=firsts,
        time_per_output_tokens_iter=gaps,
        num_preemption_iter=preempted,
        time_e2e_requests=whole,
        time_queue_requests=queued,
        time_inference_requests=whole,
        time_prefill_requests=seconds(0.15, 0.05),
        time_decode_requests=seconds(3.5, 1),
        time_in_queue_requests=queued,
        model_forward_time_requests=[],
        model_execute_time_requests=[],
        num_prompt_tokens_requests=[500] * finished,
        num_generation_tokens_requests=[100] * finished,
        n_requests=[1] * finished,
        max_num_generation_tokens_requests=[256] * finished,
        max_tokens_requests=[256] * finished,
        finished_reason_requests=reasons,
        waiting_lora_adapters=[],
        running_lora_adapters=["sql-lora"],
        max_lora="4",
    )


def main() -> None:
    """All steps, then the page."""
    root, _, folder, _ = arguments()
    serve(root, {"vllm", "ray"}, ("vllm.engine.metrics", "vllm.engine.metrics_types"), {})
    metrics = importlib.import_module("vllm.engine.metrics")
    make = importlib.import_module("vllm.engine.metrics_types").Stats
    logger = metrics.PrometheusStatLogger(local_interval=0.0, labels={"model_name": MODEL}, vllm_config=_config())
    dice, observed = random.Random(3), Observed(MODEL)
    for number in range(STEPS):
        logger.log(_stats(make, dice, observed, number))
    logger.log(_stats(make, random.Random(0), observed, 0))
    from prometheus_client import generate_latest

    observed.write(generate_latest().decode(), folder)


if __name__ == "__main__":
    main()
