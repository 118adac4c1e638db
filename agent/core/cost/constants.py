"""Shapes of models and GPUs of engines in, from whoever knows them; the constants that the tariff charges by, out.

A shape in the configuration comes first, then what the engine tells of itself, then the config.json beside its weights.
With neither, or on a GPU of which the peaks are not known, nobody's work is known: time is shared equally, and the view
says so and why.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from msgspec import Struct

from agent.core.cost.fit import Fit, observe
from agent.core.cost.live import Live
from agent.core.cost.prompts import Prompts
from agent.core.cost.shapes import USUAL, Efficiency, GpuPower, ModelShape, ShapeSource, constants, power_of
from agent.core.cost.slots import Period
from agent.core.cost.work import Constants

MOST_MODELS = 256  # model names come from clients; later ones wait until one is forgotten
MOST_OBSERVED = 256  # requests in one observation; of busier engines one tick in several is looked at
_SHORTEST_NS = 500_000_000  # a shorter piece of a tick says too little

_ORDER: tuple[ShapeSource, ...] = ("config", "config_file", "engine", "model_folder")

Gpus = tuple[tuple[str, float], ...]
"""(name by NVML, part of it) of each GPU that an engine has."""


class ConstantsView(Struct, frozen=True, kw_only=True):
    """Nanoseconds of the engine's time for a prompt token, and for an output token and token of context."""

    prefill_ns: float
    context_ns: float


class TariffView(Struct, frozen=True, kw_only=True):
    """By what the requests for one model of one engine are charged, for people. `reason`: why it is the equal share."""

    engine: str
    model: str
    method: Literal["fitted", "shape", "equal_share"]
    reason: str = ""
    gpus: tuple[str, ...] = ()
    shape: ModelShape | None = None
    prior: ConstantsView | None = None  # by shape and GPUs
    fitted: ConstantsView | None = None  # None: switched off, or too few ticks yet
    fit_step_seconds: float | None = None  # what a step takes whatever is in the batch
    observations: int = 0


@dataclass(slots=True)
class _Entry:
    shape: ModelShape | None
    prior: Constants | None
    fit: Fit | None
    prompts: Prompts
    reason: str = ""
    used: int = 0

    @property
    def constants(self) -> Constants | None:
        found = self.prior if self.fit is None else self.fit.constants
        return None if found is None else found._replace(prompts=self.prompts)


