"""Utilisation, temperature, clocks and why they are low: what changes every second."""

from collections.abc import Mapping
from typing import Any

import pynvml

from agent.collect.gpu import sane
from agent.collect.gpu.codes import throttle_words
from agent.collect.gpu.parts.part import RARE, Asker, FieldKey, Fields, Moment, Tier

_SENSOR = pynvml.NVML_TEMPERATURE_GPU
_CLOCKS_OFTEN = {"sm": pynvml.NVML_CLOCK_SM, "memory": pynvml.NVML_CLOCK_MEM}
_CLOCKS_SELDOM = {"graphics": pynvml.NVML_CLOCK_GRAPHICS, "video": pynvml.NVML_CLOCK_VIDEO}
_ENGINES_OFTEN = {
    "encoder_utilization_ratio": "nvmlDeviceGetEncoderUtilization",
    "decoder_utilization_ratio": "nvmlDeviceGetDecoderUtilization",
}
_ENGINES_SELDOM = {
    "jpeg_utilization_ratio": "nvmlDeviceGetJpgUtilization",
    "ofa_utilization_ratio": "nvmlDeviceGetOfaUtilization",
}


def ratio(asker: Asker, source: str, percent: float) -> float | None:
    """A percentage as a ratio; one that cannot be true is counted."""
    found = sane.ratio(percent)
    if found is None:
        asker.odd(f"{source}: not a percentage")
    elif sane.overshoots(percent):
        asker.odd(f"{source}: more than 100 %, taken as 100 %")
    return found


def core_celsius(asker: Asker) -> float | None:
    """Core temperature at this instant, °C."""
    return sane.celsius(asker.first_of(("nvmlDeviceGetTemperatureV", _SENSOR), ("nvmlDeviceGetTemperature", _SENSOR)))


class Utilization:
    """How busy it was in the driver's last window."""

    tier: Tier = "fast"
    fields: tuple[FieldKey, ...] = ()

    def read(self, asker: Asker, _fields: Fields, _known: Mapping[str, Any], _now: Moment) -> dict[str, Any]:
        """Two ratios."""
        name = "nvmlDeviceGetUtilizationRates"
        rates = asker.ask(name)
        if rates is None:
            return {}
        return {
            "utilization_ratio": ratio(asker, name, rates.gpu),
            "memory_utilization_ratio": ratio(asker, name, rates.memory),
        }


class Engines:
    """How busy the video encoder and decoder are; more seldom, the JPEG decoder and the optical flow unit."""

    tier: Tier = "eager"
    fields: tuple[FieldKey, ...] = ()

    def __init__(self) -> None:
        self._kept: dict[str, float | None] = {}
        self._turn = 0

    def read(self, asker: Asker, _fields: Fields, _known: Mapping[str, Any], _now: Moment) -> dict[str, Any]:
        """Ratios."""
        wanted = _ENGINES_OFTEN if self._turn % RARE else {**_ENGINES_OFTEN, **_ENGINES_SELDOM}
        self._turn += 1
        for name, function in wanted.items():
            answer = asker.try_ask(function)  # utilisation, length of its window
            self._kept[name] = None if answer is None else ratio(asker, function, answer[0])
        return {name: value for name, value in self._kept.items() if value is not None}


class Temperature:
    """Core temperature."""

    tier: Tier = "eager"
    fields: tuple[FieldKey, ...] = ()

    def read(self, asker: Asker, _fields: Fields, _known: Mapping[str, Any], _now: Moment) -> dict[str, Any]:
        """°C."""
        celsius = core_celsius(asker)
        return {} if celsius is None else {"temperature_celsius": celsius}


class Clocks:
    """Clocks of SMs and memory; more seldom the others, and the performance state."""

    tier: Tier = "eager"
    fields: tuple[FieldKey, ...] = ()

    def __init__(self) -> None:
        self._hertz: dict[str, float | None] = {}
        self._state: int | None = None
        self._turn = 0

    def read(self, asker: Asker, _fields: Fields, _known: Mapping[str, Any], _now: Moment) -> dict[str, Any]:
        """Hz by domain, and 0 for P0."""
        self._ask(asker, _CLOCKS_OFTEN)
        if self._turn % RARE == 0:
            self._ask(asker, _CLOCKS_SELDOM)
            self._state = sane.performance_state(asker.try_ask("nvmlDeviceGetPerformanceState"))
        self._turn += 1
        hertz = {domain: value for domain, value in self._hertz.items() if value is not None}
        found: dict[str, Any] = {"clocks_hertz": hertz} if hertz else {}
        if self._state is not None:
            found["performance_state"] = self._state
        return found

    def _ask(self, asker: Asker, domains: Mapping[str, int]) -> None:
        for domain, number in domains.items():
            self._hertz[domain] = sane.hertz(asker.try_ask("nvmlDeviceGetClockInfo", number))


class Reasons:
    """Why the clocks are lower than they could be, at this instant."""

    tier: Tier = "eager"
    fields: tuple[FieldKey, ...] = ()

    def read(self, asker: Asker, _fields: Fields, _known: Mapping[str, Any], _now: Moment) -> dict[str, Any]:
        """The mask, and its bits as words."""
        mask = sane.count(
            asker.first_of(("nvmlDeviceGetCurrentClocksEventReasons",), ("nvmlDeviceGetCurrentClocksThrottleReasons",))
        )
        return {} if mask is None else {"throttle_mask": mask, "throttle_reasons": throttle_words(mask)}
