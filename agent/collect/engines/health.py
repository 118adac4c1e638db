"""What an engine showed in, how it is out: whether it lives, whether it serves, and the reason for people.

A page of metrics shows that the process answers, not that the engine behind it works: vLLM's goes on when its engine
has died. So readiness has its own path, asked at each scrape.
"""

from msgspec import Struct

from agent.collect.engines.diagnosis import verdict
from agent.collect.engines.fetch import Answer
from agent.collect.engines.look import Look
from agent.collect.engines.unanswered import Unanswered
from agent.core.readings import EngineState


class Judged(Struct, frozen=True, kw_only=True):
    """`state` takes every engine for one that has been ready before and whose process is not seen; see `in_life`.

    `silent`: not one byte came.
    """

    state: EngineState
    reason: str = ""
    live: bool
    ready: bool | None = None
    silent: bool = False


def judge(look: Look, generates: Judged | None = None) -> Judged:
    """How the engine is. `generates` is what the last request for a token showed, where such requests are allowed."""
    if not look.answered:
        return Judged(state="down", reason=look.first_failure(), live=False, ready=False, silent=look.silent)
    said = _ready(look)
    if generates is not None and not (said is not None and said.ready is False):
        said = generates
    if said is not None and said.ready is False:
        return said
    ready = said.ready if said is not None else None
    if look.page.scrape is not None:
        state, reason = verdict(look.page.scrape)
        return Judged(state=state, reason=reason, live=True, ready=ready)
    failure = look.unread
    if failure is not None and failure.other is not None:
        return Judged(state="unknown_format", reason=failure.reason, live=True)
    if ready or look.page.bodies or look.says_it_lives:
        reason = failure.reason if failure is not None else ""
        if failure is not None and failure.state == "not_ready" and not ready:
            return Judged(state="not_ready", reason=reason, live=True, ready=False)
        return Judged(state="ready", reason=reason, live=True, ready=ready)
    if failure is None:
        return _not_understood(look)
    live = failure.state != "down"
    return Judged(state=failure.state, reason=failure.reason, live=live, ready=None if live else False)


def in_life(judged: Judged, *, started: bool, process_runs: bool) -> Judged:
    """The same, knowing whether it has been ready since its start, and whether its process is seen to run.

    One that has not been ready is starting, while it says so or says nothing. A process that runs and speaks
    something else (TLS, or errors alone) is not down: it is not understood.
    """
    if judged.state == "not_ready" and not started:
        return Judged(state="starting", reason=judged.reason, live=judged.live, ready=False)
    if judged.state != "down" or not process_runs:
        return judged
    if not judged.silent:
        return Judged(state="unknown_format", reason=judged.reason, live=True)
    if started:
        return judged
    reason = f"{judged.reason}. Its process runs, so it may still load its model: its log tells"
    return Judged(state="starting", reason=reason, live=False, ready=False)


def _ready(look: Look) -> Judged | None:
    """What the engine says of itself; None where it has no such path, or not in this version."""
    path = look.engine.health.ready
    answer = look.answers.get(path) if path is not None else None
    if answer is None:
        return None
    if isinstance(answer, Unanswered):
        return Judged(state="not_ready", reason=answer.reason, live=True, ready=False)
    if 200 <= answer.status < 300:
        return Judged(state="ready", live=True, ready=True)
    if answer.status < 500 or answer.status == 501:
        return None
    return Judged(state="not_ready", reason=_why_not_ready(look, path or "", answer), live=True, ready=False)


def _why_not_ready(look: Look, path: str, answer: Answer) -> str:
    said = " ".join(answer.body[:200].decode(errors="replace").split())
    shown = f" ({said})" if said and not said.startswith("<") else ""
    return (
        f"{path} of {look.engine.title} answers {answer.status}{shown}: it loads its model, is shutting down, or its "
        "engine has failed; its log tells"
    )


def _not_understood(look: Look) -> Judged:
    """It answers, is said to be an engine without a metrics page, and shows nothing of it."""
    told = []
    for path, answer in look.answers.items():
        if isinstance(answer, Answer):
            what = f"answers {answer.status}" if answer.status != 200 else "answers something else"
            told.append(f"{path} {what}")
    reason = f"this does not look like {look.engine.title}: {', '.join(told)}. Is the port right?"
    return Judged(state="unknown_format", reason=reason, live=True)
