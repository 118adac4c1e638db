"""Profiling ratios of the GPU, or in MIG mode of each GPU instance."""

from collections.abc import Mapping
from typing import Any

from agent.collect.gpu.calls import Missed
from agent.collect.gpu.gpm import METRICS_GET, GpmSampler
from agent.collect.gpu.meters import NS
from agent.collect.gpu.parts.mig_tree import InstanceGone, MigTree, name_of
from agent.collect.gpu.parts.part import Asker, FieldKey, Fields, Moment, Tier

_GPU_PERIOD_NS = 1 * NS
_SLICE_PERIOD_NS = 2 * NS
_MOST_PERIOD_NS = 10 * NS
# Of the wall time, for the samples of one GPU: 16 GPUs then stay below 0.5 %. Nobody has published what a sample costs,
# so it is measured: where it takes long, GPUs and instances are sampled less often.
SHARE = 0.0003
_TELLING_CALLS = 100  # fewer say little about the mean: one that was interrupted would count too much


class Activity:
    """None before Hopper: there NVML has nothing that deserves these names."""

    tier: Tier = "fast"
    fields: tuple[FieldKey, ...] = ()

    def __init__(self, tree: MigTree, max_gap_ns: int, share: float = SHARE) -> None:
        self._tree = tree
        self._max_gap_ns = max_gap_ns
        self._share = share
        self._offered: bool | None = None
        self._whole: GpmSampler | None = None
        self._parts: dict[tuple[Any, ...], GpmSampler] = {}  # by the devices of the GPU instance

    def close(self) -> None:
        """Give the driver its memory back."""
        for sampler in (self._whole, *self._parts.values()):
            if sampler is not None:
                sampler.free()
        self._whole, self._parts = None, {}

    def read(self, asker: Asker, _fields: Fields, _known: Mapping[str, Any], now: Moment) -> dict[str, Any]:
        """Ratios of the GPU; those of GPU instances go into `tree`."""
        if self._offered is None:
            support = asker.ask("nvmlGpmQueryDeviceSupport")
            self._offered = support is not None and bool(support.isSupportedDevice)
        if not self._offered:
            return {}
        if self._tree.enabled:
            self._instances(asker, now)
        else:
            self._drop(self._parts.keys())
        if self._whole is None:
            self._whole = GpmSampler(asker.calls, asker.gpu, self._max_gap_ns)
        period = self._period_ns(asker, "nvmlGpmSampleGet", 1, _GPU_PERIOD_NS)
        found = self._whole.read(lambda buffer: asker.ask("nvmlGpmSampleGet", buffer), now.boot_ns, period)
        return {} if found is None else {"activity": found}

    def _instances(self, asker: Asker, now: Moment) -> None:
        tree = self._tree
        live = {instance.devices: number for number, instance in tree.instances.items()}
        self._drop(self._parts.keys() - live.keys())
        period = self._period_ns(asker, "nvmlGpmMigSampleGet", len(live), _SLICE_PERIOD_NS)
        for devices, number in live.items():
            sampler = self._parts.get(devices)
            if sampler is None:
                sampler = self._parts[devices] = GpmSampler(asker.calls, asker.gpu, self._max_gap_ns)
            instance = tree.instances[number]
            before, instance.activity = instance.activity, self._sample(asker, number, sampler, now, period)
            if before is not None and instance.activity is None:
                tree.stale = True  # it may be another instance under the same number, or MIG mode is off

    def _sample(self, asker: Asker, number: int, sampler: GpmSampler, now: Moment, period_ns: int) -> Any:
        # What one GPU instance does not have, another may: each is remembered under its own name.
        one = Asker(asker.calls, name_of(asker.gpu, number), asker.handle)
        try:
            return sampler.read(
                lambda buffer: self._tree.ask(one, "nvmlGpmMigSampleGet", number, buffer), now.boot_ns, period_ns
            )
        except (InstanceGone, Missed):
            sampler.reseed()
            return None

    def _drop(self, keys: Any) -> None:
        for key in list(keys):
            self._parts.pop(key).free()

    def _period_ns(self, asker: Asker, function: str, samples: int, least_ns: int) -> int:
        calls = asker.calls
        if calls.counts.get(function, 0) < _TELLING_CALLS:
            return least_ns
        seconds = sum(calls.seconds.get(one, 0.0) / max(calls.counts.get(one, 0), 1) for one in (function, METRICS_GET))
        return min(max(int(samples * seconds / self._share * NS), least_ns), _MOST_PERIOD_NS)
