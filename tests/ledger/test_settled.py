"""What is kept of a settled request: it comes back, and takes few bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.ledger.ids import to_key
from agent.ledger.settled import Figures, pack, unpack

SEVEN = to_key("01a0a8f0-5c00-7abc-8def-0123456789ab")
BORN_NS = 0x01A0A8F05C00 * 1_000_000
tokens = st.none() | st.integers(0, 10**9)
lengths = st.integers(0, 10**12)
figures = st.builds(
    Figures,
    started_ns=st.integers(0, 2**62).map(lambda ns: ns - ns % 1000),
    ended_ns=st.just(0),
    teller=st.integers(0, 1000),
    input_tokens=tokens,
    input_cached_tokens=tokens,
    output_tokens=tokens,
    max_output_tokens=tokens,
    input_estimate=tokens,
    attempt=st.integers(0, 100),
    seen_by=st.sampled_from(["sidecar", "span"]),
    work_ns=lengths,
    energy_uj=lengths,
    metered_ns=lengths,
    seen_ns=lengths,
    priced=st.booleans(),
    unpriced=st.booleans(),
)


@given(figures, st.integers(0, 10**9), lengths, st.sampled_from([SEVEN, to_key("odd")]))
def test_it_comes_back(told: Figures, length_us: int, gpu_ns: int, key: bytes) -> None:
    told = told._replace(ended_ns=told.started_ns + length_us * 1000)
    assert unpack(key, gpu_ns, pack(key, gpu_ns, told)) == told


def test_instants_are_kept_to_the_microsecond() -> None:
    told = Figures(BORN_NS + 1_234_567, BORN_NS + 2_000_999, 0)
    found = unpack(SEVEN, 0, pack(SEVEN, 0, told))
    assert (found.started_ns, found.ended_ns) == (BORN_NS + 1_234_000, BORN_NS + 2_000_000)


def test_an_ordinary_one_takes_few_bytes() -> None:
    told = Figures(
        BORN_NS + 700_000, BORN_NS + 400_000_000, 0, 1200, None, 300, 1024, None, 0, "sidecar", 900_000, 1_100_000,
        1_600_000, 399_300_000, True, False,
    )  # fmt: skip
    assert len(pack(SEVEN, 1_600_000, told)) <= 20


@pytest.mark.parametrize("damaged", [b"\x80", b"\x01" * 15, b"\xff" * 40])
def test_damaged_bytes_are_refused(damaged: bytes) -> None:
    with pytest.raises(ValueError, match="figures"):
        unpack(SEVEN, 0, damaged)
