"""Reports that are made by themselves, on clocks turned by hand, with a real receiver on loopback."""

import csv
import io
import json
from decimal import Decimal
from pathlib import Path

import aiohttp
import pytest

from agent.core.cost.focus import COLUMNS
from agent.core.ports import TryLater
from exporters.report_webhook import ReportWebhook
from tests.support.focus_rules import read
from tests.support.report_files import NS, Node, Receiver, at, receiving

DAILY = {"name": "bill", "every": "daily"}
HOUR_NS = 3600 * NS
DAY_NS = 24 * HOUR_NS


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path, at("2026-11-24T05:59:00+08:00"))


async def test_a_day_is_reported_when_its_time_has_come_and_once(node: Node):
    files = node.start(DAILY)
    await files.step()
    assert node.files() == ["bill-2026-11-22.csv"]  # what was due before the agent knew of the schedule: one
    node.now_ns += 60 * NS
    await files.step()
    await files.step()
    assert node.files() == ["bill-2026-11-22.csv", "bill-2026-11-23.csv"]
    assert len(node.books.asked) == 2
    query = node.books.asked[-1]
    assert (query.start_ns, query.end_ns) == (at("2026-11-23T00:00:00+08:00"), at("2026-11-24T00:00:00+08:00"))
    rows = list(csv.DictReader(io.StringIO((node.data / "reports/bill-2026-11-23.csv").read_text())))
    assert [(row["tenant"], row["cost"]) for row in rows] == [("'=acme", "86400.00")]


async def test_what_became_due_while_the_agent_was_down_is_made_at_the_next_start(node: Node):
    await node.start(DAILY).step()
    node.now_ns += 4 * DAY_NS
    await node.start(DAILY).step()
    assert node.files() == [f"bill-2026-11-{day}.csv" for day in (22, 23, 24, 25, 26)]
    await node.start(DAILY).step()
    assert len(node.books.asked) == 5


async def test_a_clock_that_goes_back_makes_nothing_twice(node: Node):
    files = node.start(DAILY)
    await files.step()
    node.now_ns -= 10 * DAY_NS
    await files.step()
    assert len(node.files()) == 1


async def test_after_a_long_absence_as_many_as_are_kept_are_made(node: Node):
    await node.start(DAILY).step()
    node.now_ns += 400 * DAY_NS
    await node.start(DAILY | {"keep": 3}).step()
    assert node.files() == ["bill-2027-12-25.csv", "bill-2027-12-26.csv", "bill-2027-12-27.csv"]


async def test_a_period_is_reported_when_it_is_settled(node: Node):
    files = node.start(DAILY)
    node.settled_ns = at("2026-11-22T23:59:59+08:00")
    await files.step()
    assert node.files() == []
    node.settled_ns = at("2026-11-23T00:00:00+08:00")
    await files.step()
    assert node.files() == ["bill-2026-11-22.csv"]


async def test_a_new_ledger_has_nothing_to_report_of_the_time_before_it(node: Node):
    node.books.since_ns = node.now_ns - HOUR_NS
    files = node.start(DAILY)
    await files.step()
    assert node.files() == []
    node.now_ns += DAY_NS
    await files.step()
    assert node.files() == ["bill-2026-11-23.csv"]


@pytest.mark.parametrize(
    ("schedule", "now", "file", "window"),
    [
        (
            {"every": "weekly", "at": "07:30"},
            "2026-11-23T07:30:00+08:00",
            "r-2026-W47.csv",
            ("2026-11-16T00:00:00+08:00", "2026-11-23T00:00:00+08:00"),
        ),
        (
            {"every": "weekly", "at": "07:30"},
            "2026-11-23T07:29:59+08:00",
            "r-2026-W46.csv",
            ("2026-11-09T00:00:00+08:00", "2026-11-16T00:00:00+08:00"),
        ),
        (
            {"every": "monthly", "format": "json"},
            "2026-11-01T06:00:00+08:00",
            "r-2026-10.json",
            ("2026-10-01T00:00:00+08:00", "2026-11-01T00:00:00+08:00"),
        ),
        (
            {"every": "weekly", "window": "month"},
            "2026-11-23T12:00:00+08:00",
            "r-2026-W47.csv",
            ("2026-11-01T00:00:00+08:00", "2026-11-23T00:00:00+08:00"),
        ),
        (
            {"every": "daily", "window": "7d", "at": "00:00"},
            "2026-11-23T00:00:00+08:00",
            "r-2026-11-22.csv",
            ("2026-11-16T00:00:00+08:00", "2026-11-23T00:00:00+08:00"),
        ),
    ],
)
async def test_weeks_months_and_windows(
    node: Node, schedule: dict[str, str], now: str, file: str, window: tuple[str, str]
):
    node.now_ns = at(now)
    await node.start({"name": "r", **schedule}).step()
    assert node.files() == [file]
    assert (node.books.asked[0].start_ns, node.books.asked[0].end_ns) == (at(window[0]), at(window[1]))


