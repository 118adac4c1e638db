"""The price of one request, settled or not: from rows that are written as settlement writes them."""

from typing import Any

import pytest
from sqlalchemy import Connection, insert, select

from agent.core.cost.closed import Amount
from agent.core.cost.prices import Part, PriceRow
from agent.core.requests import Witness
from agent.ledger.explaining import request_cost
from agent.ledger.ids import to_key
from agent.ledger.settled import Figures, pack
from agent.ledger.tables import places, requests, settled_requests
from tests.support.booked import M0, MINUTE_NS, T0, Place, account, booked, forget, place
from tests.support.money import MODEL, NS, book

ID = "0190d5a7-7c00-7abc-8def-0123456789ab"
HOURLY = book(PriceRow("*", (Part("rent", 3),)), PriceRow("*", (Part("rent", 2),), T0 + MINUTE_NS))  # type: ignore[arg-type]
WHERE = {"engine": "vllm", "model": "llama", "tenant": "a'b\"%"}
SERVED = place("request", outcome="ok", **WHERE)
ROWS = (
    (M0, SERVED, Amount(30 * NS, 300)),
    (M0 + 2, SERVED._replace(gpu="GPU-1", slot="MIG-1"), Amount(20 * NS, 100, 1)),
    (M0 + 2, SERVED._replace(slot="other", tenant="zeta"), Amount(1)),
    (M0 + 9, SERVED._replace(slot="later"), Amount(1)),
)
FOUND = (account(prices=HOURLY), account("GPU-1", HOURLY))


def write_settled(connection: Connection, where: Place, request_id: str = ID, nano: int = 400, **told: Any) -> None:
    number = connection.execute(
        select(places.c.id).where(places.c.slot == where.slot, places.c.outcome == where.outcome)
    ).scalar_one()
    values: dict[str, Any] = {
        "started_ns": T0 + 10 * NS, "ended_ns": T0 + 150 * NS, "teller": 0, "input_tokens": 7, "output_tokens": 9,
        "work_ns": 12 * NS, "energy_uj": 5, "metered_ns": 50 * NS, "seen_ns": 140 * NS, "priced": True, **told,
    }  # fmt: skip
    figures = pack(to_key(request_id), 50 * NS, Figures(**values))
    row = {"id": request_id, "place": number, "gpu_ns": 50 * NS, "nano": nano, "figures": figures}
    connection.execute(insert(settled_requests), [row])


def test_a_settled_request_tells_everything_that_is_kept() -> None:
    with booked(ROWS, FOUND, through_ns=T0 + 10 * MINUTE_NS) as connection:
        write_settled(connection, ROWS[1][1], attempt=2, max_output_tokens=64, input_cached_tokens=5)
        found = request_cost(connection, ID)
        forget(connection, M0 + 60)
        later = request_cost(connection, ID)
    assert found is not None
    assert later is not None
    assert (found.id, found.engine, found.model, found.tenant, found.outcome) == (ID, *WHERE.values(), "ok")
    assert (found.started_at_ns, found.ended_at_ns, found.settled) == (T0 + 10 * NS, T0 + 150 * NS, True)
    assert (found.gpu_ns, found.cost_nano, found.currency, found.work_ns) == (50 * NS, 400, "CNY", 12 * NS)
    assert (found.input_tokens, found.input_cached_tokens, found.output_tokens) == (7, 5, 9)
    assert (found.energy_uj, found.attempt, found.max_output_tokens, found.waste) == (5, 2, 64, "")
    assert (found.slots, later.slots) == (("GPU-0", "MIG-1"), ("MIG-1",))
    assert found.price is not None
    assert (found.gpu_model, found.price.gpu_model) == (MODEL, MODEL)
    assert (found.price.nano_per_hour, found.price.currency) == (2 * 10**9, "CNY")
    assert (found.price.effective_from, found.price.parts) == ("2027-01-15T08:01:00Z", ())
    assert found.precision.startswith("Seen by the sidecar: its own prefill")


