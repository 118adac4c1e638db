"""What readers say of NVML and of themselves in, the `GpuSnapshot` of a tick out. Pure."""

from collections.abc import Sequence

from agent.collect.gpu.frames import TickEnded
from agent.core.gpu_readings import DriverState, GpuReading, GpuSnapshot, XidEvent

XIDS_KEPT = 1024  # between two snapshots


class Account:
    """One per agent. Totals that a reader counts begin anew with the next reader; what was lost stays counted."""

    def __init__(self) -> None:
        self.said = TickEnded(driver="starting")  # by the present reader, at the end of its last tick
        self._expected = 0
        self._xids: list[XidEvent] = []  # not published yet
        self._dropped = 0

    def told(self, xids: Sequence[XidEvent]) -> None:
        """Errors go into the next snapshot, whatever becomes of the reader."""
        room = max(0, XIDS_KEPT - len(self._xids))
        self._xids += xids[:room]
        self._dropped += sum(event.count for event in xids[room:])

    def reader_gone(self) -> None:
        """Its totals are no more."""
        self._dropped += self.said.events_dropped
        self.said = TickEnded(driver="starting")

    def snapshot(
        self,
        read_at_ns: int,
        driver: DriverState,
        message: str,
        gpus: tuple[GpuReading, ...],
        restarts: int,
    ) -> GpuSnapshot:
        """Takes the errors that were told: each is in one snapshot."""
        said = self.said
        self._expected = max(self._expected, len(gpus))
        xids, self._xids = tuple(self._xids), []
        watched = said.events_watched
        if driver != "ok":
            watched = None if driver in ("no_library", "no_gpu") else False
        return GpuSnapshot(
            read_at_ns=read_at_ns,
            driver=driver,
            message=message,
            gpus=gpus,
            gpus_expected=self._expected or None,
            nvml_call_seconds=said.call_seconds,
            nvml_calls=said.calls,
            nvml_errors=said.errors,
            nvml_missing=said.missing,
            nvml_forbidden=said.forbidden,
            tier_stretch=said.tier_stretch,
            events_watched=watched,
            events_problem=said.events_problem,
            xids=xids,
            events_seen=said.events_seen,
            events_dropped=self._dropped + said.events_dropped,
            reader_restarts=restarts,
        )
