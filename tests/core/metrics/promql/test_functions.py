import math

import pytest

from tests.support.promql_cases import ask, history, same

SERIES = {'x{a="1"}': "2.5", 'x{a="2"}': "-1", 'x{a="3"}': "nan", 't{a="1"}': "1709251199"}
LAST_OF_FEBRUARY = "1709251199"  # 2024-02-29T23:59:59Z, a Thursday


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("abs(x)", (2.5, 1, math.nan)),
        ("ceil(x)", (3, -1, math.nan)),
        ("floor(x)", (2, -1, math.nan)),
        ("sqrt(x)", (math.sqrt(2.5), math.nan, math.nan)),
        ("exp(x * 1000)", (math.inf, 0, math.nan)),
        ("ln(x)", (math.log(2.5), math.nan, math.nan)),
        ("log2(x)", (math.log2(2.5), math.nan, math.nan)),
        ("log10(x - 2.5)", (-math.inf, math.nan, math.nan)),
        ("sgn(x)", (1, -1, math.nan)),
        ("round(x)", (3, -1, math.nan)),
        ("round(x, 0.2)", (2.6, -1, math.nan)),
        ("clamp(x, 0, 2)", (2, 0, math.nan)),
        ("clamp_min(x, 0)", (2.5, 0, math.nan)),
        ("clamp_max(x, 0)", (0, -1, math.nan)),
        ("clamp_min(x, Inf)", (math.inf, math.inf, math.inf)),
    ],
)
def test_of_each_element(query: str, wanted: tuple[float, ...]) -> None:
    assert same(ask(query, history(SERIES), 0), {f'{{a="{n}"}}': value for n, value in enumerate(wanted, 1)})


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("clamp(x, 2, 0)", {}),
        ("absent(x)", {}),
        ('absent(nope{a="1",b!="2",c=~"x"})', {'{a="1"}': 1.0}),
        ('absent(nope{a="1",a="2",b="3"})', {'{b="3"}': 1.0}),
        ("absent(sum(nope))", {"{}": 1.0}),
        ("scalar(x)", {"scalar": math.nan}),
        ('scalar(x{a="1"})', {"scalar": 2.5}),
        ("scalar(nope)", {"scalar": math.nan}),
        ("vector(time())", {"{}": 60.0}),
        ('timestamp(x{a="1"})', {'{a="1"}': 0.0}),
        ('timestamp(x{a="1"} + 0)', {'{a="1"}': 60.0}),
        ('timestamp(x{a="1"} offset 10s)', {'{a="1"}': 0.0}),
        ('timestamp(x{a="1"} @ 70 offset 10s)', {'{a="1"}': 0.0}),
        ("sort(x)", {'x{a="2"}': -1.0, 'x{a="1"}': 2.5, 'x{a="3"}': math.nan}),
        ("sort_desc(x)", {'x{a="1"}': 2.5, 'x{a="2"}': -1.0, 'x{a="3"}': math.nan}),
    ],
)
def test_others(query: str, wanted: dict[str, float]) -> None:
    found = ask(query, history(SERIES), 60_000)
    assert same(found, wanted)
    assert list(found) == list(wanted)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("minute", 59), ("hour", 23), ("day_of_month", 29), ("day_of_week", 4), ("day_of_year", 60),
        ("days_in_month", 29), ("month", 2), ("year", 2024),
    ],
)  # fmt: skip
def test_calendar(name: str, wanted: float) -> None:
    assert ask(f"{name}(t)", history(SERIES), 0) == {'{a="1"}': wanted}
    assert ask(f"{name}(vector({LAST_OF_FEBRUARY}.9))", history({}), 0) == {"{}": wanted}
    assert ask(f"{name}()", history({}), int(LAST_OF_FEBRUARY) * 1000 + 999) == {"{}": wanted}
    assert same(ask(f"{name}(vector(NaN))", history({}), 0), {"{}": math.nan})


def test_calendar_before_1970() -> None:
    assert ask("year(vector(-1))", history({}), 0) == {"{}": 1969.0}
    assert ask("day_of_week(vector(-86400))", history({}), 0) == {"{}": 3.0}
