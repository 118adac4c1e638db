"""What is remembered between transactions: kept after one, read again after one that was taken back."""

from agent.ledger.ledger import Ledger
from agent.ledger.memory import Memory
from tests.support.ledger import T0
from tests.support.money import Sidecar


async def test_what_is_dropped_is_read_again(ledger: Ledger) -> None:
    sidecar = Sidecar()
    await ledger.accept(sidecar.batch(T0, sidecar.start("a", T0)))
    memory = Memory()
    with ledger._writer.begin() as connection:
        assert list(memory.requests.rows(connection)) == ["a"]
        assert memory.places.teller(connection, "s", "x") == memory.places.teller(connection, "s", "x")
        memory.keep()
        memory.drop()
        assert list(memory.requests.rows(connection)) == ["a"]
