"""What is old is forgotten, in short transactions; the proof holds all the same."""

from pathlib import Path

import pytest

from agent.core.cost.calendar import MINUTE_NS
from agent.core.cost.closed import Amount, Closed
from agent.core.cost.live import Booking
from agent.ledger import retention
from agent.ledger.ids import to_key
from agent.ledger.retention import DAY_NS, Kept, Retention
from agent.ledger.settled import Figures, pack
from agent.ledger.tables import DAY, HOUR, MINUTE, settled_requests
from tests.support.ledger import T0, booked, fresh, rows

PLACE = Booking(T0, "GPU-0", T0, "request", "vllm", "llama", "acme", "ok")
M0 = T0 // MINUTE_NS


async def test_minutes_go_before_hours_and_days_stay(tmp_path: Path) -> None:
    async with await fresh(tmp_path / "node") as ledger:
        for number in range(1, 31):
            begin, end = T0 + (number - 1) * DAY_NS, T0 + number * DAY_NS
            await ledger.settle(Closed(number, begin, end, {PLACE._replace(bucket_ns=begin): Amount(gpu_ns=1)}))
        now = T0 + 30 * DAY_NS
        assert await ledger.retain(now, Retention(3, 10, 14)) > 0
        counts = [len(booked(ledger, grain)) for grain in (MINUTE, HOUR, DAY)]
        assert counts == [3, 10, 30]
        today = M0 + 30 * 1440 - 480
        assert await ledger.kept() == Kept(today - 3 * 1440, today - 10 * 1440, M0 + 30 * 1440)
        assert await ledger.retain(now, Retention(3, 10, 14)) == 0
        assert await ledger.retain(now, Retention(30, 30, 14)) == 0, "what is forgotten stays so"
        assert (await ledger.kept()).minutes_from == today - 3 * 1440


async def test_what_is_in_no_day_yet_is_never_forgotten(tmp_path: Path) -> None:
    async with await fresh(tmp_path / "node") as ledger:
        await ledger.settle(Closed(1, T0, T0 + MINUTE_NS // 2, {PLACE: Amount(gpu_ns=7)}))
        assert await ledger.retain(T0 + 9000 * DAY_NS, Retention(1, 1, 1)) == 0
        assert [row["gpu_ns"] for row in booked(ledger)] == [7]


async def test_it_is_done_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "ROWS", 10)
    async with await fresh(tmp_path / "node") as ledger:
        entries = {
            PLACE._replace(bucket_ns=T0 + n // 3 * MINUTE_NS, tenant=f"t{n}"): Amount(gpu_ns=n + 1) for n in range(100)
        }
        await ledger.settle(Closed(1, T0, T0 + 9 * DAY_NS, entries))
        pieces = []
        for work in retention.works(T0 + 9 * DAY_NS, Retention(), ledger.eras):
            while (count := await ledger._write(work)) is not None:
                pieces.append(count)
        assert sum(pieces) == 100
        assert max(pieces) <= 12
        assert sum(row["gpu_ns"] for row in booked(ledger, DAY)) == 5050


async def test_requests_are_forgotten_by_their_end_whatever_their_id(tmp_path: Path) -> None:
    def uuid7(at_ns: int, number: int) -> str:
        text = f"{at_ns // 1_000_000:012x}"
        return f"{text[:8]}-{text[8:]}-7000-8000-{number:012x}"

    old, new = T0, T0 + 20 * DAY_NS
    told = {uuid7(old, 1): (old, old + 5), uuid7(old, 2): (old, new), uuid7(new, 3): (new, new), "odd-old": (old, old)}
    told |= {"odd-new": (new, new), uuid7(old, 4): (old, old)}
    async with await fresh(tmp_path / "node") as ledger:
        with ledger._writer.begin() as connection:
            for name, (start, end) in told.items():
                figures = pack(to_key(name), 5, Figures(start, end, 0))
                row = {"id": name, "place": 1, "gpu_ns": 5, "nano": 1, "figures": figures}
                connection.execute(settled_requests.insert(), [row])
            damaged = {"id": uuid7(old, 5), "place": 1, "gpu_ns": 5, "nano": 1, "figures": b"\x80"}
            connection.execute(settled_requests.insert(), [damaged])
        assert await ledger.retain(T0 + 21 * DAY_NS, Retention()) == 3
        assert {row["id"] for row in rows(ledger, settled_requests)} == {
            uuid7(old, 2), uuid7(new, 3), "odd-new", uuid7(old, 5),
        }  # fmt: skip
