"""The PCIe link: how wide and fast it is, what went over it, what went wrong on it.

nvmlDeviceGetPcieThroughput is not called: it measures for 20 ms in each direction, with the driver's lock held.
"""

from collections.abc import Mapping
from typing import Any

from agent.collect.gpu import sane
from agent.collect.gpu.parts.part import FIELD_VALUES, RARE, Asker, FieldKey, Fields, Moment, Tier
from agent.core.gpu_readings import GpuPcie

_REPLAYS = FieldKey(94)
_TRANSMITTED, _RECEIVED = FieldKey(197), FieldKey(198)  # bytes; since driver 555
_OFTEN = (_TRANSMITTED, _RECEIVED, _REPLAYS)

# nvml.h, NVML_FI_DEV_PCIE_COUNT_*
ERRORS = {
    "correctable": FieldKey(173),
    "nak_received": FieldKey(174),
    "receiver": FieldKey(175),
    "bad_tlp": FieldKey(176),
    "nak_sent": FieldKey(177),
    "bad_dllp": FieldKey(178),
    "non_fatal": FieldKey(179),
    "fatal": FieldKey(180),
    "unsupported_request": FieldKey(181),
    "lcrc": FieldKey(182),
    "lane": FieldKey(183),
}
_ALL = (*_OFTEN, *ERRORS.values())


class Pcie:
    """Byte and replay counters each time; link and error counters each `RARE`th time."""

    tier: Tier = "slow"

    def __init__(self) -> None:
        self.fields: tuple[FieldKey, ...] = _ALL
        self._turn = 0
        self._widened: dict[FieldKey, sane.Widened] = {}
        self._link: dict[str, int | None] = {}
        self._errors: dict[str, int] = {}

    def read(self, asker: Asker, fields: Fields, _known: Mapping[str, Any], _now: Moment) -> dict[str, Any]:
        """A `GpuPcie`."""
        if self._turn % RARE == 0:
            self._read_seldom(asker, fields)
        self._turn += 1
        self.fields = _OFTEN if self._turn % RARE else _ALL
        found = GpuPcie(
            **self._link,
            transmitted_bytes=self._bytes(asker, fields, _TRANSMITTED),
            received_bytes=self._bytes(asker, fields, _RECEIVED),
            replays=self._replays(asker, fields),
            errors=dict(self._errors) or None,
        )
        return {} if found == GpuPcie() else {"pcie": found}

    def _read_seldom(self, asker: Asker, fields: Fields) -> None:
        self._link = {
            "generation": sane.pcie_generation(asker.try_ask("nvmlDeviceGetCurrPcieLinkGeneration")),
            "width": sane.lanes(asker.try_ask("nvmlDeviceGetCurrPcieLinkWidth")),
            "generation_max": self._link.get("generation_max")
            or sane.pcie_generation(asker.try_ask("nvmlDeviceGetMaxPcieLinkGeneration")),
            "width_max": self._link.get("width_max") or sane.lanes(asker.try_ask("nvmlDeviceGetMaxPcieLinkWidth")),
        }
        counted = {kind: sane.count(fields.get(key)) for kind, key in ERRORS.items()}
        self._errors.update({kind: value for kind, value in counted.items() if value is not None})

    def _bytes(self, asker: Asker, fields: Fields, key: FieldKey) -> int | None:
        raw = sane.count(fields.get(key))
        if raw is None or key not in asker.narrow:
            return raw
        total = self._widened.setdefault(key, sane.Widened()).read(raw)
        if total is None:
            asker.odd(f"field {key.number}: 32 bits are too few for this traffic")
        return total

    def _replays(self, asker: Asker, fields: Fields) -> int | None:
        replays = fields.get(_REPLAYS)
        if replays is None and (_REPLAYS in asker.refused or asker.calls.knows_not(asker.gpu, FIELD_VALUES)):
            replays = asker.try_ask("nvmlDeviceGetPcieReplayCounter")
        return sane.small_count(replays)
