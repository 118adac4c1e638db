import math

import pytest

from tests.support.promql_cases import ask, history, same


@pytest.mark.parametrize(
    ("name", "values", "wanted"),
    [
        ("avg", "9 1 2 3 4 5 6", 3.5),
        ("avg", "0 1e308 1e308 1e308 1e308 1e308 1e308", 1e308),  # the sum would overflow
        ("sum", "9 1 2 3 4 5 6", 21.0),
        ("sum", "0 1e100 1 -1e100 _ _ _", 1.0),  # nothing is lost to rounding
        ("sum", "0 inf 1 2 3 4 5", math.inf),
        ("sum", "0 inf -inf 2 3 4 5", math.nan),
        ("min", "-9 1 nan 3 4 5 6", 1.0),
        ("max", "99 1 nan 3 4 5 6", 6.0),
        ("max", "9 nan nan nan nan nan nan", math.nan),
        ("count", "9 1 _ nan 4 stale 6", 4.0),
        ("stdvar", "9 2 4 4 4 5 5", 0.0 + (4 + 0 + 0 + 0 + 1 + 1) / 6),
        ("stddev", "9 1 1 1 1 1 inf", math.nan),
        ("present", "9 nan _ _ _ _ _", 1.0),
    ],
)
def test_over_time(name: str, values: str, wanted: float) -> None:
    assert same(ask(f"{name}_over_time(x[1m])", history({"x": values}), 60_000), {"{}": wanted})


def test_last_over_time_keeps_the_name() -> None:
    assert ask("last_over_time(x[1m])", history({"x": "1 2 3 stale"}), 60_000) == {"x{}": 3.0}


@pytest.mark.parametrize(
    ("q", "wanted"), [("0.5", 3.5), ("0", 1.0), ("1", 6.0), ("-0.1", -math.inf), ("1.1", math.inf), ("NaN", math.nan)]
)
def test_quantile_over_time(q: str, wanted: float) -> None:
    source = history({"x": "9 1 2 3 4 5 6"})
    assert same(ask(f"quantile_over_time({q}, x[1m])", source, 60_000), {"{}": wanted})


def test_absent_over_time() -> None:
    source = history({'x{a="1"}': "1 2 stale"})
    assert ask('absent_over_time(x{a="1"}[1m])', source, 60_000) == {}
    assert ask('absent_over_time(x{a="1",b=~".*"}[1m])', source, 600_000) == {'{a="1"}': 1.0}
    assert ask('absent_over_time(x{a="1"}[1m:10s])', source, 900_000) == {"{}": 1.0}
