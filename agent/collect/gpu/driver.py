"""The driver as a whole: finds it, finds its GPUs, reads them, and says so when it goes away and comes back."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pynvml

from agent.collect.gpu.budget import Budget
from agent.collect.gpu.calls import Calls, DriverGone, GpuUnavailable, Missed
from agent.collect.gpu.codes import cuda_version_text, describe, verdict
from agent.collect.gpu.device import PROBE_FIRST_NS, Device, Pace
from agent.collect.gpu.events import EventWatch
from agent.collect.gpu.frames import (
    EXIT_ALL_UNKNOWN,
    EXIT_DRIVER_AWAY,
    EXIT_DRIVER_LEAVING,
    EXIT_VERSION_MISMATCH,
    Tick,
    Touching,
)
from agent.collect.gpu.identity import Frame, identify, unidentified
from agent.collect.gpu.meters import NS
from agent.core.gpu_readings import DriverState, GpuReading, XidEvent

RECHECK_NS = 60 * NS  # for a library, for GPUs, for more GPUs

NO_LIBRARY = (
    "libnvidia-ml.so.1 was not found: there is no NVIDIA driver here, or this container was started without it "
    "(it needs the nvidia runtime and NVIDIA_DRIVER_CAPABILITIES=utility). Looking again every minute."
)
NO_DRIVER = "the NVIDIA driver is not loaded; waiting for it (modprobe nvidia, or the end of a driver upgrade)"
NO_GPU = "the NVIDIA driver is loaded but lists no GPU. Looking again every minute."
NO_ACCESS = "the NVIDIA driver counts {count} GPUs and lets this process use none (nvmlDeviceGetHandleByIndex refuses)"
LEAVING = (
    "the NVIDIA driver is being unbound from a GPU (an upgrade, or a change of its driver): NVML was let go, "
    "so that this is not held up"
)
MISMATCH = (
    "the NVIDIA kernel driver and libnvidia-ml.so.1 are of different versions: after a driver upgrade restart this "
    "container, or reload the nvidia module"
)
ALL_UNKNOWN = (
    "every GPU answers 'unknown error': usually this container has lost its access to /dev/nvidia* (after "
    "`systemctl daemon-reload`); restart the container, or inject the devices through CDI"
)


class Replace(Exception):
    """Only a new process can read the GPUs. `status` is the exit status that says why."""

    def __init__(self, status: int) -> None:
        super().__init__(f"exit status {status}")
        self.status = status


class Refusal(NamedTuple):
    """Why a GPU could not be identified, and when to try again."""

    error: GpuUnavailable | Missed
    due_ns: int


Tell = Callable[[Touching], None]


class Driver:
    """Owns NVML. Not thread-safe: one caller. `events` waits for NVML's events beside it; None: nobody does."""

    def __init__(
        self, slow_ns: int, interval_ns: int, *, simulated: bool = False, events: EventWatch | None = None
    ) -> None:
        self.calls = Calls()
        self.events = events
        self.events_seen: dict[str, int] = {}
        self.events_dropped = 0
        self.tier_stretch = 1.0
        self._budget = Budget()
        self.state: DriverState = "starting"
        self.message = ""
        self._slow_ns = slow_ns
        self._max_gap_ns = max(5 * NS, 3 * interval_ns)
        self._simulated = simulated
        self._devices: dict[int, Device] = {}
        self._unseen: set[int] = set()  # counted by the driver, not yet or not successfully attached
        self._counted = 0
        self._refusals: dict[int, Refusal] = {}
        self._initialised = False
        self._due_ns = 0
        self._recount_ns = 0
        self._count_problem = ""
        self._versions: tuple[str | None, str | None] = (None, None)

    def tick(self, tick: Tick, tell: Tell) -> Iterator[GpuReading]:
        """Readings of all GPUs, one by one; `tell` is called before everything that might not return.

        Raises `Replace` when this process cannot go on.
        """
        try:
            if self._ready(tick, tell):
                yield from self._read(tick, tell)
        except DriverGone as error:
            self._gone(error.code, str(error), tick)

    @property
    def gpus_counted(self) -> int | None:
        """How many GPUs the driver counts, also those that it does not let us use; None: it has not said."""
        return self._counted or None

    def notice(self, tick: Tick) -> tuple[XidEvent, ...]:
        """What NVML has told since the last call. Raises `Replace` when the driver wants to be let go."""
        if self.events is None:
            return ()
        noticed = self.events.take()
        for kind, count in noticed.kinds.items():
            self.events_seen[kind] = self.events_seen.get(kind, 0) + count
        self.events_dropped += noticed.dropped
        for device in self._devices.values():
            if device.identity.uuid in noticed.mig_changed:
                self.calls.forget_gpu(device.identity.uuid)
                device.reconfigured()
        if noticed.bound:
            self._recount_ns = tick.boot_ns
        if noticed.unbound:
            self.close()
            self.state, self.message = "restarting", LEAVING
            raise Replace(EXIT_DRIVER_LEAVING)
        return noticed.events(tick.unix_ns)

    def close(self) -> None:
        """Give NVML back."""
        if self.events is not None:
            self.events.close()
        if self._initialised:
            self._initialised = False
            for device in self._devices.values():
                device.close()
            try:
                self.calls.raw("nvmlShutdown")
            except pynvml.NVMLError:
                pass  # a driver that has gone away has nothing to take back
        self._devices.clear()
        self._refusals.clear()
        self._counted = 0

    def _ready(self, tick: Tick, tell: Tell) -> bool:
        if not self._initialised:
            if tick.boot_ns < self._due_ns:
                return False
            tell(Touching(what="nvmlInit", first=True))
            try:
                self.calls.raw("nvmlInit")
            except pynvml.NVMLError as error:
                self._gone(error.value, describe("nvmlInit", error.value), tick)
                return False
            self._initialised = True
            self._counted = 0
            self._recount_ns = tick.boot_ns
            self.calls.forget_gpus()
            self._versions = (self._system("nvmlSystemGetDriverVersion"), self._cuda_version())
        if tick.boot_ns >= self._recount_ns:
            self._recount(tick, tell)
        return self._initialised

    def _system(self, function: str) -> Any:
        try:
            return self.calls.value("", function)
        except (GpuUnavailable, Missed):
            return None

    def _cuda_version(self) -> str | None:
        number = self._system("nvmlSystemGetCudaDriverVersion")
        return None if number is None else cuda_version_text(number)

    def _count(self) -> int | None:
        """Every code of this call is worth another try, also those that are final of other calls."""
        try:
            count: int = self.calls.raw("nvmlDeviceGetCount")
        except pynvml.NVMLError as error:
            self._count_problem = describe("nvmlDeviceGetCount", error.value)
            self.calls.errors[self._count_problem] = self.calls.errors.get(self._count_problem, 0) + 1
            if verdict(error.value) in ("no_driver", "no_library", "replace"):
                raise DriverGone("nvmlDeviceGetCount", error.value) from error
            return None
        return count

    def _recount(self, tick: Tick, tell: Tell) -> None:
        self._recount_ns = tick.boot_ns + RECHECK_NS
        tell(Touching(what="nvmlDeviceGetCount", first=not self._devices))
        count = self._count()
        if count is None:
            self._recount_ns = tick.boot_ns  # ask again at the next tick
        elif count == 0 and not self._devices:
            self.close()  # a GPU that appears later may need a new nvmlInit
            self.state, self.message, self._due_ns = "no_gpu", NO_GPU, tick.boot_ns + RECHECK_NS
        elif count > self._counted > 0:
            self.close()  # the indices may have moved
            self.state, self.message, self._due_ns = "starting", "a GPU was added", tick.boot_ns
        else:
            self._counted = count
            self._unseen = set(range(count)) - self._devices.keys()

    def _gone(self, code: int, text: str, tick: Tick) -> None:
        """The driver does not answer at all: let go. Raises `Replace`, unless there is no library to let go of."""
        self.close()
        meaning = verdict(code)
        if meaning == "replace":
            self.state, self.message = "no_driver", MISMATCH
            raise Replace(EXIT_VERSION_MISMATCH)
        if meaning == "no_library":
            self.state, self.message, self._due_ns = "no_library", NO_LIBRARY, tick.boot_ns + RECHECK_NS
            return
        self.state = "no_driver"
        self.message = NO_DRIVER if meaning == "no_driver" else f"NVML cannot be used: {text}"
        if code == pynvml.NVML_ERROR_NO_PERMISSION:
            self.message += ": this process may not open /dev/nvidiactl"
        # The library stays mapped in this process; a driver that is exchanged should find nobody at it.
        raise Replace(EXIT_DRIVER_AWAY)

    def _read(self, tick: Tick, tell: Tell) -> Iterator[GpuReading]:
        self.state, self.message = "ok", ""
        unknown = looked_at = shown = 0
        for index in sorted(self._devices.keys() | self._unseen):
            if index in tick.skip:
                continue
            reading = self._read_one(index, tick, tell)
            if reading is None:
                continue
            yield reading
            shown += 1
            looked_at += reading.state in ("ok", "error")  # one that is lost says nothing about the others
            unknown += reading.state == "error" and reading.reason.endswith("(999)")
        if looked_at and unknown == looked_at:
            self.message = ALL_UNKNOWN
            raise Replace(EXIT_ALL_UNKNOWN)
        self.tier_stretch = self._budget.observe(tick.boot_ns, sum(self.calls.seconds.values()))
        self._follow_events(tick)
        if not shown and not tick.skip:
            if self._counted:
                self.state, self.message = "no_gpu", NO_ACCESS.format(count=self._counted)
            else:
                self.state, self.message = "starting", self._count_problem
        elif self.calls.forbidden:
            names = ", ".join(sorted(self.calls.forbidden))
            self.message = f"no permission for {names}: run privileged, or give the MIG capability"

    def _follow_events(self, tick: Tick) -> None:
        """Events are waited for of the GPUs that answer; one that is lost or hung would hold up the others'."""
        if self.events is not None:
            devices = [device for index, device in self._devices.items() if index not in tick.skip]
            known = [device.identity for device in devices if device.will_be_touched]
            self.events.follow({gpu.uuid: gpu.pci_bus_id for gpu in known if gpu.pci_bus_id}, tick.boot_ns)

    def _read_one(self, index: int, tick: Tick, tell: Tell) -> GpuReading | None:
        device = self._devices.get(index)
        if device is None:
            refusal = self._refusals.get(index)
            if refusal is None or tick.boot_ns >= refusal.due_ns:
                tell(Touching(what="nvmlDeviceGetHandleByIndex", index=index, first=True))
                device = self._attach(index, tick)
                refusal = self._refusals.get(index)
            if device is None:
                return None if refusal is None else unidentified(index, refusal.error, self._frame(tick))
        device.stretch = self.tier_stretch
        if device.will_be_touched or device.probe_due(tick.boot_ns):
            tell(Touching(what="readings", index=index))
        return device.read(tick.unix_ns, tick.boot_ns)

    def _frame(self, tick: Tick) -> Frame:
        return Frame(tick.unix_ns, self._simulated, *self._versions)

    def _attach(self, index: int, tick: Tick) -> Device | None:
        """Handle and identity of one GPU. None if it refuses; `_refusals` then says why, unless it is not ours."""
        try:
            handle = self.calls.value("", "nvmlDeviceGetHandleByIndex", index)
            if handle is None:  # counted, but this container has no right to it
                self.calls.unsupported.discard(("", "nvmlDeviceGetHandleByIndex"))
                self.calls.forbidden.discard("nvmlDeviceGetHandleByIndex")
                self._unseen.discard(index)
                return None
            identity = identify(self.calls, index, handle, self._frame(tick))
        except (GpuUnavailable, Missed) as error:
            self._refusals[index] = Refusal(error, tick.boot_ns + PROBE_FIRST_NS)
            return None
        self._refusals.pop(index, None)
        self._unseen.discard(index)
        device = Device(self.calls, handle, identity, Pace(self._slow_ns, (index % 8 + 1) / 8, self._max_gap_ns))
        self._devices[index] = device
        return device
