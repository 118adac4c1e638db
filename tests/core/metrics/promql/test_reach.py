import pytest

from agent.core.metrics.promql import longest_reach_ms, parse


@pytest.mark.parametrize(
    ("query", "seconds"),
    [
        ("1", 0),
        ("time()", 0),
        ("x", 300),
        ("x offset 1h", 3900),
        ("x offset -10m", 0),
        ("rate(x[10m])", 600),
        ("rate(x[1m] offset 1h)", 3660),
        ("x + rate(y[1h])", 3600),
        ("avg_over_time(rate(x[5m])[30m:1m])", 2100),
        ("avg_over_time(x[1h] offset 167h30m)", 606_600),
        ("sum by (a) (-x)", 300),
        ("quantile_over_time(scalar(avg_over_time(x[20m])), x[1m])", 1200),
        ("topk(scalar(x offset 1h), x)", 3900),
        ("x @ 100", 0),
        ("x @ end() offset 1m", 360),
    ],
)
def test_reach(query: str, seconds: int) -> None:
    assert longest_reach_ms(parse(query)) == seconds * 1000


def test_lookback_is_a_parameter() -> None:
    assert longest_reach_ms(parse("x"), lookback_ms=10_000) == 10_000
