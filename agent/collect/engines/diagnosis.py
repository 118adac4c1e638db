"""What an engine answered in, what that means and what to do about it out: the words of an engine's status."""

from collections.abc import Sequence

from agent.collect.engines.fetch import Answer
from agent.core.metrics.scrape import Scrape
from agent.core.readings import EngineState
from agent.engines.contract import EngineFile
from agent.engines.registry import BY_KIND, classify

MOST_HINTS = 2  # of more engines than this, hints are not read


class Unread(Exception):
    """A scrape gave nothing. `state` and `reason` go into the engine's status.

    `other`: whose page it is instead. `silent`: not one byte came.
    """

    def __init__(
        self, state: EngineState, reason: str, other: EngineFile | None = None, *, silent: bool = False
    ) -> None:
        super().__init__(reason)
        self.state = state
        self.reason = reason
        self.other = other
        self.silent = silent


def check_status(answer: Answer, address: str, candidates: Sequence[EngineFile]) -> None:
    """Raises `Unread` for every HTTP status but 200. `candidates` are the engines it may be."""
    status = answer.status
    if status == 200:
        return
    if 300 <= status < 400:
        raise Unread(
            "unknown_format",
            f"{address} redirects to {answer.location or 'nowhere'}, and redirects are not followed: put the final "
            "address into the config (engines.targets, url)",
        )
    if status == 400 and b"https" in answer.body[:1000].lower():
        raise Unread("unknown_format", f"{address} wants TLS: write https:// in its url")
    if status in (401, 403):
        raise Unread(
            "unknown_format",
            f"{address} answers {status}: it wants a token (set token_file of this engine), or refuses the one it got. "
            f"{_hints(candidates)}",
        )
    if status in (404, 405, 501):
        raise Unread("unknown_format", f"{address} answers {status}: no metrics there. {_hints(candidates)}")
    if status == 503:
        raise Unread("not_ready", f"{address} answers 503: the engine is loading its model or is shutting down")
    state: EngineState = "down" if status >= 500 else "unknown_format"
    raise Unread(state, f"{address} answers HTTP status {status} instead of metrics: look into the engine's log")


def unknown_page(scrape: Scrape, address: str, path: str, engine: EngineFile) -> Unread:
    """For a page that is not this engine's."""
    other = classify(scrape, path) if scrape.samples else None
    return Unread("unknown_format", why_unknown(scrape, address, engine.kind, (engine,), path), other)


def why_unknown(
    scrape: Scrape, address: str, wanted: str, candidates: Sequence[EngineFile], path: str = "/metrics"
) -> str:
    """Reason for a page that is not the wanted engine's. `wanted` is the kind in the config."""
    if not scrape.samples:
        return f"{address} shows no metrics: {scrape.problems[0]}. {_hints(candidates)}"
    other = classify(scrape, path)
    if other is not None:
        return f"{address} is {other.kind}, and the config says kind: {wanted}. Correct that line, or remove it"
    return (
        f"{address} shows {len(scrape.samples)} series, and none of an engine we know ({', '.join(BY_KIND)}). "
        f"{_hints(candidates)}"
    )


def verdict(scrape: Scrape) -> tuple[EngineState, str]:
    """State and reason for a page that was read: ready, and what is wrong on it if something is."""
    if not scrape.problems:
        return "ready", ""
    counts = []
    if scrape.malformed:
        counts.append(f"lines that could not be read: {scrape.malformed}")
    if scrape.duplicates:
        counts.append(f"series given twice: {scrape.duplicates}")
    if scrape.truncated:
        counts.append("only a part was read")
    if not counts:
        counts.append("see what follows")
    return "ready", f"the metrics page has faults ({', '.join(counts)}): {'; '.join(scrape.problems)}"


def _hints(candidates: Sequence[EngineFile]) -> str:
    if len(candidates) > MOST_HINTS:
        return "If it is one of ours, say which (engines.targets, kind): the option that shows its metrics is told then"
    return "; ".join(engine.metrics_hint for engine in candidates if engine.metrics_hint and engine.metrics_paths)
