"""NVML's events in, counts by kind and Xids out: a thread that waits, and the tick that takes what has come.

The thread waits without holding anybody up; the main thread starts it, looks whether it still turns, and replaces it
with growing pauses when it has ended or does not return. An event carries no instant: it is of the time between two
ticks. What is the same between two ticks is counted, not queued, so a storm stays small.
"""

from agent.collect.gpu.event_thread import PAUSE_FIRST_SECONDS, PAUSE_MOST_SECONDS, Gpus, Noticed, Waiter
from agent.collect.gpu.meters import NS

WAIT_MILLISECONDS = 500
STUCK_NS = 10 * NS
STUCK_MOST = 3  # threads that did not return; after that no more are started


class EventWatch:
    """Seen from the main thread. `watched` None: this driver, or every GPU of this node, has no events."""

    def __init__(self, wait_milliseconds: int = WAIT_MILLISECONDS) -> None:
        self._wait_milliseconds = wait_milliseconds
        self._waiter: Waiter | None = None
        self._seen_turn = (0, 0)  # turns, and the instant at which there were that many
        self._problem = ""
        self._pause_ns = int(PAUSE_FIRST_SECONDS * NS)
        self._due_ns = 0
        self._stuck = 0

    @property
    def watched(self) -> bool | None:
        waiter = self._waiter
        if waiter is None or self._problem:
            return False
        return None if waiter.pointless and not waiter.problem else waiter.watching and not waiter.problem

    @property
    def problem(self) -> str:
        """What is wrong, or what is not heard of; empty when all is well."""
        waiter = self._waiter
        if self._problem or waiter is None:
            return self._problem or "not started"
        starting = "" if waiter.watching or waiter.pointless else "starting"
        return waiter.problem or waiter.gaps or starting

    def follow(self, gpus: Gpus, boot_ns: int) -> None:
        """Wait for events of these GPUs from now on. Called at every tick, after NVML has answered."""
        waiter = self._waiter
        if waiter is not None:
            self._look_after(waiter, boot_ns)
        if self._waiter is None and boot_ns >= self._due_ns and self._stuck < STUCK_MOST:
            self._waiter = Waiter(gpus, self._wait_milliseconds)
            self._seen_turn = (0, boot_ns)
            self._waiter.thread.start()
        elif self._waiter is not None:
            self._waiter.follow(gpus)

    def _look_after(self, waiter: Waiter, boot_ns: int) -> None:
        turns, since_ns = self._seen_turn
        if not waiter.thread.is_alive():
            self._replace("the thread that waits for events has ended; what the reader printed says why", boot_ns)
        elif waiter.turns != turns:
            self._seen_turn = (waiter.turns, boot_ns)
            if waiter.turns > 1:
                self._problem, self._pause_ns = "", int(PAUSE_FIRST_SECONDS * NS)
        elif boot_ns - since_ns > STUCK_NS:
            self._stuck += 1
            waiter.ending.set()
            self._replace(f"{waiter.doing} does not return; no events of GPUs are heard", boot_ns)

    def _replace(self, problem: str, boot_ns: int) -> None:
        self._waiter = None
        self._problem = problem
        self._due_ns = boot_ns + self._pause_ns
        self._pause_ns = min(2 * self._pause_ns, int(PAUSE_MOST_SECONDS * NS))

    def take(self) -> Noticed:
        """What has come since the last call."""
        return Noticed() if self._waiter is None else self._waiter.take()

    def close(self) -> None:
        """End the thread, so that NVML can be shut down. One that does not return is left behind."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None and waiter.thread.is_alive():
            waiter.ending.set()
            waiter.changed.set()
            waiter.thread.join(4 * self._wait_milliseconds / 1000)