async def test_days_of_23_and_25_hours(node: Node):
    node.zone, node.now_ns = "Europe/Berlin", at("2026-03-30T06:00:00+02:00")
    files = node.start({"name": "night", "at": "02:30"})
    await files.step()
    node.now_ns = at("2026-10-26T02:29:00+01:00")
    await node.start({"name": "night", "at": "02:30", "keep": 1}).step()
    node.now_ns += 60 * NS
    await node.start({"name": "night", "at": "02:30", "keep": 1}).step()
    lengths = [(query.end_ns - query.start_ns) // HOUR_NS for query in node.books.asked]
    assert lengths == [23, 24, 25]


async def test_old_files_go_and_nobody_elses(node: Node):
    folder = node.data / "reports"
    folder.mkdir()
    others = ["bill-2020-01-01.json", "bill-extra-2020-01-01.csv", "notes.txt", "bill-2020.csv"]
    for name in others:
        (folder / name).write_text("mine")
    files = node.start(DAILY | {"keep": 2})
    for _ in range(4):
        await files.step()
        node.now_ns += DAY_NS
    assert node.files() == sorted([*others, "bill-2026-11-24.csv", "bill-2026-11-25.csv"])


async def test_focus_files_are_read_some_hours_at_a_time_and_sum_to_the_month(node: Node):
    node.now_ns = at("2026-11-01T06:00:00+08:00")
    await node.start({"name": "focus", "every": "monthly", "format": "focus"}, focus={"provider": "Acme"}).step()
    assert node.files() == ["focus-2026-10.focus.csv"]
    rows = read((node.data / "reports/focus-2026-10.focus.csv").read_text())
    assert list(rows[0]) == list(COLUMNS)
    assert len(rows) == 31 * 24
    assert sum(Decimal(row["BilledCost"]) for row in rows) == 31 * 86_400
    assert {row["ProviderName"] for row in rows} == {"Acme"}
    assert max(query.end_ns - query.start_ns for query in node.books.asked[1:]) == 6 * HOUR_NS


async def test_a_folder_that_cannot_be_written_is_told_and_tried_again(node: Node):
    blocked = node.data / "file"
    blocked.write_text("in the way")
    files = node.start(DAILY | {"folder": str(blocked / "reports")}, {"name": "other"})
    with pytest.raises(TryLater, match="cannot be written"):
        await files.step()
    assert node.files() == ["other-2026-11-22.csv"]  # one that fails does not keep others waiting
    blocked.unlink()
    await files.step()
    assert (blocked / "reports/bill-2026-11-22.csv").is_file()


async def test_a_ledger_that_cannot_answer_now_is_asked_again(node: Node):
    files = node.start(DAILY)
    node.books.trouble = "the ledger is locked"
    with pytest.raises(TryLater, match="the ledger is locked"):
        await files.step()
    node.books.trouble = ""
    await files.step()
    assert node.files() == ["bill-2026-11-22.csv"]


async def test_what_could_not_be_written_is_not_there_and_comes_later(node: Node):
    (node.data / "reports").mkdir()
    files = node.start(DAILY)
    (node.data / "reports/.bill-2026-11-22.csv.new").mkdir()  # opening it for writing fails
    with pytest.raises(TryLater, match="Is a directory"):
        await files.step()
    assert node.files() == [".bill-2026-11-22.csv.new"]
    (node.data / "reports/.bill-2026-11-22.csv.new").rmdir()
    await files.step()
    assert node.files() == ["bill-2026-11-22.csv"]


async def test_a_damaged_state_is_put_aside(node: Node):
    (node.data / "reports.state").write_text('{"version":')
    await node.start(DAILY).step()
    assert node.files() == ["bill-2026-11-22.csv"]
    assert (node.data / "reports.state.damaged").is_file()
    assert json.loads((node.data / "reports.state").read_text())["made_through_ns"] == {
        "bill": at("2026-11-23T00:00:00+08:00")
    }


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


async def test_a_webhook_is_sent_each_report_as_json(node: Node, receiver: Receiver):
    async with receiving(receiver) as url, aiohttp.ClientSession() as session:
        node.webhooks["bill"] = ReportWebhook("bill", url, session, secret=b"s", authorization="Bearer t")
        files = node.start(DAILY | {"format": "focus", "webhook": {"url": url}})
        await files.step()
        await files.step()
    ((headers, body),) = receiver.got
    news = json.loads(body)
    assert headers["Idempotency-Key"] == "node-a-bill-2026-11-22"
    assert headers["Authorization"] == "Bearer t"
    assert headers["X-Engineroom-Signature"].startswith("sha256=")
    assert (news["schedule"], news["node"], news["file"]) == ("bill", "node-a", "bill-2026-11-22.focus.csv")
    assert news["period"] == {
        "name": "2026-11-22",
        "start": "2026-11-21T16:00:00Z",
        "end": "2026-11-22T16:00:00Z",
        "time_zone": "Asia/Shanghai",
    }
    assert news["report"]["total"]["cost"] == "86400.00"
    assert node.waiting() == []


async def test_what_a_webhook_does_not_take_is_sent_again_later_also_after_a_restart(node: Node):
    receiver = Receiver(503, 500, Retry_After="120")
    async with receiving(receiver) as url, aiohttp.ClientSession() as session:
        node.webhooks["bill"] = ReportWebhook("bill", url, session)
        files = node.start(DAILY | {"webhook": {"url": url}})
        with pytest.raises(TryLater, match="report webhook bill: HTTP 503") as caught:
            await files.step()
        assert "secret-in-the-address" not in caught.value.reason
        assert node.files() == ["bill-2026-11-22.csv"]  # the file is there all the same
        assert node.waiting() == ["bill-2026-11-22.json"]
        node.boot_ns += 119 * NS
        with pytest.raises(TryLater):
            await files.step()
        assert len(receiver.got) == 1  # not before it said
        restarted = node.start(DAILY | {"webhook": {"url": url}})
        with pytest.raises(TryLater, match="HTTP 500"):
            await restarted.step()
        node.boot_ns += 121 * NS
        await restarted.step()
    assert node.waiting() == []
    assert len({body for _, body in receiver.got}) == 1
    assert {headers["Idempotency-Key"] for headers, _ in receiver.got} == {"node-a-bill-2026-11-22"}


async def test_reports_are_sent_in_their_order(node: Node):
    receiver = Receiver(500)
    async with receiving(receiver) as url, aiohttp.ClientSession() as session:
        node.webhooks["bill"] = ReportWebhook("bill", url, session)
        files = node.start(DAILY | {"webhook": {"url": url}})
        with pytest.raises(TryLater):
            await files.step()
        node.now_ns += 2 * DAY_NS
        node.boot_ns += 3600 * NS
        await files.step()
    sent = [headers["Idempotency-Key"][-10:] for headers, _ in receiver.got]
    assert sent == ["2026-11-22", "2026-11-22", "2026-11-23", "2026-11-24"]


async def test_a_report_that_is_refused_for_good_is_told_once_and_left_in_its_file(node: Node):
    receiver = Receiver(422)
    async with receiving(receiver) as url, aiohttp.ClientSession() as session:
        node.webhooks["bill"] = ReportWebhook("bill", url, session)
        files = node.start(DAILY | {"webhook": {"url": url}})
        await files.step()
        await files.step()
    assert len(receiver.got) == 1
    assert (node.files(), node.waiting()) == (["bill-2026-11-22.csv"], [])
    assert files.schedules[0].refused == 1


async def test_of_what_cannot_be_sent_only_as_many_wait_as_are_kept(node: Node):
    async with aiohttp.ClientSession() as session:
        node.webhooks["bill"] = ReportWebhook("bill", "http://127.0.0.1:9/", session, timeout_seconds=1)
        files = node.start(DAILY | {"keep": 2, "webhook": {"url": "http://127.0.0.1:9/"}})
        for _ in range(5):
            with pytest.raises(TryLater, match="report webhook bill"):
                await files.step()
            node.now_ns += DAY_NS
    assert node.waiting() == ["bill-2026-11-25.json", "bill-2026-11-26.json"]


async def test_pauses_between_attempts_grow_up_to_an_hour(node: Node):
    receiver = Receiver(*[500] * 12)
    async with receiving(receiver) as url, aiohttp.ClientSession() as session:
        node.webhooks["bill"] = ReportWebhook("bill", url, session)
        files = node.start(DAILY | {"webhook": {"url": url}})
        pauses = []
        for _ in range(10):
            with pytest.raises(TryLater):
                await files.step()
            pauses.append((files.schedules[0].retry_at_ns - node.boot_ns) // NS)
            node.boot_ns = files.schedules[0].retry_at_ns
    assert pauses == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
