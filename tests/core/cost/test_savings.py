"""The whole list: what is asked of the ledger, what is worth telling, in which order, and what a healthy node shows."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.core.cost.evidence import Facts
from agent.core.cost.reports import ReportRow
from agent.core.cost.request_statistics import Counted, RequestCounts
from agent.core.cost.savings import HOURS, PLACES, REQUESTS, questions, savings
from agent.core.readings import EngineSnapshot, EngineStatus
from tests.support.savings import DAY_NS, HOUR_NS, NS, T0, facts, hour, outcome, place, priced, row


def test_the_questions_of_a_month() -> None:
    asked = questions(T0, T0 + 30 * DAY_NS, "Europe/Berlin")
    assert [asked[name].aggregate for name in ("places", "requests", "hours")] == [PLACES, REQUESTS, HOURS]
    assert (asked["places"].end_ns, len(asked["places"].edges)) == (T0 + 30 * DAY_NS, 30)
    assert {asked[name].start_ns for name in ("places", "requests")} == {T0 - HOUR_NS}  # midnight in Berlin
    assert asked["hours"].start_ns == T0 + 22 * DAY_NS + 23 * HOUR_NS
    assert len(asked["hours"].edges) == 7 * 24
    assert all(asked[name].tenant is None for name in asked)


def test_a_short_window_is_asked_for_as_it_is() -> None:
    asked = questions(T0 + 5, T0 + DAY_NS, "UTC")
    assert {(one.start_ns, one.end_ns) for one in asked.values()} == {(T0 + 5, T0 + DAY_NS)}


def healthy(**changes: object) -> Facts:
    """Busy by day and by night, with the few failures and pauses that every service has."""
    places = [
        place("request", 640, requests=100_000),
        place("unattributed", 20),
        place("loaded_idle", 55),
        place("warmup", 3),
        place("gap", 2, reason="not_watched"),
    ]
    requests = [
        outcome("ok", 630, 99_000, (10**9, 5 * 10**8, 10**8)),
        outcome("client_abort", 5, 500, (10**6, 5 * 10**5, 0)),
        outcome("error", 3, 300),
        outcome("timeout", 2, 100),
        outcome("rejected", 0, 100),
    ]
    hours = [
        each
        for at in range(24 * 14)
        for each in (
            hour(at, "request", 0.9, tokens=(4 * 10**7, 2 * 10**7 + at * 10**4), requests=3000),
            hour(at, "loaded_idle", 0.1),
        )
    ]
    counts = RequestCounts(requests=100_000, retries=400, limited=90_000, far_below=20_000)
    status = EngineStatus(engine="chat", kind="tgi", url="http://e", state="ready", restarts=1)
    base = {
        "requests": requests,
        "hours": hours,
        "statistics": Counted(since_ns=T0, counts={("qwen", "acme"): counts}),
        "engines": {"chat": EngineSnapshot(status=status)},
        "price_of": priced(H100=10.0, L40S=3.0, L4=1.0),
    }
    return facts(places, **{**base, **changes})


def test_a_healthy_busy_node_shows_none() -> None:
    told = savings(healthy())
    assert told.findings == ()
    assert (told.bill_nano, told.covered_ns, told.parts_nano) == (7_200_000_000_000, 720 * HOUR_NS, None)


def test_without_prices_gpu_time_decides_what_is_told() -> None:
    places = [place("request", 600, priced=False), place("unallocated", 120, priced=False, gpu="GPU-1")]
    of = facts([*places, place("broken", 6, priced=False, gpu="GPU-2")])
    told = savings(of)
    assert [(one.kind, one.cost_nano, one.per_month_nano) for one in told.findings] == [("unallocated", None, None)]
    assert (told.bill_nano, told.parts_nano) == (None, None)


def test_the_dearest_comes_first_and_information_is_no_waste() -> None:
    of = facts(
        [
            place("request", 300),
            place("loaded_idle", 300),
            place("unallocated", 400, gpu="GPU-1"),
            place("other_workload", 500, gpu="GPU-2"),
        ],
        requests=[outcome("ok", 200, 9), outcome("timeout", 100, 9)],
    )
    told = savings(of, notes=["a note"])
    assert [one.kind for one in told.findings] == ["other_workload", "unallocated", "loaded_idle", "timeout"]
    assert told.parts_nano == 8_000_000_000_000
    assert told.notes == ("a note",)


def test_of_less_than_an_hour_nothing_is_said_of_a_month() -> None:
    short = savings(facts([place("unallocated", 0.5)], days=1 / 48)).findings[0]
    assert (short.cost_nano, short.per_month_nano) == (5_000_000_000, None)
    whole = savings(facts([place("unallocated", 1.0)], days=1 / 24)).findings[0]
    assert whole.per_month_nano == 730 * 10_000_000_000


def test_a_finding_says_since_which_day() -> None:
    rows = [
        replace(place("unallocated", 24 * (day > 3)), start_ns=T0 + day * DAY_NS, end_ns=T0 + (day + 1) * DAY_NS)
        for day in range(9)
    ]
    (finding,) = savings(facts([place("request", 100, gpu="GPU-1"), *rows])).findings
    assert (finding.since_ns, finding.gpu_ns) == (T0 + 4 * DAY_NS, 5 * DAY_NS)


def test_a_ledger_that_began_late_is_extrapolated_from_what_it_has() -> None:
    told = savings(facts([place("unallocated", 48)]))
    assert (told.covered_ns, told.findings[0].covered_ns) == (48 * HOUR_NS, 48 * HOUR_NS)
    assert told.findings[0].per_month_nano == 730 * 10_000_000_000


STATES = ("request", "unattributed", "loaded_idle", "warmup", "allocated_idle", "unallocated", "broken", "gap")


@given(
    st.lists(st.tuples(st.sampled_from(STATES), st.integers(0, 10**15), st.integers(0, 10**15)), max_size=12),
    st.lists(st.tuples(st.sampled_from(("ok", "error", "timeout", "rejected", "lost_record")), st.integers(0, 10**15))),
)
def test_waste_is_never_more_than_the_bill(booked: list[tuple[str, int, int]], ended: list[tuple[str, int]]) -> None:
    """Parts are parts: whatever is booked, they do not add up to more than everything."""

    def with_money(group: dict[str, str], gpu_ns: int, nano: int) -> ReportRow:
        return row(group, gpu_ns / HOUR_NS, cost_nano=nano)

    places = [with_money(place(state, 1).group, ns, nano) for state, ns, nano in booked]
    spent = sum(nano for state, _, nano in booked if state == "request")
    requests = []
    for outcome_of, nano in ended:
        part = min(nano, spent)
        spent -= part
        requests.append(with_money(outcome(outcome_of, 1, 1).group, NS, part))
    told = savings(facts(places, requests=requests))
    assert (told.parts_nano or 0) <= (told.bill_nano or 0)
    assert all(one.cost_nano is None or 0 <= one.cost_nano <= (told.bill_nano or 0) for one in told.findings)
