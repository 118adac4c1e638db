"""Reports from a ledger of a month: 8 GPUs, 50 tenants, 10 models, each tenant on each model and GPU on every day.

The file is made as settlement and retention would leave it: days and hours of the whole month, minutes of the last
days; nine of ten places are requests that ended well. Times are medians of what a caller waits for, by the ledger's
own reading connection. ``_cold``: before the days that are over are summed up (`agent.ledger.pastdays`), as in the
first second after a start.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from sqlalchemy import Connection, insert, text

from agent.core.cost.calendar import MINUTE_NS, Calendar
from agent.core.cost.prices import HOUR_NS
from agent.core.cost.reports import ReportQuery, Term
from agent.ledger.pastdays import PastDays
from agent.ledger.reconciling import reconcile
from agent.ledger.reporting import report
from agent.ledger.schema import connect, migrate
from agent.ledger.tables import accounts, calendars, node_state, places, price_segments
from bench.figures import Figure

ROUNDS = 7
GPUS, TENANTS, MODELS, DAYS = 8, 50, 10, 30
ZONE = "Asia/Shanghai"
CALENDAR = Calendar(ZONE)
NOW_NS = CALENDAR.month_bounds(1_800_000_000 * 1_000_000_000)[0] + 30 * 24 * HOUR_NS + 11 * HOUR_NS + 17 * MINUTE_NS
START_NS = CALENDAR.day_bounds(NOW_NS - DAYS * 24 * HOUR_NS)[0]
TODAY_NS = CALENDAR.day_bounds(NOW_NS)[0]
DAY_EDGES = CALENDAR.edges(START_NS, TODAY_NS, "day")
BAR_30_DAYS_MS = 150.0
BAR_COLD_MS = 600.0


def _places() -> Iterator[dict[str, Any]]:
    number = 0
    for gpu in (f"GPU-{index:08x}-6f1b-7a3c-95d2-0c7d54a5b3e1" for index in range(GPUS)):
        common = {"gpu": gpu, "account_ns": START_NS, "slot": gpu, "engine_group": "", "namespace": "serving"}
        for model in range(MODELS):
            own = {"engine": f"vllm-{model}", "model": f"org/model-{model}", "pod": f"vllm-{model}-0"}
            states = [("loaded_idle", "process", "", ""), ("warmup", "process", "", "")]
            states += [("unattributed", "process", "", "")]
            for tenant in range(TENANTS):
                states.append(("request", "process", f"tenant-{tenant:02}", "ok"))
                if (tenant + model) % 10 == 0:
                    states.append(("request", "process", f"tenant-{tenant:02}", "client_abort"))
            for state, reason, tenant_name, outcome in states:
                number += 1
                yield {
                    "id": number, "state": state, "reason": reason, "tenant": tenant_name, "outcome": outcome,
                    **common, **own,
                }  # fmt: skip
        for state, reason in (("unallocated", "free"), ("gap", "not_watched")):
            number += 1
            names = {"engine": "", "model": "", "tenant": "", "outcome": "", "pod": ""}
            yield {"id": number, "state": state, "reason": reason, **common, **names, "namespace": ""}


# A place is booked in an eighth of the hours; what it is booked with is made of the numbers of place and time.
_MADE = """
INSERT INTO entries
SELECT :grain, at.minute, p.id, 40000000000 + (p.id * 7919 + at.minute * 104729) % 9000000000,
  27000000 + (p.id * 104729 + at.minute * 7919) % 9000000, 12 + p.id % 5, 9000 + p.id % 997, 3000 + p.id % 499,
  2500 + p.id % 251, 21000000000 + p.id % 1009, 21000000000 + at.minute % 1013, 40000000000
FROM (WITH RECURSIVE m(minute) AS (SELECT :first UNION ALL SELECT minute + :every FROM m WHERE minute + :every < :end)
      SELECT minute FROM m) AS at, places AS p
WHERE (p.id * 2654435761 + at.minute / :every * 40503) % :sparse = 0
"""
_ROLLED = """
INSERT INTO entries
SELECT :grain, :start, place, sum(gpu_ns), sum(nano), sum(requests), sum(input_tokens), sum(input_cached_tokens),
  sum(output_tokens), sum(work_ns), sum(energy_uj), sum(metered_ns)
