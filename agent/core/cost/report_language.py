"""What somebody asks of a cost report, in the words of query parameters → the ledger's question.

One language for the API, the command line and scheduled reports. Names and meanings are OpenCost's and Kubecost's where
they have one.
"""

from collections.abc import Iterable
from typing import get_args

from msgspec import Struct
from msgspec.structs import replace

from agent.core.cost.calendar import Calendar
from agent.core.cost.filter_language import DIMENSIONS, WrongFilter, dimension_of, parse_filter
from agent.core.cost.report_windows import edges_of, window_of
from agent.core.cost.reports import SHARED_STATES, Basis, Dimension, IdlePolicy, ReportQuery, Term

BASES: tuple[Basis, ...] = get_args(Basis)
IDLE_POLICIES: tuple[IdlePolicy, ...] = get_args(IdlePolicy)
ACCUMULATIONS = ("true", "false", "hour", "day", "week", "month")
DEFAULT_STEP = "1d"  # of `accumulate=false`
_SHARES: dict[str, IdlePolicy | None] = {"false": None, "true": "node", "weighted": "node", "even": "even"}


class WrongParameter(Exception):
    """A parameter of a report is wrong: which, what is wrong with it, and what would be right."""

    def __init__(self, parameter: str, detail: str, remedy: str) -> None:
        super().__init__(f"{parameter}: {detail}. {remedy}")
        self.parameter = parameter
        self.detail = detail
        self.remedy = remedy


class Asked(Struct, frozen=True, kw_only=True):
    """A report as it was asked for. None: not said. The names are those of the API's parameters in snake case."""

    window: str = "today"
    aggregate: str = "state"
    step: str | None = None
    accumulate: str | None = None
    basis: str | None = None
    idle_policy: str | None = None
    share_idle: str | None = None
    idle: str | None = None
    filter: str = ""
    tenant: str | None = None


class Question(Struct, frozen=True, kw_only=True):
    """The ledger's question. Without `shows_idle` it leaves out `SHARED_STATES`, and `whole` is the same with them."""

    query: ReportQuery
    step: str | None = None
    shows_idle: bool = True

    @property
    def whole(self) -> ReportQuery:
        """One row with everything, to say what was left out."""
        terms = self.query.filter if self.shows_idle else self.query.filter[:-1]
        return replace(self.query, aggregate=(), edges=(), filter=terms)


def question(asked: Asked, now_ns: int, calendar: Calendar) -> Question:
    """The question that was meant. Raises `WrongParameter`."""
    try:
        start, end = window_of(asked.window, now_ns, calendar)
    except ValueError as error:
        raise WrongParameter(
            "window", f"{error}", "Days, weeks and months are those of the node's time zone."
        ) from error
    basis, policy = _basis(asked)
    step = _step(asked)
    terms = _terms(asked.filter)
    shows_idle = _idle_shown(asked.idle)
    if not shows_idle:
        terms = (*terms, Term("state", "is_not", SHARED_STATES))
    query = ReportQuery(
        start_ns=start,
        end_ns=end,
        aggregate=dimensions_of(asked.aggregate),
        basis=basis,
        idle=policy,
        tenant=asked.tenant,
        filter=terms,
        edges=_edges(step, start, end, calendar),
    )
    return Question(query=query, step=step, shows_idle=shows_idle)


def dimensions_of(text: str) -> tuple[Dimension, ...]:
    """The dimensions of a comma-separated list; none for `all` or nothing. Raises `WrongParameter`."""
    found: list[Dimension] = []
    for part in text.split(","):
        name = part.strip()
        if not name or name == "all":
            continue
        dimension = dimension_of(name)
        if dimension is None:
            raise WrongParameter(
                "aggregate", f"{name!r} is no dimension of this ledger", f"Dimensions are: {', '.join(DIMENSIONS)}."
            )
        if dimension in found:
            raise WrongParameter("aggregate", f"{text!r} names {dimension!r} twice", "Name each dimension once.")
        found.append(dimension)
    return tuple(found)


def flag(parameter: str, text: str | None) -> bool | None:
    """What `true` or `false` mean, in any case, also as 1 and 0. Raises `WrongParameter`."""
    meanings = {"true": True, "1": True, "false": False, "0": False}
    if text is None:
        return None
    if text.lower() not in meanings:
        raise WrongParameter(parameter, f"{text!r} is neither true nor false", "Write true or false.")
    return meanings[text.lower()]


def _basis(asked: Asked) -> tuple[Basis, IdlePolicy]:
    share = (asked.share_idle or "false").lower()
    if share not in _SHARES:
        raise WrongParameter("shareIdle", f"{asked.share_idle!r} is no way to share", f"Write {_or(_SHARES)}.")
    shared = _SHARES[share]
    named = next((basis for basis in BASES if basis == asked.basis), None)
    if asked.basis is not None and named is None:
        raise WrongParameter("basis", f"{asked.basis!r} is no basis", f"Ask for {_or(BASES)}.")
    policy = next((policy for policy in IDLE_POLICIES if policy == asked.idle_policy), None)
    if asked.idle_policy is not None and policy is None:
        raise WrongParameter("idlePolicy", f"{asked.idle_policy!r} is no policy", f"Write {_or(IDLE_POLICIES)}.")
    if shared is not None:
        if policy not in (None, shared):
            detail = f"{share} means idlePolicy={shared}, and idlePolicy={policy} was asked for"
            raise WrongParameter("shareIdle", detail, "Leave out one of the two.")
        policy = shared
    if named == "usage" and policy not in (None, "none"):
        detail = f"usage shows idle time in rows of its own, and sharing it by {policy!r} was asked for"
        raise WrongParameter("basis", detail, "Ask for basis=allocation, or leave out idlePolicy and shareIdle.")
    if named is None:
        named = "usage" if policy in (None, "none") else "allocation"
    return named, policy or "model"


def _step(asked: Asked) -> str | None:
    accumulate = None if asked.accumulate is None else asked.accumulate.lower()
    if accumulate is None:
        return asked.step
    if accumulate not in ACCUMULATIONS:
        raise WrongParameter("accumulate", f"{asked.accumulate!r} is no period", f"Write {_or(ACCUMULATIONS)}.")
    if accumulate == "true":
        return None
    return asked.step or DEFAULT_STEP if accumulate == "false" else accumulate


def _edges(step: str | None, start_ns: int, end_ns: int, calendar: Calendar) -> tuple[int, ...]:
    if step is None:
        return ()
    try:
        return edges_of(step, start_ns, end_ns, calendar)
    except ValueError as error:
        raise WrongParameter("step", f"{error}", "Without a step there is one row for each group.") from error


def _terms(text: str) -> tuple[Term, ...]:
    try:
        return parse_filter(text)
    except WrongFilter as error:
        remedy = 'Write terms such as tenant:"a","b"+model!:"x"; in a URL, + is %2B and " is %22.'
        raise WrongParameter("filter", f"{error}", remedy) from error


def _idle_shown(text: str | None) -> bool:
    shown = flag("idle", text)
    return True if shown is None else shown


def _or(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}"
