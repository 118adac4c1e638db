"""What a settlement goes on from, after everything that can be in a ledger."""

from agent.core.cost.closed import Amount, Closed
from agent.core.cost.live import Booking
from agent.core.requests import RequestProgressed
from agent.ledger.ledger import Ledger
from tests.support.ledger import T0, opened
from tests.support.money import NS, Sidecar, record

PLACE = Booking(T0, "GPU-0", T0, "request", "vllm", "llama", "acme", "ok")


async def test_open_requests_and_who_told_them(ledger: Ledger) -> None:
    sidecar, other = Sidecar(epoch=4), Sidecar("other")
    told = RequestProgressed(sequence=2, id="a", at_ns=T0 + NS, output_tokens=9)
    await ledger.accept(sidecar.batch(T0, sidecar.start("a", T0, input_tokens_estimate=77), told), sender="token::x")
    ended = record("b", T0, T0 + NS, attempt=2, max_output_tokens=50)
    await ledger.accept(other.batch(T0, other.end(ended)))
    ledger.close()
    async with await opened(ledger.where) as again:
        a, b = again.opened.live
        assert (a.id, a.points, a.input_estimate, a.outcome) == ("a", [(T0 + NS, 9)], 77, None)
        assert (b.id, b.attempt, b.max_output_tokens, b.outcome, b.usage.output_tokens) == ("b", 2, 50, "ok", 10)
        assert again.opened.senders == [("token::x", "sidecar", 4)]
        assert again.opened.ended == 1


async def test_totals_are_those_of_days_and_of_minutes_that_are_in_no_day_yet(ledger: Ledger) -> None:
    later = PLACE._replace(bucket_ns=T0 + 60 * NS)
    entries = {PLACE: Amount(gpu_ns=3, nano=30), later: Amount(gpu_ns=4, nano=40)}
    await ledger.settle(Closed(1, T0, T0 + 90 * NS, entries))
    ledger.close()
    async with await opened(ledger.where) as again:
        assert again.opened.slot_ns == {("GPU-0", "request"): 7}
        assert again.opened.cost_nano == {}, "its account has no currency: there is none"
        assert (again.opened.step, again.opened.through_ns) == (1, T0 + 90 * NS)
