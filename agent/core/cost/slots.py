"""What was seen of GPUs, engines and holders in; which state each slot is in and which engines own it, over time, out.

A GPU snapshot holds from its instant until the next one, at most `hold_ns` (three intervals): beyond that nobody was
watching. An engine's status holds until the next one: its scraper reports failures too. Who holds what is believed for
`held_ns`.
"""

from collections import deque

from agent.core.cost.groups import GroupWork
from agent.core.cost.judging import judge, missing, unwatched
from agent.core.cost.seen import (
    NOBODY_SAYS,
    EngineSeen,
    GpuSeen,
    Held,
    seen_engine,
    seen_gpus,
    seen_workloads,
)
from agent.core.cost.views import SlotView
from agent.core.gpu_readings import GpuSnapshot
from agent.core.readings import EngineStatus
from agent.core.workloads import Attribution

NS = 1_000_000_000
# How far the first status of an engine counts backwards: a fresh agent sees GPUs before it has scraped the engines.
FIRST_SIGHT_NS = 5 * NS

View = tuple[SlotView, ...]


class Period:
    """What was seen from `start_ns` until `until_ns`; `gpus` None means that the GPUs could not be watched."""

    __slots__ = ("_view", "engines", "gpus", "held", "start_ns", "until_ns", "working")

    def __init__(
        self,
        start_ns: int,
        until_ns: int,
        gpus: tuple[GpuSeen, ...] | None,
        engines: dict[str, EngineSeen],
        held: Held = NOBODY_SAYS,
        working: frozenset[str] = frozenset(),
    ) -> None:
        self.start_ns = start_ns
        self.until_ns = until_ns
        self.gpus = gpus
        self.engines = engines
        self.held = held
        self.working = working
        self._view: dict[str, View] | None = None

    def add_engine(self, name: str, seen: EngineSeen) -> None:
        """An engine that turned out to have been there already."""
        self.engines = {**self.engines, name: seen}
        self._view = None

    def add_working(self, working: frozenset[str]) -> None:
        """Groups that turned out to have been working already."""
        if not working <= self.working:
            self.working |= working
            self._view = None

    @property
    def views(self) -> dict[str, View]:
        """The slots of each GPU that was seen."""
        if self._view is None:
            engines = {name: self.engines[name] for name in sorted(self.engines)}
            self._view = {seen.uuid: judge(seen, engines, self.held, self.working) for seen in self.gpus or ()}
        return self._view

    def profiles(self, gpu: str) -> dict[str, str]:
        """MIG device -> profile, of one GPU."""
        seen = next((one for one in self.gpus or () if one.uuid == gpu), None)
        return {slot.id: slot.profile for slot in seen.slots if slot.profile} if seen is not None else {}

    def of(self, gpu: str) -> View:
        """The slots of one GPU. A GPU that was watched for and not there has fallen off: it is broken."""
        if self.gpus is None:
            return unwatched(gpu)
        return self.views.get(gpu) or missing(gpu)


class Timeline:
    """Everything seen that is not settled yet. Equal periods are one period, so a quiet node costs nothing."""

    def __init__(self, hold_ns: int, held_ns: int = 60 * NS) -> None:
        """`held_ns`: when nothing comes for so long, nobody says who holds what."""
        self.periods: deque[Period] = deque()
        self.snapshot: GpuSnapshot | None = None  # the last one
        self._hold_ns = hold_ns
        self._held_ns = held_ns
        self._engines: dict[str, EngineSeen] = {}
        self._gpus: tuple[GpuSeen, ...] | None = None
        self._watched_until = -1
        self._held = NOBODY_SAYS
        self._held_until = -1
        self._has_workers = False
        self._group_work = GroupWork()
        self._working: frozenset[str] = frozenset()

    def see_gpus(self, at_ns: int, snapshot: GpuSnapshot) -> None:
        """A snapshot arrived at `at_ns` (bill clock)."""
        if self._held.known and at_ns >= self._held_until:
            self._held = NOBODY_SAYS
        self.snapshot = snapshot
        self._gpus = seen_gpus(snapshot)
        self._watched_until = at_ns + self._hold_ns
        self._extend(at_ns)
        self._look_for_work(at_ns)

    def see_workloads(self, at_ns: int, attribution: Attribution) -> None:
        """Who holds and uses what, as known at `at_ns` (bill clock)."""
        held = seen_workloads(attribution)
        self._held_until = at_ns + self._held_ns
        if held != self._held:
            self._held = held
            self._cut(at_ns)

    def see_engine(self, at_ns: int, status: EngineStatus) -> None:
        """An engine's status arrived at `at_ns` (bill clock)."""
        seen = seen_engine(status)
        before = self._engines.get(status.engine)
        if before == seen:
            return
        recent = [one for one in self.periods if one.start_ns >= at_ns - FIRST_SIGHT_NS] if before is None else []
        for period in recent:
            period.add_engine(status.engine, seen)
        self._engines = {**self._engines, status.engine: seen}
        self._engines_changed()
        self._cut(at_ns)
        self._look_for_work(at_ns)
        if seen.is_worker:
            for period in recent:
                period.add_working(self._working)

    def forget_engine(self, at_ns: int, name: str) -> None:
        """The engine is no target any more."""
        if name in self._engines:
            self._engines = {k: v for k, v in self._engines.items() if k != name}
            self._engines_changed()
            self._cut(at_ns)

    def _engines_changed(self) -> None:
        self._has_workers = any(engine.is_worker for engine in self._engines.values())
        if not self._has_workers:
            self._working = frozenset()

    def _look_for_work(self, at_ns: int) -> None:
        """Which groups work decides about slots, and whose the slots are about which of them show work."""
        if not self._has_workers or self.snapshot is None or not self.periods or at_ns >= self._watched_until:
            return
        working = self._group_work.see(at_ns, self.snapshot, self.periods[-1].views, self._engines)
        if working != self._working:
            self._working = working
            self._extend(at_ns)

    def _cut(self, at_ns: int) -> None:
        """Something else than the GPUs changed: that does not lengthen what is known of them."""
        if at_ns < self._watched_until:
            self._extend(at_ns)

    def _extend(self, at_ns: int) -> None:
        last = self.periods[-1] if self.periods else None
        if last is not None and last.until_ns >= at_ns:
            now = (self._gpus, self._engines, self._held, self._working)
            if (last.gpus, last.engines, last.held, last.working) == now:
                last.until_ns = max(last.until_ns, self._watched_until)
                return
            last.until_ns = max(at_ns, last.start_ns)
        found = Period(at_ns, self._watched_until, self._gpus, self._engines, self._held, self._working)
        if last is not None and last.start_ns == at_ns:
            self.periods.pop()  # of no length: more has become known within the same instant
        self.periods.append(found)

    def period_at(self, at_ns: int) -> tuple[Period | None, int | None]:
        """The period that covers `at_ns`, or None for a gap; and where that ends (None: open)."""
        for period in self.periods:
            if at_ns < period.start_ns:
                return None, period.start_ns
            if at_ns < period.until_ns:
                return period, period.until_ns
        return None, None

    def forget_before(self, at_ns: int) -> None:
        """Drop what ended before `at_ns`."""
        while self.periods and self.periods[0].until_ns <= at_ns:
            self.periods.popleft()
