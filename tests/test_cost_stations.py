"""The money of a node wired together, on a real ledger: what settings lead to, which cycles run, and what is kept."""

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from agent.clock import unix_ns
from agent.config import Settings
from agent.core.board import Board
from agent.core.catalogue import BY_NAME
from agent.core.cost.price_rows import Part, PriceRow
from agent.core.cost.prices import PriceBook
from agent.core.ports import ConfigError
from agent.core.requests import RequestRecord
from agent.cost_stations import CostStations, check_money, check_quotas
from agent.ledger.ledger import Ledger
from agent.ledger.retention import Retention
from tests.support.money import MODEL, NS, PRICE_PER_HOUR, Sidecar, book, engine, gpus, record

BUDGET: dict[str, Any] = {"name": "all", "amount": "100", "currency": "CNY", "period": "month"}


def settings(**sections: Any) -> Settings:
    return Settings.model_validate(sections)


def budgets(*items: dict[str, Any]) -> dict[str, Any]:
    return {"items": list(items)}


class Pulses:
    """Remembers the cycles instead of running them."""

    def __init__(self) -> None:
        self.started: dict[str, tuple[float, bool, Callable[[], Awaitable[None]]]] = {}

    def __call__(self, name: str, seconds: float, step: Callable[[], Awaitable[None]], *, essential: bool) -> None:
        self.started[name] = (seconds, essential, step)


class Node:
    """A ledger in a folder and the stations on it."""

    def __init__(self, folder: Path, ledger: Ledger, told: Settings, prices: PriceBook | None) -> None:
        self.ledger = ledger
        self.board = Board("node-a")
        self.ended: list[str] = []
        self.cost = CostStations(told, "node-a", ledger, prices, self.board, folder, self._ended, {})

    def _ended(self, record: RequestRecord) -> None:
        self.ended.append(record.id)

    def see(self, count: int = 2) -> int:
        now = self.ledger.clock.now_ns()
        self.board.gpus = gpus(now, count)
        self.board.engines["vllm"] = engine(now)
        self.cost.settlement.observe_gpus(self.board.gpus)
        self.cost.settlement.observe_engine(self.board.engines["vllm"])
        return now


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    async with await Ledger.open(tmp_path / "ledger.sqlite", "node-a", lock_seconds=0.05) as opened:
        yield opened


def node(ledger: Ledger, prices: PriceBook | None = None, **sections: Any) -> Node:
    return Node(ledger.path.parent, ledger, settings(**sections), prices)


# Settings


def test_what_the_settings_about_money_lead_to() -> None:
    none = list(check_money(settings(), None))
    assert none == ["prices: none, so GPU time is counted and not priced"]
    told = settings(
        budgets=budgets(BUDGET, {**BUDGET, "name": "odd", "counts": "requests_and_idle", "scope": {"tenant": "a"}}),
        quotas={"rules": [{"name": "q", "money": {"amount": 5, "currency": "CNY", "period": "day"}}]},
        reports={"schedules": [{"name": "r", "every": "daily", "at": "06:00", "format": "csv"}]},
    )
    lines = list(check_money(told, book()))
    assert lines[:4] == ["prices: in CNY", "quotas: q (observe)", "budget: all (observe)", "budget: odd (observe)"]
    assert lines[4].startswith("budget: odd: idle time has no tenant")
    assert lines[5:] == ["report: r (daily at 06:00)"]


@pytest.mark.parametrize(
    ("prices", "says"),
    [(None, "there are no prices; add them under `prices`"), (book(currency="EUR"), "but prices are in EUR")],
)
def test_money_can_be_limited_only_in_the_currency_of_the_prices(prices: PriceBook | None, says: str) -> None:
    limits = {"rules": [{"name": "q", "requests_per_minute": 1}]}
    limits["rules"].append({"name": "m", "money": {"amount": 5, "currency": "CNY", "period": "day"}})
    with pytest.raises(ConfigError, match=r"quotas\.rules\.1\.money\.currency: is CNY, but") as refused:
        check_quotas(settings(quotas=limits), prices)
    assert says in str(refused.value)


def test_mistakes_of_budgets_and_shapes_are_told_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"budgets.*currency"):
        list(check_money(settings(budgets=budgets({**BUDGET, "currency": "USD"})), book()))
    missing = {"models": [{"model": "*", "config_file": str(tmp_path / "config.json")}]}
    with pytest.raises(ConfigError, match=r"tariff\.models"):
        list(check_money(settings(tariff=missing), book()))


# Running


