"""What an engine does not tell in, what of it nobody else tells either out: advice as people get it."""

from collections.abc import Iterator
from typing import get_args

from agent.core.election import SIDECAR_SIGNALS
from agent.core.readings import EngineStatus
from agent.core.requests import Outcome

TOLD_BY_SIDECAR = SIDECAR_SIGNALS | set(get_args(Outcome))
OF_THE_PLACE = frozenset({"address", "metrics", "processes", "ready"})
WORTH_A_NOTE = frozenset(
    {
        "client_abort",
        "input_cached",
        "kv_cache_usage_ratio",
        "model_memory_bytes",
        "preemptions_total",
        "queue_seconds",
        "rejected",
        "time_per_output_token_seconds",
    }
)
"""Signals that neither a shipped rule nor the bill needs."""


def open_advice(status: EngineStatus, *, has_sidecar: bool) -> Iterator[tuple[str, str]]:
    """(signal, words) of what is still missing: not what a sidecar tells of this engine, nor what its reason says.

    Of an engine that shows no metrics page only that is said: most of the rest comes with the page. Of one that is down
    nothing is known but that.
    """
    if status.state == "down" and status.url:
        return
    hides_page = any(advice.signal == "metrics" for advice in status.advice)
    for advice in status.advice:
        told = has_sidecar and advice.signal in TOLD_BY_SIDECAR
        if hides_page and advice.signal not in OF_THE_PLACE:
            continue
        if not told and advice.text not in status.reason:
            yield advice.signal, advice.text
