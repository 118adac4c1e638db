"""The engines we know. Adding one is one line here (agent/engines/contract.py says what else)."""

from agent.core.metrics.scrape import Scrape
from agent.engines import llamacpp, vllm
from agent.engines.contract import EngineFile

ENGINES: tuple[EngineFile, ...] = (vllm, llamacpp)

BY_KIND: dict[str, EngineFile] = {engine.KIND: engine for engine in ENGINES}


def classify(scrape: Scrape) -> EngineFile | None:
    """The engine this page is from, by its content; None when no file knows it."""
    return next((engine for engine in ENGINES if engine.matches(scrape)), None)
