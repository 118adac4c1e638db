"""A request whose start and end come in one batch is one row, the same as from two batches."""

from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.ledger.tables import requests
from tests.support.ledger import T0, fresh, rows
from tests.support.money import NS, Sidecar, record

names = st.sampled_from([None, "x", "y"])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names, names, names, names, st.integers(-3, 3), st.integers(0, 3), st.none() | st.integers(0, 9))
async def test_one_batch_or_two(
    tmp_path: Path,
    m1: str | None,
    m2: str | None,
    t1: str | None,
    t2: str | None,
    later: int,
    length: int,
    n: int | None,
) -> None:
    found = []
    for together in (True, False):
        sidecar = Sidecar()
        start = sidecar.start("a", T0, model=m1, tenant=t1, input_tokens_estimate=n)
        begin = T0 + later * NS
        end = sidecar.end(record("a", begin, begin + length * NS, model=m2, tenant=t2, input_tokens_estimate=4))
        async with await fresh(tmp_path / "node") as ledger:
            for events in [(start, end)] if together else [(start,), (end,)]:
                await ledger.accept(sidecar.batch(T0, *events), skew_ns=7)
            found.append(rows(ledger, requests))
    assert found[0] == found[1]
