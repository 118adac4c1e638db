import math

import pytest

from exporters.dcgm_numbers import flag, mebibytes, megahertz, percent, six, whole


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (whole(None), None),
        (whole(0), "0"),
        (whole(64.0), "64"),
        (whole(-3.4), "-3"),
        (whole(5551899580), "5551899580"),
        (whole(5551899.58, 1000.0), "5551899580"),
        (whole(2**62 + 1), str(2**62 + 1)),
        (whole(9223372036854775794), None),
        (whole(9223372036854775794.0), None),
        (whole(math.nan), None),
        (whole(math.inf), None),
        (six(None), None),
        (six(0.0), "0.000000"),
        (six(68.244), "68.244000"),
        (six(0.0001314), "0.000131"),
        (six(140737488355328.0), None),
        (six(math.nan), None),
        (six(-math.inf), None),
        (mebibytes(None), None),
        (mebibytes(2**20 * 608 + 2**19), "608"),
        (mebibytes(9223372036854775794), None),
        (percent(None), None),
        (percent(0.87), "87"),
        (percent(0.29), "29"),
        (megahertz(1_980e6), "1980"),
        (megahertz(None), None),
        (megahertz(9223372036854775794), None),
        (flag(None), None),
        (flag(True), "1"),
        (flag(False), "0"),
    ],
)
def test_numbers(text, expected):
    assert text == expected
