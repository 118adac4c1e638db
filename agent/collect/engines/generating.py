"""An engine that may be asked for a token in, whether it generates out; at most once a minute, and only if allowed.

Such a request takes a place in the engine's batch and costs a token, so it is off unless `engines.probe_generating`.
"""

import structlog

from agent.clock import NS, boot_ns
from agent.collect.engines.asking import Asker
from agent.collect.engines.health import Judged
from agent.collect.engines.unanswered import Unanswered
from agent.engines.contract import EngineFile

log = structlog.get_logger()

GENERATING_SECONDS = 60.0


class GeneratingProbe:
    """Keeps the last answer until the next is due."""

    def __init__(self, asker: Asker, allowed: bool) -> None:
        self._asker = asker
        self._allowed = allowed
        self._due_ns = 0
        self._last: Judged | None = None
        self._told = False

    async def ask(self, engine: EngineFile) -> Judged | None:
        """How the engine is by its last answer; None where it is not asked, or cannot be."""
        path = engine.health.generating
        if not self._allowed or path is None or not self._asker.answered:
            return None
        if boot_ns() < self._due_ns:
            return self._last
        self._due_ns = boot_ns() + int(GENERATING_SECONDS * NS)
        address = self._asker.address(path)
        if not self._told:
            self._told = True
            log.info("engine_asked_to_generate", url=address, every_seconds=GENERATING_SECONDS)
        try:
            status = (await self._asker.get(address)).status
        except Unanswered as failure:
            self._last = _not_ready(f"it does not generate: {failure.reason}")
        else:
            if status == 200:
                self._last = Judged(state="ready", live=True, ready=True)
            elif status >= 500 and status != 501:
                self._last = _not_ready(f"it does not generate: {address} answers {status}; its log tells why")
            else:
                self._last = None  # this version has no such path, or wants a token of ours for it
        return self._last


def _not_ready(reason: str) -> Judged:
    return Judged(state="not_ready", reason=f"{reason} (engines.probe_generating)", live=True, ready=False)
