import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.kmsg import KernelRecord, parse_record


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (b"3,1234,5678901,-;NVRM: x\n", KernelRecord(1234, 5678901, True, "NVRM: x")),
        (b"6,1,2,c,caller=T1;one\n SUBSYSTEM=pci\n DEVICE=+pci:0\n", KernelRecord(1, 2, True, "one")),
        (b"12,1,2,-;from a program\n", KernelRecord(1, 2, False, "from a program")),
        (b"6,1,2,-;a;b,c\n", KernelRecord(1, 2, True, "a;b,c")),
        (b"6,1,2,-;\xff\n", KernelRecord(1, 2, True, "\N{REPLACEMENT CHARACTER}")),
        (b"6,1;too few\n", None),
        (b"6,x,2,-;no number\n", None),
        (b"no record\n", None),
        (b"", None),
    ],
)
def test_records(data, wanted):
    assert parse_record(data) == wanted


@given(st.binary(max_size=100))
def test_nothing_raises(data):
    parse_record(data)
