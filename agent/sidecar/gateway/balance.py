"""Requests in, the engine that shall serve each out: the one with the fewest under way among those that serve.

Pure. An engine that fails again and again is left out for a time that doubles (ejected); after it one real request
tries it. When no engine is left, all are used: a gateway that is wrong about its engines must not make it worse.
"""

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from math import ceil

import structlog

from agent.clock import NS
from agent.core.metrics.published import gauge
from agent.core.metrics.samples import Sample
from agent.sidecar.gateway.settings import BalanceSettings

log = structlog.get_logger()

MOST_DOUBLINGS = 30
_MASK = (1 << 64) - 1
_DEFAULTS = BalanceSettings()


@dataclass(slots=True, eq=False)
class Engine:
    """One engine of a gateway. Everybody may read it; only `Balance` changes it."""

    name: str  # host:port
    models: frozenset[str] = frozenset()  # empty: every model
    index: int = 0  # its place among the engines, set by `Balance`
    outstanding: int = 0  # requests under way
    chosen: int = 0
    failures: int = 0
    ejections: int = 0
    ejected: bool = False
    ready: bool | None = None  # what it says itself; None: not asked, or it does not say
    reason: str = ""  # why it does not serve; empty when it does
    spell: int = 0  # a new number with each ejection and return: news of requests from before are old
    _in_a_row: int = 0  # failures
    _strikes: int = 0  # ejections without a good time between them
    _until_ns: int = 0  # while ejected: when a request may try it
    _back_ns: int = 0  # when it came back
    _trials: int = 0  # while ejected: requests under way that were sent to it in this spell
    _misses: int = 0  # bad answers to checks in a row
    _turn: int = 0  # when it was chosen last, in choices
    _salt: int = 0

    @property
    def serves(self) -> bool:
        """Whether it gets requests as far as is known."""
        return not self.ejected and self.ready is not False


