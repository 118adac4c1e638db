import math

import pytest

from tests.support.promql_cases import ask, history, same


def buckets(**counts: str) -> dict[str, str]:
    """`b0_5="1"` is the bucket `le="0.5"`; `inf` is `+Inf`."""
    names = {name: name[1:].replace("_", ".").replace("m", "-") for name in counts}
    names["inf"] = "+Inf"
    return {f'h_bucket{{le="{names[name]}"}}': count for name, count in counts.items()}


@pytest.mark.parametrize(
    ("q", "counts", "wanted"),
    [
        ("0.5", {"b1": "10", "b2": "20", "inf": "20"}, 1.0),
        ("0.75", {"b1": "10", "b2": "20", "inf": "20"}, 1.5),
        ("0.25", {"b1": "10", "b2": "20", "inf": "20"}, 0.5),  # the lowest bucket begins at 0
        ("0.25", {"bm1": "10", "b2": "20", "inf": "20"}, -1.0),  # but not below it
        ("0.99", {"b1": "0", "b2": "0", "inf": "20"}, 2.0),  # above the highest finite bound: that bound
        ("0.99", {"b1": "0", "b2": "0", "inf": "0"}, math.nan),
        ("0.5", {"b1": "10", "b2": "20"}, math.nan),  # no +Inf
        ("0.5", {"inf": "20"}, math.nan),
        ("0.75", {"b1": "10", "b2": "9", "b3": "20", "inf": "20"}, 2.5),  # a bucket that counts less is lifted
        ("0.5", {"b1": "5", "b1_0": "5", "b2": "20", "inf": "20"}, 1.0),  # le="1" and le="1.0" are one bucket
        ("-0.1", {"b1": "1", "inf": "2"}, -math.inf),
        ("1.1", {"b1": "1", "inf": "2"}, math.inf),
        ("NaN", {"b1": "1", "inf": "2"}, math.nan),
        ("0.9", {"b1": "nan", "b2": "nan", "inf": "nan"}, 2.0),
    ],
)
def test_quantiles(q: str, counts: dict[str, str], wanted: float) -> None:
    source = history(buckets(**counts))
    assert same(ask(f"histogram_quantile({q}, h_bucket)", source, 0), {"{}": wanted})


def test_float_noise_is_no_observation() -> None:
    source = history(buckets(b1="1", b2="1.0000000000000002", b3="1.0000000000000002", inf="1.0000000000000002"))
    assert ask("histogram_quantile(1, h_bucket)", source, 0) == {"{}": 1.0}


def test_histograms_are_told_apart_by_their_other_labels_and_odd_bounds_are_left_out() -> None:
    source = history(
        {
            'h_bucket{a="1",le="1"}': "10",
            'h_bucket{a="1",le="+Inf"}': "10",
            'h_bucket{a="2",le="1"}': "0",
            'h_bucket{a="2",le="2"}': "10",
            'h_bucket{a="2",le="Inf"}': "10",
            'h_bucket{a="2",le="many"}': "99",
            'h_bucket{a="3"}': "5",
        }
    )
    assert same(ask("histogram_quantile(0.5, h_bucket)", source, 0), {'{a="1"}': 0.5, '{a="2"}': 1.5})