FROM entries WHERE grain = :grain - 1 AND minute >= :start AND minute < :end GROUP BY place
"""


@contextmanager
def ledger_of_a_month(folder: Path) -> Iterator[Connection]:
    """A transaction of the reading connection on a new file."""
    path = folder / "ledger.sqlite"
    writer = connect(path)
    migrate(writer, path)
    rolled, minutes_from = NOW_NS // MINUTE_NS - 1, (TODAY_NS - 3 * 24 * HOUR_NS) // MINUTE_NS
    with writer.begin() as connection:
        connection.execute(insert(places), list(_places()))
        state = {"id": 1, "node": "bench", "boot_id": "b", "anchor_unix_ns": 0, "anchor_boot_ns": 0, "step": 1}
        kept = {"rolled_minute": rolled, "minutes_from": minutes_from, "hours_from": 0}
        connection.execute(node_state.delete())
        connection.execute(insert(node_state), [{**state, **kept, "through_ns": NOW_NS}])
        connection.execute(calendars.delete())
        connection.execute(insert(calendars), [{"from_minute": 0, "time_zone": ZONE}])
        _accounts(connection)
        start = START_NS // MINUTE_NS
        make = {"grain": 1, "first": start, "end": minutes_from, "every": 60, "sparse": 8}
        connection.execute(text(_MADE), make)
        make = {"grain": 0, "first": minutes_from, "end": rolled + 1, "every": 1, "sparse": 47}
        connection.execute(text(_MADE), make)
        for grain, first in ((1, minutes_from), (2, start)):
            find = CALENDAR.hour_bounds if grain == 1 else CALENDAR.day_bounds
            at = first
            while at < rolled:
                bucket, end = (bound // MINUTE_NS for bound in find(at * MINUTE_NS))
                connection.execute(text(_ROLLED), {"grain": grain, "start": bucket, "end": min(end, rolled)})
                at = end
    writer.dispose()
    reader = connect(path, read_only=True)
    with reader.begin() as connection:
        yield connection
    reader.dispose()


def _accounts(connection: Connection) -> None:
    price = Fraction(2_490_000_000, HOUR_NS)
    for gpu in dict.fromkeys(place["gpu"] for place in _places()):
        key = {"gpu": gpu, "from_ns": START_NS, "gpu_model": "NVIDIA H100 80GB HBM3", "currency": "USD"}
        connection.execute(insert(accounts), [{**key, "through_ns": NOW_NS, "is_open": True, "energy_uj": 0}])
        told = {"numerator": str(price.numerator), "denominator": str(price.denominator)}
        connection.execute(insert(price_segments), [{"gpu": gpu, "account_ns": START_NS, "at_ns": START_NS, **told}])


def _milliseconds(ask: Callable[[], object]) -> float:
    ask()
    spent = []
    for _ in range(ROUNDS):
        began = perf_counter()
        ask()
        spent.append(perf_counter() - began)
    return 1000 * median(spent)


def _questions() -> dict[str, tuple[ReportQuery, float]]:
    days = {"start_ns": START_NS, "end_ns": TODAY_NS}
    month = {"start_ns": CALENDAR.month_bounds(NOW_NS)[0], "end_ns": NOW_NS}
    one = Term(dimension="tenant", op="is", values=("tenant-07",))
    asked: dict[str, tuple[dict[str, Any], float]] = {
        "30_days": ({**days, "aggregate": ("tenant",), "edges": DAY_EDGES}, BAR_30_DAYS_MS),
        "30_days_by_model_and_state": ({**days, "aggregate": ("model", "state"), "edges": DAY_EDGES}, 150),
        "30_days_of_a_tenant": ({**days, "aggregate": ("model",), "edges": DAY_EDGES, "filter": (one,)}, 100),
        "30_days_by_gpu": ({**days, "aggregate": ("gpu",), "edges": DAY_EDGES}, 400),
        "month_to_date_by_model": ({**month, "aggregate": ("model",)}, 100),
        "month_to_date_by_state": ({**month, "aggregate": ("state",)}, 100),
        "month_to_date_for_budgets": ({**month, "aggregate": ("tenant", "model", "namespace", "state")}, 200),
        "allocation_30_days": (
            {**days, "aggregate": ("tenant",), "edges": DAY_EDGES, "basis": "allocation", "idle": "model"},
            1200,
        ),
        "last_24_hours_by_hour": (
            {
                "start_ns": NOW_NS - 24 * HOUR_NS,
                "end_ns": NOW_NS,
                "aggregate": ("tenant",),
                "edges": CALENDAR.edges(NOW_NS - 24 * HOUR_NS, NOW_NS, "hour"),
            },
            400,
        ),
    }
    return {name: (ReportQuery(**query), bar) for name, (query, bar) in asked.items()}


def run() -> list[Figure]:
    """Milliseconds."""
    figures = []

    def figure(name: str, ask: Callable[[], object], bar: float) -> None:
        value = _milliseconds(ask)
        figures.append(Figure(name=f"cost_{name}_ms", value=value, unit="ms", bar=bar, better="lower"))

    with tempfile.TemporaryDirectory() as folder, ledger_of_a_month(Path(folder)) as connection:
        questions = _questions()
        days, _ = questions["30_days"]
        cold = report(connection, days, "bench")
        figure("report_30_days_cold", lambda: report(connection, days, "bench"), BAR_COLD_MS)
        past = PastDays()
        look, began = past.look(), perf_counter()
        past.keep(look, past.fill(connection))
        spent = 1000 * (perf_counter() - began)
        figures.append(Figure(name="cost_fill_past_days_ms", value=spent, unit="ms", bar=3000, better="lower"))
        assert report(connection, days, "bench", (), past) == cold
        for name, (query, bar) in questions.items():
            found = report(connection, query, "bench", (), past)
            assert found.rows
            assert found.total_gpu_ns == sum(row.gpu_ns for row in found.rows)
            figure(f"report_{name}", partial(report, connection, query, "bench", (), past), bar)
        figure("reconcile", lambda: reconcile(connection, "bench"), 600)
    return figures
