from msgspec.structs import replace

from agent.api.cost_view import MAX_AGE_NS, PROOF_MAX_AGE_NS, CostReader, price_panel
from agent.core.board import Board
from agent.core.cost.reports import Reconciliation, Report, ReportQuery
from agent.core.gpu_readings import GpuSnapshot
from agent.core.ports import TryLater
from tests.support.api import NOW_NS, CannedLedger, gpu, node, price
from tests.support.money_page import RichLedger, budgets, rich_node, sources
from tests.support.savings import outcome


def plain_spaces(text: str) -> str:
    return text.replace("\u202f", " ")


async def test_money_by_state_and_per_request():
    panel = await CostReader(node()).read()
    assert panel.per_hour == "¥86.40"
    today, now = panel.splits
    assert (now.title, now.cost, now.requests) == ("Last 5 minutes", "¥7,200.00", 48_211)
    assert plain_spaces(now.gpu_time) == "40.0 GPU min"
    assert now.per_request == "¥0.0612"
    assert [line.name for line in now.lines][:3] == ["Requests", "Unattributed", "Loaded, idle"]
    assert today.lines[0].share == now.lines[0].share == "41\u202f%"


async def test_without_prices_there_is_a_hint_and_no_zero():
    panel = await CostReader(node(prices=list, price_source="", ledger=CannedLedger(priced=False))).read()
    assert panel.per_hour == "—"
    assert "Add the section prices" in panel.hint
    assert {line.cost for split in panel.splits for line in split.lines} == {"—"}
    assert panel.splits[0].per_request == "—"


def test_gpus_without_a_price_are_named():
    snapshot = GpuSnapshot(read_at_ns=NOW_NS, driver="ok", gpus=(gpu(0), gpu(1, model="NVIDIA L4")))
    panel = price_panel(node(board=Board("a", snapshot)))
    assert panel.per_hour == "¥10.80"
    assert panel.per_hour_note == "1 of 2 GPUs have a price"
    assert "NVIDIA L4" in panel.hint


def test_prices_in_several_currencies_are_not_added():
    other = price().__class__(
        gpu_model="NVIDIA L4", currency="USD", nano_per_hour=1_000_000_000, effective_from="2025-11-01"
    )
    snapshot = GpuSnapshot(read_at_ns=NOW_NS, driver="ok", gpus=(gpu(0), gpu(1, model="NVIDIA L4")))
    assert price_panel(node(board=Board("a", snapshot), prices=lambda: [price(), other])).per_hour == "—"


async def test_the_ledger_is_asked_every_five_seconds_at_most():
    ledger = CannedLedger()
    clock = [10**12]
    reader = CostReader(node(ledger=ledger, boot_ns=lambda: clock[0]))
    await reader.read()
    clock[0] += MAX_AGE_NS - 1
    await reader.read()
    assert len(ledger.asked) == 2
    clock[0] += 1
    await reader.read()
    assert len(ledger.asked) == 4


async def test_an_empty_ledger_is_an_empty_split():
    class Empty(CannedLedger):
        async def report(self, query: ReportQuery, /) -> Report:
            return Report(query=query, currency=None, rows=(), total_gpu_ns=0, total_cost_nano=None)

    panel = await CostReader(node(ledger=Empty())).read()
    assert panel.splits[0].lines == []
    assert panel.splits[0].cost == panel.splits[0].requests_share == "—"


async def test_a_ledger_that_does_not_answer_leaves_the_last_figures_and_says_so():
    class Failing(CannedLedger):
        broken = False

        async def report(self, query: ReportQuery, /) -> Report:
            if self.broken:
                raise TryLater("the disk is full")
            return await super().report(query)

    ledger = Failing()
    clock = [10**12]
    reader = CostReader(node(ledger=ledger, boot_ns=lambda: clock[0]))
    before = await reader.read()
    ledger.broken = True
    clock[0] += MAX_AGE_NS
    after = await reader.read()
    assert after.splits == before.splits
    assert "the disk is full" in after.error


async def test_budgets_spenders_findings_and_the_proof() -> None:
    services = rich_node()
    panel = await CostReader(services, budgets, sources()).read()
    assert [line.name for line in panel.budgets] == ["acme", "everything", "team-search", "new"]
    assert [table.title for table in panel.tops] == ["Tenants today", "Models today"]
    assert panel.savings is not None
    assert panel.savings.lines
    assert panel.proof is not None
    assert panel.proof.holds
    assert panel.splits[0].requests == sum(row.requests // 30 for row in RichLedger().requests)


async def test_without_budgets_and_sources_there_are_none() -> None:
    panel = await CostReader(rich_node()).read()
    assert (panel.budgets, panel.savings) == ([], None)


async def test_the_proof_is_asked_for_once_a_minute() -> None:
    class Counting(CannedLedger):
        proofs = 0

        async def reconcile(self) -> Reconciliation:
            self.proofs += 1
            return await super().reconcile()

    ledger, clock = Counting(), [10**12]
    reader = CostReader(node(ledger=ledger, boot_ns=lambda: clock[0]))
    for _ in range(3):
        await reader.read()
        clock[0] += MAX_AGE_NS
    assert ledger.proofs == 1
    clock[0] += PROOF_MAX_AGE_NS
    await reader.read()
    assert ledger.proofs == 2


async def test_a_request_that_no_gpu_had_does_not_hide_what_the_others_cost() -> None:
    """A refused one has no price, as it has no time."""
    ledger = RichLedger()
    ledger.requests.append(replace(outcome("rejected", 0, 50), cost_nano=None))
    panel = await CostReader(rich_node(ledger=ledger)).read()
    assert panel.splits[0].lines[0].cost != "—"
