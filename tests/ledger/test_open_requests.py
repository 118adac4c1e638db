"""What the writer remembers of open requests is what is there, after every kind of news."""

import pytest

from agent.ledger import receiving
from agent.ledger.ledger import Ledger
from agent.ledger.open_requests import OpenRequests
from tests.support.ledger import T0
from tests.support.money import NS, Sidecar, record


def same(ledger: Ledger) -> None:
    """As if it were read again."""
    with ledger._writer.begin() as connection:
        assert ledger._memory.requests.rows(connection) == OpenRequests().rows(connection)


async def test_it_is_what_is_there(ledger: Ledger) -> None:
    first, second = Sidecar(), Sidecar(epoch=2)
    await ledger.accept(first.batch(T0, first.start("a", T0, input_tokens_estimate=5), first.start("b", T0)))
    same(ledger)
    ended = record("a", T0 - NS, T0 - NS, model=None, input_tokens_estimate=9, attempt=1)
    both = (first.start("c", T0 + 5, model=None), first.end(record("c", T0, T0 + 1, max_output_tokens=3)))
    await ledger.accept(first.batch(T0, first.end(ended), *both, first.end(record("d", T0, T0 + NS))))
    same(ledger)
    await ledger.accept(second.batch(T0 + NS))  # b is lost
    same(ledger)
    await ledger.accept(first.batch(T0, first.end(record("b", T0, T0 + NS))))
    same(ledger)


async def test_after_a_failure_it_is_read_again(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    sidecar = Sidecar()
    batch = sidecar.batch(T0, sidecar.start("a", T0))
    with monkeypatch.context() as patched:
        patched.setattr(receiving, "_lose_older", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await ledger.accept(batch)
    same(ledger)
    assert [event.id for event in (await ledger.accept(batch)).started] == ["a"]
    same(ledger)
