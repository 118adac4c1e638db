"""What an engine showed in, what it does not tell and what would give it out: the words are those of its file."""

from collections.abc import Iterable

from agent.collect.engines.look import Look
from agent.collect.engines.targets import EngineTarget
from agent.core.readings import Advice, EngineReading

_SEVERAL = ("tokens_total", "requests_total")  # signals that are told kind by kind
_NOT_SIGNALS = ("engine", "kind", "url", "model", "read_at_ns", "role")
_SIGNALS = tuple(name for name in EngineReading.__struct_fields__ if name not in _NOT_SIGNALS)


def present_in(readings: Iterable[EngineReading]) -> frozenset[str]:
    """The signals, kinds of tokens and outcomes that at least one reading has."""
    found: set[str] = set()
    for reading in readings:
        for name in _SIGNALS:
            value = getattr(reading, name)
            if value is not None:
                found.add(name)
                if name in _SEVERAL:
                    found.update(value)
    return frozenset(found)


class Adviser:
    """The advice for one engine, made anew only when what it shows has changed."""

    def __init__(self) -> None:
        self._seen: tuple[str, bool, frozenset[str]] | None = None
        self._advice: tuple[Advice, ...] = ()

    def advise(self, look: Look, readings: Iterable[EngineReading]) -> tuple[Advice, ...]:
        """What is absent in all readings of an engine that is up, in the order of its file.

        A page that is late or damaged says nothing of what the engine could tell: then the last advice holds.
        """
        engine = look.engine
        hidden = look.hides_page or not engine.metrics_paths
        if not look.shows_page and not hidden:
            return self._advice
        seen = (engine.kind, hidden, present_in(readings))
        if seen != self._seen:
            self._seen = seen
            page = (Advice(signal="metrics", text=engine.metrics_hint),) if hidden and engine.metrics_hint else ()
            absent = (Advice(signal=name, text=text) for name, text in engine.absent.items() if name not in seen[2])
            self._advice = (*page, *absent)
        return self._advice


def of_target(target: EngineTarget, sees_processes: bool) -> tuple[Advice, ...]:
    """What its place hides: it is out of reach, or nobody can tell which GPUs it works on."""
    if target.unreachable:
        return (Advice(signal="address", text=target.unreachable),)
    if sees_processes or target.gpus or not target.is_local:
        return ()
    text = (
        f"the processes behind {target.url} cannot be seen, so its GPUs are not known: run the agent as root or with "
        "CAP_SYS_PTRACE in the host's process namespace, or name the GPUs in the config (engines.targets, gpus)"
    )
    return (Advice(signal="processes", text=text),)
