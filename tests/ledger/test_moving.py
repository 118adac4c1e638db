"""Requests whose cost is final: they move once, and what is told of them later is known by their id."""

from agent.core.cost.closed import Closed
from agent.core.cost.live import Live
from agent.ledger.ledger import Ledger
from agent.ledger.tables import requests, settled_requests
from tests.support.ledger import T0, rows, settled
from tests.support.money import NS, UPSTREAM, Sidecar, record

SEVEN = "01a0a8f0-5c00-7abc-8def-0123456789ab"


async def moved(ledger: Ledger, request_id: str, number: int = 1) -> None:
    live = Live(request_id, UPSTREAM, "vllm", T0, model="llama", tenant="acme", gpu_ns=5, nano=50, currency="CNY")
    closed = Closed(number, T0, T0 + number * NS, requests={request_id: live}, settled=[request_id])
    await ledger.settle(closed)


async def test_a_settled_request_told_again_is_a_repeat(ledger: Ledger) -> None:
    sidecar = Sidecar()
    for number, name in enumerate((SEVEN, "odd"), 1):
        events = (sidecar.start(name, T0), sidecar.end(record(name, T0, T0 + NS)))
        await ledger.accept(sidecar.batch(T0, *events))
        await moved(ledger, name, number)
        again = Sidecar(epoch=9)
        told = (again.start(name, T0), again.end(record(name, T0, T0 + 2 * NS)))
        accepted = await ledger.accept(again.batch(T0, *told), ends_older=False)
        assert (accepted.receipt.repeated, accepted.started, accepted.ended) == (2, [], [])
    assert rows(ledger, requests) == []
    assert [row["id"] for row in rows(ledger, settled_requests)] == [SEVEN, "odd"]


async def test_a_stranger_may_not_tell_of_a_settled_one(ledger: Ledger) -> None:
    sidecar, stranger = Sidecar(), Sidecar("stranger")
    await ledger.accept(sidecar.batch(T0, sidecar.end(record(SEVEN, T0, T0 + NS))), sender="token::a")
    await moved(ledger, SEVEN)
    accepted = await ledger.accept(stranger.batch(T0, stranger.start(SEVEN, T0)), sender="token::b")
    assert [event.kind for event in accepted.receipt.refused] == ["sender"]


async def test_the_true_end_of_one_that_was_settled_as_lost(ledger: Ledger) -> None:
    sidecar = Sidecar()
    await ledger.accept(sidecar.batch(T0, sidecar.start(SEVEN, T0)))
    assert await ledger.lose("sidecar", 1, T0 + NS) == {SEVEN: T0 + NS}
    await moved(ledger, SEVEN)
    told = record(SEVEN, T0, T0 + 3 * NS, max_output_tokens=9)
    accepted = await ledger.accept(sidecar.batch(T0, sidecar.end(told)))
    assert (accepted.ended, accepted.revised) == ([told], {SEVEN})
    figures, cost = settled(ledger, SEVEN), await ledger.request_cost(SEVEN)
    assert figures is not None
    assert cost is not None
    assert (figures.ended_ns, figures.output_tokens, figures.max_output_tokens) == (T0 + 3 * NS, 10, 9)
    assert (cost.outcome, cost.gpu_ns) == ("ok", 5)
    assert (await ledger.accept(sidecar.batch(T0, sidecar.end(told)))).ended == []
