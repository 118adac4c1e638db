"""Without sources findings have nothing to say, rather than something wrong."""

from agent.api.savings_sources import SavingsSources, TallyStatistics
from agent.core.cost.request_statistics import NOTHING_COUNTED, RequestTally
from tests.support.money import NS, record

T0 = 1_800_000_000 * NS


async def test_without_sources_nothing_is_known():
    sources = SavingsSources()
    assert await sources.statistics.counted(0, T0) is NOTHING_COUNTED
    assert sources.observed(0, T0) == {}
    assert (
        sources.constants_of("vllm", "llama") is sources.shape_of("vllm", "llama") is sources.price_of("H100") is None
    )


async def test_what_this_process_counted_is_told_for_a_window():
    tally = RequestTally(T0)
    tally.add(record("a", T0, T0 + NS, attempt=1))
    counted = await TallyStatistics(tally).counted(T0, T0 + NS)
    assert [(counts.requests, counts.retries) for counts in counted.counts.values()] == [(1, 1)]