async def test_every_cycle_is_started_and_settlement_is_essential(ledger: Ledger) -> None:
    found, pulses = node(ledger, book()), Pulses()
    found.cost.start(pulses)
    assert {name: essential for name, (_, essential, _) in pulses.started.items()} == {
        "settlement": True,
        "budgets": False,
        "quotas": False,
        "model_shapes": False,
        "reports": False,
        "retention": False,
    }
    assert all(seconds > 0 for seconds, _, _ in pulses.started.values())
    for _, _, step in pulses.started.values():  # on an empty node, before the first GPU
        await step()
    found.see()
    for _, _, step in pulses.started.values():
        await step()


async def test_what_came_is_booked_counted_and_shown(ledger: Ledger) -> None:
    found = node(ledger, book(), budgets=budgets(BUDGET))
    begun = found.see()
    sidecar = Sidecar()
    await found.cost.settlement.accept(sidecar.batch(begun, sidecar.end(record("r", begun, begun + 1000))))
    await found.cost.book_the_rest()
    assert found.ended == ["r"]
    proof = await ledger.reconcile()
    assert proof.reconciles
    assert len(proof.slots) == 2
    cost = await ledger.request_cost("r")
    assert cost is not None
    assert cost.settled
    await found.cost.budgets.step()
    (shown,) = found.cost.budget_figures()
    assert shown.name == "all"
    names = {sample.key.name for sample in found.cost.samples()}
    assert names
    assert names <= set(BY_NAME)


async def test_what_the_doctor_is_told(ledger: Ledger) -> None:
    others = node(ledger, book(), budgets=budgets(BUDGET))
    others.board.gpus = gpus(unix_ns(), 1, model="NVIDIA L4")
    (missing,) = others.cost.features()
    assert (missing.name, missing.enabled) == ("prices of NVIDIA L4", False)
    others.board.gpus = gpus(unix_ns(), 1)
    assert list(others.cost.features()) == []
    without = node(ledger)
    without.board.gpus = others.board.gpus
    assert list(without.cost.features()) == [], "no price book at all was a choice"
    price = others.cost._price_of(MODEL)
    assert price is not None
    assert price.nano_per_hour == round(PRICE_PER_HOUR * NS)
    assert without.cost._price_of(MODEL) is None


async def test_old_details_are_forgotten_as_the_settings_say(ledger: Ledger) -> None:
    kept = {"ledger_minutes_days": 1, "ledger_hours_days": 2, "ledger_requests_days": 3}
    found = node(ledger, book(), storage=kept)
    assert found.cost._keep == Retention(1, 2, 3)
    found.see()
    await found.cost.book_the_rest()
    with capture_logs() as logs:
        await found.cost._retain()
    assert logs == [], "nothing is that old"


# Stopping


async def reopened(ledger: Ledger) -> None:
    """What is there after the next start is the bill, with the missing time in it."""
    ledger.close()
    async with await Ledger.open(ledger.path, "node-a") as again:
        found = Node(again.path.parent, again, settings(), book())
        found.see()
        await found.cost.book_the_rest()
        proof = await again.reconcile()
        assert proof.reconciles
        assert all(sum(slot.parts_ns.values()) == slot.to_ns - slot.from_ns for slot in proof.slots)


async def test_a_ledger_that_is_locked_at_the_end_is_no_crash(ledger: Ledger) -> None:
    found = node(ledger, book())
    found.see()
    await found.cost.book_the_rest()
    other = sqlite3.connect(ledger.path, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        found.see()
        with capture_logs() as logs:
            await found.cost.book_the_rest()
    finally:
        other.close()
    assert [line["event"] for line in logs] == ["last_seconds_not_booked"]
    assert "locked" in logs[0]["reason"]
    await reopened(ledger)


async def test_a_ledger_that_is_full_at_the_end_is_no_crash(ledger: Ledger) -> None:
    found = node(ledger, book())
    with ledger._writer.begin() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    found.see(400)
    with capture_logs() as logs:
        await found.cost.book_the_rest()
    assert [line["event"] for line in logs] == ["last_seconds_not_booked"]
    assert "full" in logs[0]["reason"]
    await reopened(ledger)


async def test_who_edits_a_price_of_the_past_is_told_that_what_is_booked_stays(tmp_path: Path) -> None:
    async with await Ledger.open(tmp_path / "ledger.sqlite", "node-a") as ledger:
        first = node(ledger, book())
        for _ in range(2):
            now = first.see(1)
            await first.cost.settlement.settle_to(now)
    dearer = book(PriceRow("NVIDIA H100*", (Part("rent", 2 * PRICE_PER_HOUR),)))
    for prices, told in ((book(), 0), (dearer, 1)):
        async with await Ledger.open(tmp_path / "ledger.sqlite", "node-a") as ledger:
            with capture_logs() as logs:
                node(ledger, prices)
            differs = [line for line in logs if line["event"] == "price_of_the_past_differs"]
            assert len(differs) == told
            assert all(line["gpu_model"] == MODEL for line in differs)