class WorkConstants:
    """`constants_of` answers the tariff; `tell_*` are called by whoever finds something out, `observe` by the tick."""

    def __init__(
        self,
        configured: Sequence[tuple[str, ModelShape]] = (),
        powers: Sequence[tuple[str, GpuPower]] = (),
        *,
        efficiency: Efficiency = USUAL,
        fit: bool = True,
    ) -> None:
        """`configured`: (pattern of model names, shape), the first that fits counts. `powers`: of GPUs, likewise."""
        self._configured = tuple(configured)
        self._powers = tuple(powers)
        self._efficiency = efficiency
        self._fits = fit
        self._told: dict[str, dict[ShapeSource, dict[str, ModelShape]]] = {}
        self._gpus: dict[str, Gpus] = {}
        self._entries: dict[tuple[str, str], _Entry] = {}
        self._stale: set[str] = set()  # engines of which something new was told
        self._skipped: dict[str, int] = {}
        self._uses = 0

    def tell_shapes(self, engine: str, source: ShapeSource, shapes: Mapping[str, ModelShape]) -> None:
        """Shapes of the models an engine serves, by the names that clients use; '' is whichever it serves."""
        told = self._told.setdefault(engine, {})
        if told.get(source, {}) != shapes:
            told[source] = dict(shapes)
            self._stale.add(engine)

    def tell_gpus(self, engine: str, gpus: Iterable[tuple[str, float]]) -> None:
        """The GPUs it has now. None at all: those known before still count, it may only be unwatched."""
        now = tuple(sorted(gpus))
        if now and self._gpus.get(engine) != now:
            self._gpus[engine] = now
            self._stale.add(engine)

    def forget(self, engine: str) -> None:
        """The engine is no target any more."""
        self._told.pop(engine, None)
        self._gpus.pop(engine, None)
        self._skipped.pop(engine, None)
        self._entries = {key: entry for key, entry in self._entries.items() if key[0] != engine}

    def constants_of(self, engine: str, model: str) -> Constants | None:
        """None: its work is not known, and its requests share time equally."""
        return self._entry(engine, model).constants

    def observe(self, engine: str, lives: Sequence[Live], start_ns: int, end_ns: int, bypass_ns: int = 0) -> None:
        """A tick of an engine was closed, with these requests in it, and so much traffic past the sidecar."""
        entries = {model: self._entry(engine, model) for model in {live.model: None for live in lives}}
        for live in lives:
            if live.ended_ns is not None and start_ns < live.ended_ns <= end_ns:
                entries[live.model].prompts.learn(live)
        short = end_ns - start_ns < _SHORTEST_NS
        if not self._fits or short or bypass_ns or not entries or self._skips(engine, len(lives)):
            return
        first = next(iter(entries.values()))
        if first.fit is None or any(entry.shape != first.shape for entry in entries.values()):
            return  # which of the models took the time cannot be told
        seen = observe(lives, start_ns, end_ns, first.fit.constants._replace(prompts=first.prompts))
        if seen is not None:
            for entry in entries.values():
                if entry.fit is not None:
                    entry.fit.add(seen)

    def views(self) -> tuple[TariffView, ...]:
        """Every model that was asked for, in order of engine and name."""
        return tuple(self._view(engine, model, self._entries[engine, model]) for engine, model in sorted(self._entries))

    def _skips(self, engine: str, count: int) -> bool:
        skipped = self._skipped[engine] = self._skipped.get(engine, 0) + 1
        if skipped * MOST_OBSERVED < count:
            return True
        self._skipped[engine] = 0
        return False

    def _entry(self, engine: str, model: str) -> _Entry:
        if engine in self._stale:
            self._stale.discard(engine)
            for key in [key for key in self._entries if key[0] == engine]:
                self._entries[key] = self._made(*key, self._entries[key])
        entry = self._entries.get((engine, model))
        if entry is None:
            if len(self._entries) >= MOST_MODELS:
                del self._entries[min(self._entries, key=lambda key: self._entries[key].used)]
            entry = self._entries[engine, model] = self._made(engine, model, None)
        self._uses += 1
        entry.used = self._uses
        return entry

    def _made(self, engine: str, model: str, before: _Entry | None) -> _Entry:
        """A new one; what was learnt stays where the prior is what it was."""
        shape = self.shape_of(engine, model)
        gpus = self._gpus.get(engine, ())
        powers = [(name, part, self._power(name)) for name, part in gpus]
        unknown = [name for name, _, power in powers if power is None]
        prior, reason = None, ""
        if shape is None:
            reason = "the shape of this model is not known: give it in tariff.models"
        elif not gpus:
            reason = "it is not known on which GPUs this engine runs"
        elif unknown:
            reason = f"the peaks of {unknown[0]} are not known: give them in tariff.gpus"
        else:
            known = [power.part(part) for _, part, power in powers if power is not None]
            prior = constants(shape, known, self._efficiency)
        prompts = before.prompts if before else Prompts()
        used = before.used if before else 0
        if before is not None and before.prior == prior and before.fit is not None:
            return _Entry(shape, prior, before.fit, prompts, reason, used)
        return _Entry(shape, prior, Fit(prior) if self._fits and prior else None, prompts, reason, used)

    def shape_of(self, engine: str, model: str) -> ModelShape | None:
        """The shape of a model of an engine, from the configuration or as the engine told; None: not known."""
        for pattern, shape in self._configured:
            if fnmatchcase(model, pattern):
                return shape
        told = self._told.get(engine, {})
        for source in _ORDER:
            shapes = told.get(source, {})
            found = shapes.get(model) or (next(iter(shapes.values())) if len(shapes) == 1 else None)
            if found is not None:  # one of a single name: an adapter, or another name of it
                return found
        return None

    def _power(self, gpu_model: str) -> GpuPower | None:
        for pattern, power in self._powers:
            if fnmatchcase(gpu_model, pattern):
                return power
        return power_of(gpu_model)

    def _view(self, engine: str, model: str, entry: _Entry) -> TariffView:
        fitted = entry.fit.constants if entry.fit is not None else None
        if fitted is not None and fitted.source != "fitted":
            fitted = None
        return TariffView(
            engine=engine,
            model=model,
            method="equal_share" if entry.prior is None else "shape" if fitted is None else "fitted",
            reason=entry.reason,
            gpus=tuple(name for name, _ in self._gpus.get(engine, ())),
            shape=entry.shape,
            prior=_view(entry.prior),
            fitted=_view(fitted),
            fit_step_seconds=entry.fit.step_seconds if entry.fit is not None else None,
            observations=entry.fit.observations if entry.fit is not None else 0,
        )


def _view(found: Constants | None) -> ConstantsView | None:
    return None if found is None else ConstantsView(prefill_ns=found.prefill_ns, context_ns=found.context_ns)


def gpus_of(period: Period, model_of: Callable[[str], str | None]) -> dict[str, list[tuple[str, float]]]:
    """Engine -> (name by NVML, part) of each GPU it has slots of. A slot of several engines counts for each of them.

    `model_of`: uuid -> name; a GPU without one is left out.
    """
    found: dict[str, list[tuple[str, float]]] = {}
    for uuid, views in period.views.items():
        name, weights = model_of(uuid), sum(view.weight for view in views)
        parts: dict[str, int] = {}
        for view in views:
            for owner in view.owners:
                parts[owner.engine] = parts.get(owner.engine, 0) + view.weight
        for engine, part in parts.items():
            if name is not None and weights:
                found.setdefault(engine, []).append((name, part / weights))
    return found
