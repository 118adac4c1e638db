"""The faults that the demo can play, each of which must make its alert fire."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CLIENTS = 4
PAUSE_SECONDS = 0.6
EXAMPLE_PRICES = Path(__file__).resolve().parent.parent / "data" / "prices.yaml"


@dataclass(frozen=True, slots=True)
class Sickness:
    """`delay_seconds` before each completion is passed on; every `fail_every`-th completion answers 500 (0: none)."""

    delay_seconds: float = 0.0
    fail_every: int = 0


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong: on the simulated GPUs (`gpus`: fields of the control file), in front of the engine, or a budget.

    `day_amount`: of the budget of everything, in whole units of the currency.
    """

    alert: str
    gpus: dict[str, Any] = field(default_factory=dict)
    sickness: Sickness | None = None
    clients: int = CLIENTS
    day_amount: float | None = None


FAULTS: dict[str, Fault] = {
    "gpu-hot": Fault("GPUTemperatureHigh", gpus={"temperature": {"0": 93.0}}),
    "gpu-full": Fault("GPUMemoryNearlyFull", gpus={"memory_used_ratio": {"0": 0.98}}),
    # Enough clients that the rule's floor of 100 requests is passed within a short run although each takes 2.4 s.
    "engine-slow": Fault("LLMHighLatencyP99", sickness=Sickness(delay_seconds=2.4), clients=32),
    "engine-errors": Fault("LLMErrorRateHigh", sickness=Sickness(fail_every=8), clients=8),
    "over-budget": Fault("BudgetOverBy20Percent", day_amount=0.01),
}
