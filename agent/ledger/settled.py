"""Requests whose cost is final, packed and read: about 55 bytes each in the file, for weeks of them.

`figures` holds numbers as LEB128 (seven bits a byte, lowest first), in the order of `_FIELDS`; zeros at the end are
left out, so that what is rare costs nothing. Numbers that may be unknown are one higher, 0 is unknown; those with a
sign are zigzag. Instants are microseconds here; time and money of the bill (`gpu_ns`, `nano`) are exact, and columns.
"""

from collections.abc import Iterable
from typing import NamedTuple

from agent.core.requests import Witness
from agent.ledger.ids import born_ms

_UNPRICED, _SPAN, _METERED, _PRICED = 1, 2, 4, 8
_US = 1000


class Figures(NamedTuple):
    """What is kept of a settled request beside its place, its GPU time and its money."""

    started_ns: int  # whole microseconds, as is `ended_ns`
    ended_ns: int
    teller: int
    input_tokens: int | None = None  # without the cached ones
    input_cached_tokens: int | None = None
    output_tokens: int | None = None
    max_output_tokens: int | None = None
    input_estimate: int | None = None
    attempt: int = 0
    seen_by: Witness = "sidecar"
    work_ns: int = 0
    energy_uj: int = 0
    metered_ns: int = 0
    seen_ns: int = 0  # in-flight time for which its GPUs were known
    priced: bool = False  # in the currency of its place's account
    unpriced: bool = False  # some of its GPU time had no price


def pack(key: bytes, gpu_ns: int, told: Figures) -> bytes:
    """The bytes of `figures` for the request with this key and GPU time."""
    flags = (
        (_UNPRICED if told.unpriced else 0)
        | (_SPAN if told.seen_by == "span" else 0)
        | (_METERED if told.metered_ns else 0)
        | (_PRICED if told.priced else 0)
    )
    start_us = told.started_ns // _US
    return _varints(
        (
            flags,
            _zigzag(start_us - born_ms(key) * (1_000_000 // _US)),
            max(0, told.ended_ns // _US - start_us),
            0 if told.input_tokens is None else told.input_tokens + 1,
            0 if told.output_tokens is None else told.output_tokens + 1,
            told.work_ns,
            told.energy_uj,
            0 if told.max_output_tokens is None else told.max_output_tokens + 1,
            0 if told.input_cached_tokens is None else told.input_cached_tokens + 1,
            told.teller,
            told.attempt,
            _zigzag(told.ended_ns - told.started_ns - told.seen_ns),
            _zigzag(gpu_ns - told.metered_ns) if told.metered_ns else 0,
            0 if told.input_estimate is None else told.input_estimate + 1,
        )
    )


_FIELDS = 14


def unpack(key: bytes, gpu_ns: int, figures: bytes) -> Figures:
    """What `pack` was given, to the microsecond. Raises `ValueError` for bytes that it did not make."""
    numbers = _numbers(figures)
    if len(numbers) > _FIELDS:
        raise ValueError(f"{len(numbers)} figures; expected at most {_FIELDS}")
    numbers += [0] * (_FIELDS - len(numbers))
    (
        flags,
        start,
        length,
        input_tokens,
        output,
        work,
        energy,
        most,
        cached,
        teller,
        attempt,
        unseen,
        unmetered,
        guess,
    ) = numbers
    started_ns = (born_ms(key) * (1_000_000 // _US) + _signed(start)) * _US
    return Figures(
        started_ns=started_ns,
        ended_ns=started_ns + length * _US,
        teller=teller,
        input_tokens=input_tokens - 1 if input_tokens else None,
        input_cached_tokens=cached - 1 if cached else None,
        output_tokens=output - 1 if output else None,
        max_output_tokens=most - 1 if most else None,
        input_estimate=guess - 1 if guess else None,
        attempt=attempt,
        seen_by="span" if flags & _SPAN else "sidecar",
        work_ns=work,
        energy_uj=energy,
        metered_ns=gpu_ns - _signed(unmetered) if flags & _METERED else 0,
        seen_ns=length * _US - _signed(unseen),
        priced=bool(flags & _PRICED),
        unpriced=bool(flags & _UNPRICED),
    )


def _zigzag(number: int) -> int:
    return number << 1 if number >= 0 else (-number << 1) - 1


def _signed(number: int) -> int:
    return -((number + 1) >> 1) if number & 1 else number >> 1


def _varints(numbers: Iterable[int]) -> bytes:
    out = bytearray()
    for number in numbers:
        while number > 16383:
            out += bytes((number & 127 | 128, number >> 7 & 127 | 128))
            number >>= 14
        if number > 127:
            out.append(number & 127 | 128)
            number >>= 7
        out.append(number)
    return bytes(out.rstrip(b"\0"))


def _numbers(packed: bytes) -> list[int]:
    found, number, shift = [], 0, 0
    for byte in packed:
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            found.append(number)
            number = shift = 0
    if shift:
        raise ValueError("figures end in the middle of a number")
    return found
