"""Numbers of places: each is written once, also when few are remembered and when a transaction is taken back."""

from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.core.cost.live import Booking
from agent.ledger.places import Places, key_of
from agent.ledger.tables import places as table
from agent.ledger.tables import tellers
from tests.support.ledger import T0, fresh, rows

PLACE = Booking(T0, "GPU-0", T0, "request", "vllm", "llama", "acme", "ok", "slot", "process", "group", "ns", "pod")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.lists(st.integers(0, 9), max_size=6), st.booleans()), max_size=8), st.integers(0, 12))
async def test_each_place_has_one_number(tmp_path: Path, told: list[tuple[list[int], bool]], most: int) -> None:
    numbers: dict[int, int] = {}
    async with await fresh(tmp_path / "node") as ledger:
        places = Places(most)
        for models, kept in told:
            keys = {model: key_of(PLACE._replace(model=str(model))) for model in models}
            with ledger._writer.connect() as connection:
                found = places.ids(connection, keys.values())
                teller = places.teller(connection, "sidecar", str(len(models)))
                assert places.who(connection, teller) == ("sidecar", str(len(models)))
                if kept:
                    connection.commit()
                    places.keep()
                    for model in models:
                        assert numbers.setdefault(model, found[keys[model]]) == found[keys[model]]
                else:
                    connection.rollback()
                    places.drop()
        assert len(set(numbers.values())) == len(numbers)
        assert {int(row["model"]): row["id"] for row in rows(ledger, table)} == numbers


def test_a_key_is_a_booking_without_its_time() -> None:
    assert key_of(PLACE) == PLACE[1:]
    assert key_of(PLACE, "error") == PLACE._replace(outcome="error")[1:]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.lists(st.integers(0, 9), max_size=6), st.booleans()), max_size=8))
async def test_each_teller_has_one_number_however_many_are_new_at_once(
    tmp_path: Path, told: list[tuple[list[int], bool]]
) -> None:
    numbers: dict[int, int] = {}
    async with await fresh(tmp_path / "node") as ledger:
        places = Places()
        for sidecars, kept in told:
            with ledger._writer.connect() as connection:
                found = {sidecar: places.teller(connection, f"sidecar-{sidecar}", "") for sidecar in sidecars}
                if kept:
                    connection.commit()
                    places.keep()
                    assert all(numbers.setdefault(sidecar, number) == number for sidecar, number in found.items())
                else:
                    connection.rollback()
                    places.drop()
        assert len(set(numbers.values())) == len(numbers)
        assert {int(row["sidecar"].removeprefix("sidecar-")): row["id"] for row in rows(ledger, tellers)} == numbers
