import math
from collections.abc import Callable

import pytest

from agent.api import formats


def plain_spaces(text: str) -> str:
    return text.replace("\u202f", " ").replace("\u00a0", " ")


@pytest.mark.parametrize("show", [formats.figure, formats.percent, formats.seconds, formats.duration, formats.gib])
def test_what_is_not_known_is_a_dash_and_never_zero(show: Callable[[float | None], str]):
    assert show(None) == "—"
    assert show(0.0) != "—"


@pytest.mark.parametrize("show", [formats.figure, formats.percent, formats.seconds, formats.duration])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_a_dash(show: Callable[[float | None], str], value: float):
    assert show(value) == "—"
    assert not formats.known(value)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (formats.figure(1234.6), "1,235"),
        (formats.figure(12.34, "W"), "12.3 W"),
        (formats.figure(3.0, "/s"), "3 /s"),
        (formats.figure(0.5, "/s"), "0.50 /s"),
        (formats.figure(0.0123), "0.012"),
        (formats.figure(0.00001), "<0.0001"),
        (formats.percent(0.874), "87 %"),
        (formats.percent(0.031), "3.1 %"),
        (formats.percent(1.0), "100 %"),
        (formats.gib(80 * 2**30), "80.0 GiB"),
        (formats.seconds(0.0004), "400 µs"),
        (formats.seconds(0.0123), "12 ms"),
        (formats.seconds(1.239), "1.24 s"),
        (formats.seconds(12.39), "12.4 s"),
        (formats.duration(42), "42 s"),
        (formats.duration(300), "5 min"),
        (formats.duration(7200), "2.0 h"),
        (formats.duration(300_000), "3.5 d"),
        (formats.ago(None), "never"),
        (formats.ago(0.3), "just now"),
        (formats.ago(61), "61 s ago"),
        (formats.gpu_time(0), "0.0 GPU s"),
        (formats.gpu_time(9_000 * 10**9), "2.5 GPU h"),
        (formats.gpu_time(900 * 10**9, 36_000 * 10**9), "0.2 GPU h"),
        (formats.money(None, "CNY"), "—"),
        (formats.money(5, None), "—"),
        (formats.money(1_234_567_000_000, "CNY"), "¥1,234.57"),
        (formats.money(3_120_000, "USD"), "$0.00312"),
        (formats.money(7, "EUR"), "€0.000000007"),
        (formats.money(-1_500_000_000, "CHF"), "−CHF 1.50"),
        (formats.money(0, "CNY"), "¥0.00"),
        (formats.money(0, "CNY", 0), "¥0.00"),
        (formats.money(8_370_000, "CNY", 420_000_000), "¥0.0084"),
        (formats.money(260_000_000, "CNY", 420_000_000), "¥0.2600"),
        (formats.money(8_370_000, "CNY", 42_000_000_000), "¥0.01"),
    ],
)
def test_figures_and_units(shown: str, expected: str):
    assert plain_spaces(shown) == expected
