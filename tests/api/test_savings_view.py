"""Findings as the page shows them."""

from typing import get_args

import pytest

from agent.api.savings_sources import SavingsSources
from agent.api.savings_view import KINDS, MAX_AGE_NS, MIN_AGE_NS, MOST_SHOWN, SavingsCache, savings_panel, shown
from agent.core.cost.evidence import Figure, Kind
from agent.core.cost.reports import Report, ReportQuery
from agent.core.cost.savings import savings
from agent.core.ports import TryLater
from tests.support.api import NS
from tests.support.money_page import RichLedger, rich_node, sources
from tests.support.savings import facts, place


def plain(text: str) -> str:
    return text.replace("\u202f", " ")


def test_every_kind_has_a_name() -> None:
    assert set(KINDS) == set(get_args(Kind))


async def test_the_dearest_are_shown_and_the_rest_is_counted() -> None:
    panel = await SavingsCache(rich_node(), sources()).read()
    assert (len(panel.lines), panel.more > 0) == (MOST_SHOWN, True)
    assert plain(panel.basis) == "the last 30.0 d of at most 30 days"
    assert panel.parts.startswith("¥")
    kinds = {line.kind: line for line in panel.lines}
    held = kinds["Held, unused"]
    assert (held.cost, held.per_month, plain(held.share), held.note) == ("¥7,200.00", "¥7,300.00", "12 %", "")
    assert [(name, plain(value)) for name, value in held.evidence] == [
        ("held", "720.0 GPU h"),
        ("slots", "1"),
        ("since", "2026-11-01"),
    ]
    assert (kinds["Other workload"].note, kinds["Other workload"].tone) == ("information", "seen")
    assert kinds["Smaller hardware"].note == "estimate, overlaps with others"
    assert len({line.id for line in panel.lines}) == MOST_SHOWN


def test_of_less_than_an_hour_there_is_no_month() -> None:
    panel = savings_panel(savings(facts([place("unallocated", 0.2)])))
    (line,) = panel.lines
    assert (line.per_month, line.cost) == ("", "¥2.00")
    assert plain(panel.basis).startswith("the last 12 min")
    assert [name for name, _ in line.evidence] == ["unallocated", "GPUs on average", "since"]


def test_without_prices_there_are_dashes() -> None:
    (line,) = savings_panel(savings(facts([place("unallocated", 20, priced=False)]))).lines
    assert (line.cost, line.share, line.per_month) == ("—", "", "")


async def test_findings_are_looked_for_seldom_and_more_often_while_there_is_little() -> None:
    ledger, clock = RichLedger(), [10**12]
    cache = SavingsCache(rich_node(ledger=ledger, boot_ns=lambda: clock[0]), SavingsSources())
    await cache.read()
    clock[0] += MAX_AGE_NS - 1
    await cache.read()
    assert len(ledger.asked) == 3
    ledger.places = [place("unallocated", 0.1)]
    clock[0] += 1
    await cache.read()
    clock[0] += MIN_AGE_NS
    await cache.read()
    assert len(ledger.asked) == 9


async def test_a_ledger_that_does_not_answer_leaves_the_last_list() -> None:
    class Failing(RichLedger):
        broken = False

        async def report(self, query: ReportQuery, /) -> Report:
            if self.broken:
                raise TryLater("the disk is full")
            return await super().report(query)

    ledger, clock = Failing(), [10**12]
    cache = SavingsCache(rich_node(ledger=ledger, boot_ns=lambda: clock[0]), SavingsSources())
    before = len((await cache.read()).lines)
    ledger.broken = True
    clock[0] += MAX_AGE_NS
    after = await cache.read()
    assert (len(after.lines), "the disk is full" in after.error) == (before, True)
    ledger.broken = False
    clock[0] += MIN_AGE_NS
    assert (await cache.read()).error == ""


@pytest.mark.parametrize(
    ("figure", "told"),
    [
        (Figure("a", 7200.0, "gpu_seconds"), "2.0 GPU h"),
        (Figure("a", 90, "seconds"), "90 s"),
        (Figure("a", 0.25, "ratio"), "25 %"),
        (Figure("a", 3.9, "ratio"), "3.90 ×"),
        (Figure("a", 1 << 30, "bytes"), "1.0 GiB"),
        (Figure("a", 2 * NS, "nano_per_hour"), "¥2.00 per hour"),
        (Figure("a", 1234, "tokens"), "1,234 tokens"),
        (Figure("a", 4, "count"), "4"),
        (Figure("a", "22:00 to 06:00", "text"), "22:00 to 06:00"),
    ],
)
def test_figures_have_their_units(figure: Figure, told: str) -> None:
    assert plain(shown(figure, "CNY")) == told
