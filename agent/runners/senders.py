"""Batches of sidecars in; whose clock is off, who fell silent, and what came, was repeated and refused, out."""

from collections import deque
from collections.abc import Iterator, Mapping
from typing import get_args

import structlog

from agent.core.requests import RecordBatch, RefusalKind
from agent.ledger.ledger import SenderKey
from agent.ledger.receiving import Accepted

log = structlog.get_logger()

NS = 1_000_000_000
SKEW_SAMPLES = 16
SILENT_NS = 60 * NS  # a sidecar with an open request is heard every 10 s, or it is gone


class Senders:
    """Everybody who tells of requests. A sender is who the doors say it is ('' when they do not ask) and its sidecar.

    `open_at` are the starts of sidecars that left requests open in the ledger: their silence counts from `now_ns` on,
    since nobody could be heard while the agent was away. `ended` and `missing` go on where the ledger ends.
    """

    def __init__(self, open_at: list[SenderKey], missing: Mapping[SenderKey, int], ended: int, now_ns: int) -> None:
        self.accepted = {"start": 0, "progress": 0, "end": ended}
        # Since this process started: events that came again, and that will never be taken, by reason.
        self.repeated = 0
        self.refused = dict.fromkeys(get_args(RefusalKind), 0)
        self._heard: dict[SenderKey, int] = dict.fromkeys(open_at, now_ns)
        # By (sender, sidecar): the epoch that spoke last, and samples of its clock; the epoch that was last stored.
        self._skews: dict[tuple[str, str], tuple[int, deque[int]]] = {}
        self._stored: dict[tuple[str, str], int] = {}
        self._missing = dict(missing)
        self._refused_of: set[tuple[str, str]] = set()  # (sender, sidecar) whose last batch was not taken whole

    @property
    def missing(self) -> int:
        """Event numbers that never came although later ones of the same sidecar did."""
        return sum(self._missing.values())

    def hear(self, batch: RecordBatch, sender: str, now_ns: int) -> None:
        """A batch arrived, whether it can be stored or not."""
        self._heard[sender, batch.sidecar, batch.epoch] = now_ns
        # Who is asked who he is only since a moment ago still watches over the requests he told before, and vice versa.
        for key in self._heard:
            if key[1:] == (batch.sidecar, batch.epoch) and "" in (key[0], sender):
                self._heard[key] = now_ns

    def skew_ns(self, batch: RecordBatch, sender: str, now_ns: int) -> int:
        """Bill clock minus the sidecar's: the least of the last samples, since a slow delivery only adds to it."""
        key = (sender, batch.sidecar)
        epoch, samples = self._skews.get(key, (-1, deque[int]()))
        if batch.epoch != epoch:
            samples = deque(maxlen=SKEW_SAMPLES)
            self._skews[key] = (batch.epoch, samples)
        samples.append(now_ns - batch.sent_at_ns)
        return min(samples)

    def is_new_start(self, batch: RecordBatch, sender: str) -> bool:
        """Whether nothing of this start of the sidecar was stored last: an earlier one may have left requests open."""
        return self._stored.get((sender, batch.sidecar)) != batch.epoch

    def stored(self, batch: RecordBatch, sender: str, accepted: Accepted) -> None:
        """A batch is in the ledger."""
        of = (sender, batch.sidecar)
        self._stored[of] = batch.epoch
        self.accepted["start"] += len(accepted.started)
        self.accepted["progress"] += len(accepted.progressed)
        self.accepted["end"] += len(accepted.ended)
        self.repeated += accepted.receipt.repeated
        self._missing.pop((*of, batch.epoch), None)
        if accepted.missing:
            self._missing[*of, batch.epoch] = accepted.missing
        refused = accepted.receipt.refused
        for event in refused:
            self.refused[event.kind] += 1
        if refused and of not in self._refused_of:
            self._refused_of.add(of)
            first = refused[0]
            log.warning("records_refused", sidecar=batch.sidecar, sender=sender, events=len(refused), kind=first.kind,
                        sequence=first.sequence, reason=first.reason)  # fmt: skip
        elif batch.events and not refused and of in self._refused_of:
            self._refused_of.discard(of)
            log.info("records_taken_whole_again", sidecar=batch.sidecar, sender=sender)

    def silent(self, now_ns: int) -> Iterator[tuple[SenderKey, int]]:
        """Starts of sidecars that were not heard for too long, and when they were heard last."""
        for key, heard_ns in list(self._heard.items()):
            if now_ns - heard_ns > SILENT_NS:
                yield key, heard_ns

    def forget(self, key: SenderKey) -> None:
        """A start of a sidecar is gone; with the last one all that is kept of its name: names are not free."""
        del self._heard[key]
        of = key[:2]
        if not any(known[:2] == of for known in self._heard):
            self._skews.pop(of, None)
            self._stored.pop(of, None)
            self._refused_of.discard(of)