@dataclass(slots=True)
class Balance:
    """The choice among `engines`, at least one. Operations are O(number of engines), and O(1) with a single one.

    Each `choose` that gives an engine is followed by exactly one `ended`, with the engine's `spell` as it was then.
    """

    engines: Sequence[Engine]
    settings: BalanceSettings = _DEFAULTS
    seed: int | None = None
    panics: int = 0  # choices made while no engine served
    _only: Engine | None = None
    _by_model: Mapping[str, Sequence[Engine]] = field(default_factory=dict)
    _unnamed: Sequence[Engine] = ()
    _out: int = 0  # engines that do not serve
    _turn: int = 0
    _random: random.Random = field(default_factory=random.Random)

    def __post_init__(self) -> None:
        if not self.engines:
            raise ValueError("a gateway needs at least one engine")
        self._random = random.Random(self.seed)
        self._only = self.engines[0] if len(self.engines) == 1 else None
        self._turn = len(self.engines)
        turns = self._random.sample(range(self._turn), self._turn)  # several gateways must not begin with the same one
        for index, engine in enumerate(self.engines):
            engine.index, engine._turn = index, turns[index]
            engine._salt = _hash(engine.name.encode())
        named = frozenset().union(*(engine.models for engine in self.engines))
        self._unnamed = [engine for engine in self.engines if not engine.models] or self.engines
        self._by_model = {
            model: [engine for engine in self.engines if not engine.models or model in engine.models] for model in named
        }

    def choose(
        self, now_ns: int, exclude: Collection[Engine] = (), *, model: str | None = None, key: bytes | None = None
    ) -> Engine | None:
        """The engine for one request, which counts as under way from now on; None when `exclude` leaves none.

        `model`: only engines of this model. `key`: equal keys go to the same engine, as long as that is not overloaded.
        """
        engine = self._only
        if engine is None:
            engine = self._choose(now_ns, exclude, model, key)
            if engine is None:
                return None
            self._turn += 1
            engine._turn = self._turn
            if engine.ejected:
                engine._trials += 1
        elif exclude and engine in exclude:
            return None
        engine.outstanding += 1
        engine.chosen += 1
        return engine

    def answered(self, engine: Engine, spell: int, now_ns: int) -> None:
        """The first byte of an answer has come that speaks for the engine. Not needed for health otherwise."""
        if engine.spell == spell:
            engine._in_a_row = 0
            if engine.ejected:
                self._take_back(engine, now_ns)

    def ended(self, engine: Engine, spell: int, now_ns: int, *, ok: bool | None, reason: str = "") -> None:
        """A request is over.

        `ok` False: it failed before the first byte, by the engine's fault, for `reason`; True: the engine has answered;
        None: it tells nothing of the engine, for example because the client went away.
        """
        engine.outstanding -= 1
        current = engine.spell == spell
        if current and engine.ejected:
            engine._trials -= 1
        if ok:
            self.answered(engine, spell, now_ns)
        elif ok is False:
            engine.failures += 1
            if current and self._only is None:
                self._failed(engine, now_ns, reason)

    def checked(self, engine: Engine, ok: bool | None, reason: str = "") -> None:
        """What an engine has answered when it was asked if it is ready; None: it does not know the question."""
        engine._misses = engine._misses + 1 if ok is False else 0
        if ok is False and engine._misses < self.settings.check_failures:
            return
        before, engine.ready = engine.ready, ok
        if (before is False) == (ok is False):
            return
        if ok is False:
            engine.reason = reason
            log.warning("engine_not_ready", engine=engine.name, reason=reason)
        else:
            engine.reason = engine.reason if engine.ejected else ""
            log.info("engine_ready", engine=engine.name)
        self._count_out()

    @property
    def serving(self) -> int:
        """How many engines get requests as far as is known."""
        return len(self.engines) - self._out

    # the choice

    def _choose(self, now_ns: int, exclude: Collection[Engine], model: str | None, key: bytes | None) -> Engine | None:
        candidates = self.engines
        if model is not None and self._by_model:
            candidates = self._by_model.get(model, self._unnamed)
        if exclude:
            candidates = [engine for engine in candidates if engine not in exclude]
        if self._out:
            serving = [engine for engine in candidates if engine.serves]
            if serving:
                if not exclude and (trial := _due(candidates, now_ns)) is not None:
                    return trial  # if it fails, this request can be sent again to one of the others
                candidates = serving
            elif candidates:
                self.panics += 1
        if not candidates:
            return None
        if key is not None and len(candidates) > 1:
            return self._by_key(candidates, key)
        best = candidates[0]
        least, turn = best.outstanding, best._turn
        for engine in candidates:
            outstanding = engine.outstanding
            if outstanding < least or (outstanding == least and engine._turn < turn):
                best, least, turn = engine, outstanding, engine._turn
        return best

    def _by_key(self, candidates: Sequence[Engine], key: bytes) -> Engine:
        """Highest random weight among those below the bound; one always is, for the bound is above the mean."""
        under_way = sum([engine.outstanding for engine in candidates]) + 1
        bound = ceil(self.settings.sticky_load_ratio * under_way / len(candidates))
        wanted = _hash(key)
        best, most = candidates[0], -1
        for engine in candidates:
            if engine.outstanding < bound and (weight := _mixed(wanted ^ engine._salt)) > most:
                best, most = engine, weight
        return best

    # health

    def _failed(self, engine: Engine, now_ns: int, reason: str) -> None:
        limit = self.settings.eject_after_failures
        engine._in_a_row += 1
        if engine.ejected:
            if now_ns >= engine._until_ns:  # before, it was only used because there was no other
                self._eject(engine, now_ns, reason)
        elif limit and engine._in_a_row >= limit:
            if now_ns - engine._back_ns > self.settings.eject_max_seconds * NS:
                engine._strikes = 0
            self._eject(engine, now_ns, reason)

    def _eject(self, engine: Engine, now_ns: int, reason: str) -> None:
        settings = self.settings
        seconds = min(settings.eject_seconds * 2 ** min(engine._strikes, MOST_DOUBLINGS), settings.eject_max_seconds)
        engine._until_ns = now_ns + int(seconds * self._random.uniform(0.75, 1.25) * NS)
        engine._strikes += 1
        engine.spell += 1
        engine._trials = 0
        engine.reason = reason
        if not engine.ejected:
            engine.ejected = True
            engine.ejections += 1
            self._count_out()
            log.warning("engine_ejected", engine=engine.name, reason=reason, failures=engine._in_a_row)

    def _take_back(self, engine: Engine, now_ns: int) -> None:
        engine.ejected = False
        engine.spell += 1
        engine._trials = 0
        engine._back_ns = now_ns
        engine.reason = engine.reason if engine.ready is False else ""
        self._count_out()
        log.info("engine_back", engine=engine.name)

    def _count_out(self) -> None:
        self._out = sum(not engine.serves for engine in self.engines)


def _due(candidates: Sequence[Engine], now_ns: int) -> Engine | None:
    """An ejected engine whose time is over and that no request is trying yet."""
    for engine in candidates:
        if engine.ejected and engine.ready is not False and now_ns >= engine._until_ns and not engine._trials:
            return engine
    return None


def _hash(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")


def _mixed(value: int) -> int:
    """Every bit of a 64-bit value reaches the high bits of the result (a multiplication between two xor-shifts)."""
    value = (value ^ (value >> 32)) * 0xBF58476D1CE4E5B9 & _MASK
    return (value ^ (value >> 29)) * 0x94D049BB133111EB & _MASK


def balance_samples(node: str, balance: Balance) -> Iterator[Sample]:
    """The engines' numbers. `engineroom_sidecar_upstream_ready` is there for engines that say whether they are."""
    prefix = "engineroom_sidecar_upstream_"
    for engine in balance.engines:
        labels = (("node", node), ("upstream", engine.name))
        yield from gauge(prefix + "requests_in_flight", engine.outstanding, labels)
        yield from gauge(prefix + "serving", engine.serves, labels)
        yield from gauge(prefix + "ready", engine.ready, labels)
        yield from gauge(prefix + "chosen_total", engine.chosen, labels)
        yield from gauge(prefix + "failures_total", engine.failures, labels)
        yield from gauge(prefix + "ejections_total", engine.ejections, labels)
    yield from gauge("engineroom_sidecar_panic_choices_total", balance.panics, (("node", node),))
