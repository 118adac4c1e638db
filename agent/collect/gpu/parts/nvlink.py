"""The NVLinks of a GPU, all together."""

from collections.abc import Mapping
from typing import Any

import pynvml

from agent.collect.gpu import sane
from agent.collect.gpu.parts.part import ALL_LINKS, RARE, Asker, FieldKey, Fields, Moment, Tier
from agent.core.gpu_readings import GpuNvlink

_LINKS = FieldKey(91)
_KIB = 1024
_KIBIBYTES = (FieldKey(138, ALL_LINKS), FieldKey(139, ALL_LINKS))  # payload sent, received, in KiB; up to NVLink 4
_BYTES = (FieldKey(202, ALL_LINKS), FieldKey(204, ALL_LINKS))  # NVLink 5
_STATE = 165  # of one link; 1 is active

# nvml.h: totals of all links, by kind. The first five are of NVLink 4 and older, the rest of NVLink 5.
ERRORS = {
    "crc_flit": FieldKey(38),
    "crc_data": FieldKey(45),
    "replay": FieldKey(52),
    "recovery": FieldKey(59),
    "ecc": FieldKey(160),
    "malformed_packet": FieldKey(206, ALL_LINKS),
    "buffer_overrun": FieldKey(207, ALL_LINKS),
    "receive": FieldKey(208, ALL_LINKS),
    "receive_remote": FieldKey(209, ALL_LINKS),
    "receive_general": FieldKey(210, ALL_LINKS),
    "link_integrity": FieldKey(211, ALL_LINKS),
    "transmit_discard": FieldKey(212, ALL_LINKS),
    "recovery_failed": FieldKey(214, ALL_LINKS),
    "link_recovery": FieldKey(215, ALL_LINKS),
    "effective": FieldKey(219, ALL_LINKS),
    "symbol": FieldKey(221, ALL_LINKS),
}
# Where there are no totals (Hopper has some of them per link only): kind -> field of one link.
ERRORS_OF_LINK = {"replay": 161, "recovery": 162, "crc": 163}


class Nvlink:
    """Byte counters each time; links and error counters each `RARE`th time. Nothing at all where there are no links."""

    tier: Tier = "slow"

    def __init__(self) -> None:
        self.fields: tuple[FieldKey, ...] = (_LINKS, *_KIBIBYTES)
        self._turn = 0
        self._links: int | None = None
        self._active: int | None = None
        self._errors: dict[str, int] = {}

    def read(self, asker: Asker, fields: Fields, _known: Mapping[str, Any], _now: Moment) -> dict[str, Any]:
        """A `GpuNvlink`."""
        if self._links is None:
            self._links = sane.small_count(fields.get(_LINKS))
        if not self._links or self._links > pynvml.NVML_NVLINK_MAX_LINKS:
            # Asked again each time where it failed for now; one that is refused is left out anyhow.
            self.fields = () if self._links == 0 else (_LINKS, *_KIBIBYTES)
            return {}
        if self._turn % RARE == 0:
            self._read_seldom(asker, self._links)
        self._turn += 1
        self.fields = (*_KIBIBYTES, *_BYTES)
        sent, received = _traffic(fields)
        return {
            "nvlink": GpuNvlink(
                links=self._links,
                links_active=self._active,
                transmitted_bytes=sent,
                received_bytes=received,
                errors=dict(self._errors) or None,
            )
        }

    def _read_seldom(self, asker: Asker, links: int) -> None:
        states = {FieldKey(_STATE, link): link for link in range(links)}
        found = asker.values([*states, *ERRORS.values()])
        if any(key in found for key in states):
            self._active = sum(found.get(key) == 1 for key in states)
        else:
            answers = [asker.try_ask("nvmlDeviceGetNvLinkState", link) for link in range(links)]
            known = [answer for answer in answers if answer is not None]
            self._active = sum(answer == 1 for answer in known) if known else None
        counted = {kind: sane.count(found.get(key)) for kind, key in ERRORS.items()}
        self._errors.update({kind: value for kind, value in counted.items() if value is not None})
        self._errors.update(self._summed(asker, links))

    def _summed(self, asker: Asker, links: int) -> dict[str, int]:
        wanted = {kind: number for kind, number in ERRORS_OF_LINK.items() if ERRORS.get(kind) in (None, *asker.refused)}
        if "crc" in wanted and "crc_flit" in self._errors:
            del wanted["crc"]  # the same errors by another name
        keys = {kind: [FieldKey(number, link) for link in range(links)] for kind, number in wanted.items()}
        found = asker.values(key for of_kind in keys.values() for key in of_kind)
        sums: dict[str, int] = {}
        for kind, of_kind in keys.items():
            values = [sane.count(found[key]) for key in of_kind if key in found]
            if values and None not in values:
                sums[kind] = sum(value for value in values if value is not None)
        return sums


def _traffic(fields: Fields) -> tuple[int | None, int | None]:
    kibibytes = [sane.count(fields.get(key)) for key in _KIBIBYTES]
    plain = [sane.count(fields.get(key)) for key in _BYTES]
    sent, received = (
        of_link_5 if value is None else value * _KIB for value, of_link_5 in zip(kibibytes, plain, strict=True)
    )
    return sent, received
