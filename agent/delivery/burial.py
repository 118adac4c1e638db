"""From refused items to settled ones: the letters first, durably, then the settlement; many at a time."""

from collections.abc import Callable, Sequence

import anyio
import structlog

from agent.delivery.deadletters import DeadLetters, Refused
from agent.delivery.drain import Drain

log = structlog.get_logger()

NO_ROOM_SECONDS = 2.0
NO_ROOM = "the dead letters have no room: replay or remove some, or give their stream more"
UNFIT = "dropped:too_large_for_dead_letter"


class Burial:
    """Items on their way to the dead letters. `settle` is told numbers in order, the result, the bytes."""

    def __init__(
        self,
        letters: DeadLetters,
        settle: Callable[[Sequence[int], str, int], None],
        drain: Drain,
        *,
        no_room_seconds: float = NO_ROOM_SECONDS,
    ) -> None:
        self.trouble = ""  # why nothing can be buried; empty when all is well
        self._letters = letters
        self._settle = settle
        self._drain = drain
        self._no_room_seconds = no_room_seconds
        self._waiting: list[Refused] = []
        self._wake = anyio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, refused: Sequence[Refused]) -> None:
        """Never waits."""
        if refused:
            self._waiting.extend(refused)
            self._wake.set()

    async def run(self, changed: Callable[[], None]) -> None:
        """Bury until cancelled; calls `changed` when `trouble` or the number of waiting items changed."""
        while True:
            while not self._waiting:
                self._wake = anyio.Event()
                await self._wake.wait()
            refused, self._waiting = self._waiting, []
            async with anyio.create_task_group() as group:
                group.start_soon(self._watch, changed)
                with self._drain.scope() as scope:
                    unfit = await self._letters.bury(refused)
                    self._done(refused, frozenset(unfit))
                if scope.cancelled_caught:
                    self._waiting = refused + self._waiting
                group.cancel_scope.cancel()
            changed()

    async def _watch(self, changed: Callable[[], None]) -> None:
        await anyio.sleep(self._no_room_seconds)
        self.trouble = NO_ROOM
        log.error("dead_letters_blocked", destination=self._letters.destination, reason=NO_ROOM)
        changed()

    def _done(self, refused: Sequence[Refused], unfit: frozenset[int]) -> None:
        if self.trouble:
            self.trouble = ""
            log.info("dead_letters_have_room", destination=self._letters.destination)
        if unfit:
            log.error("item_too_large_for_dead_letters", destination=self._letters.destination, items=len(unfit))
        for result, those in (("dead", False), (UNFIT, True)):
            items = {one.sequence: len(one.item) for one in refused if (one.sequence in unfit) is those}
            if items:
                self._settle(sorted(items), result, sum(items.values()))