@pytest.mark.parametrize(
    ("told", "where", "wanted"),
    [
        ({"priced": False}, {}, {"cost_nano": None, "currency": None}),
        ({"unpriced": True}, {}, {"cost_nano": None, "currency": None}),
        ({"nano": 0}, {}, {"cost_nano": 0, "currency": "CNY"}),  # a price of 0 is a price
        ({"metered_ns": 0, "energy_uj": 0}, {}, {"energy_uj": None}),
        ({"seen_by": "span"}, {}, {"seen_by": "span"}),
        ({}, {"outcome": "client_abort"}, {"outcome": "client_abort", "waste": "client_abort"}),
        ({}, {"tenant": "", "model": ""}, {"tenant": None, "model": None}),
        (
            {},
            {"gpu": "", "slot": "", "account_ns": 0},
            {"slots": (), "price": None, "cost_nano": None, "gpu_model": ""},
        ),
    ],
)
def test_what_is_not_known_is_none(told: dict[str, Any], where: dict[str, Any], wanted: dict[str, Any]) -> None:
    at = SERVED._replace(**where)
    with booked([(M0, at, Amount(50 * NS, 400, 1))], FOUND, through_ns=T0 + MINUTE_NS) as connection:
        write_settled(connection, at, **told)
        found = request_cost(connection, ID)
    assert {name: getattr(found, name) for name in wanted} == wanted


@pytest.mark.parametrize("request_id", [ID, "not a uuid", "nul\0 and 東京", "'; DROP TABLE requests; --", "\ud800"])
def test_any_id_can_be_asked_for(request_id: str) -> None:
    with booked([(M0, SERVED, Amount(1))], FOUND) as connection:
        assert request_cost(connection, request_id) is None
        write_settled(connection, SERVED, request_id)
        found = request_cost(connection, request_id)
    assert found is not None
    assert (found.id, found.gpu_ns) == (request_id, 50 * NS)


def write_open(connection: Connection, **fields: Any) -> None:
    row: dict[str, Any] = dict.fromkeys(column.name for column in requests.c)
    row |= dict.fromkeys(("gpu_ns", "nano", "work_ns", "energy_uj", "metered_ns", "seen_ns", "attempt", "epoch"), 0)
    row |= {"id": ID, "sidecar": "s", "sender": "", "upstream": "h:1", "engine": "vllm", "started_ns": T0 + 5 * NS}
    witness: Witness = "sidecar"
    row |= {"model": "llama", "tenant": "acme", "seen_by": witness, "unpriced": False}
    connection.execute(insert(requests), [row | fields])


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, {"cost_nano": None, "currency": None, "outcome": None, "ended_at_ns": None, "slots": (), "price": None}),
        (
            {"gpu_ns": 5, "nano": 50, "currency": "CNY", "energy_uj": 3, "metered_ns": 4},
            {"cost_nano": 50, "currency": "CNY", "gpu_ns": 5, "energy_uj": 3, "slots": ("GPU-0", "GPU-1")},
        ),
        ({"gpu_ns": 5, "nano": 0, "currency": "CNY"}, {"cost_nano": 0, "gpu_model": MODEL, "waste": ""}),
        ({"gpu_ns": 5, "nano": 9, "currency": "CNY", "unpriced": True}, {"cost_nano": None, "currency": None}),
        ({"outcome": "timeout", "ended_ns": T0 + 9 * NS}, {"outcome": "timeout", "waste": "timeout"}),
        ({"tenant": None, "model": None, "input_tokens": 3}, {"tenant": None, "model": None, "input_tokens": 3}),
    ],
)
def test_a_request_that_runs_is_priced_so_far(fields: dict[str, Any], wanted: dict[str, Any]) -> None:
    running = place("request", outcome="in_flight", engine="vllm", model="llama", tenant="acme")
    rows = [(M0, running, Amount(3, 30)), (M0, running._replace(gpu="GPU-1", slot="GPU-1"), Amount(2, 20))]
    with booked(rows, FOUND, through_ns=T0 + 20 * NS) as connection:
        write_open(connection, **fields)
        found = request_cost(connection, ID)
    assert found is not None
    assert not found.settled
    assert {name: getattr(found, name) for name in wanted} == wanted
