"""Questions in, reports out, from what was booked: days where whole days are asked for, then hours, then minutes."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, bindparam, case, func, literal, select, tuple_

from agent.core.cost.allocating import Line, Owner, allocate, dimensions_needed
from agent.core.cost.filters import exact_terms, passes_all, tenant_term, waste_of
from agent.core.cost.reports import Dimension, Report, ReportQuery, ReportRow, Term
from agent.ledger.bills import AccountKey, Bill, currency_of, read_bills
from agent.ledger.kept import read_kept
from agent.ledger.pastdays import COLUMNS as PAST_COLUMNS
from agent.ledger.pastdays import PastDays, past_days
from agent.ledger.rollup import AMOUNTS
from agent.ledger.tables import DAY, entries, places
from agent.ledger.windows import GRAIN_NAMES, Range, Window, cover

# Dimensions that are columns, under the names that they have there.
BOOKED: dict[Dimension, str] = {
    "gpu": "gpu",
    "slot": "slot",
    "state": "state",
    "reason": "reason",
    "engine": "engine",
    "group": "engine_group",
    "model": "model",
    "tenant": "tenant",
    "outcome": "outcome",
    "namespace": "namespace",
    "pod": "pod",
}
# What a line sums: GPU time and requests first (`allocating.Amounts`), `priced_ns` is the GPU time that has a price.
SUMMED = ("gpu_ns", "requests", "nano", *(n for n in AMOUNTS if n not in ("gpu_ns", "requests", "nano")), "priced_ns")
PLACE = {name: place for place, name in enumerate(SUMMED)}


@dataclass(frozen=True, slots=True)
class _Question:
    """What is asked of the entries: names to group by, those that must pass in the database, and those after it."""

    dimensions: tuple[Dimension, ...]
    columns: tuple[str, ...]
    exact: tuple[Term, ...]
    other: tuple[Term, ...]

    @property
    def fits_past_days(self) -> bool:
        """Whether sums of whole days without their GPUs tell enough."""
        return {*self.columns, *(BOOKED[term.dimension] for term in self.exact)}.issubset(PAST_COLUMNS)


@dataclass(frozen=True, slots=True)
class _Money:
    """What counts as money: that of accounts in the report's currency."""

    currency: str | None
    bills: Sequence[Bill]

    @property
    def counted(self) -> list[AccountKey] | None:
        """Accounts whose money counts; None: that of all."""
        counted = [
            bill.key for bill in self.bills if self.currency is not None and bill.account.currency == self.currency
        ]
        return counted if len(counted) < len(self.bills) else None


def report(
    connection: Connection,
    query: ReportQuery,
    node: str,
    owners: Sequence[Owner] = (),
    past: PastDays | None = None,
) -> Report:
    """Rows of `query`, in order of time and group. With `past`, nothing was read in this transaction before."""
    look = past.look() if past is not None else None
    currency = currency_of(connection)
    bills = read_bills(connection)
    window = cover(query.start_ns, query.end_ns, query.edges, read_kept(connection))
    question = _question(query)
    known = past.known(look) if past is not None and look is not None and question.fits_past_days else []
    steps = _lines(connection, window, question, _Money(currency, bills), known)
    rows: list[ReportRow] = []
    for number, (start_ns, end_ns) in enumerate(window.steps):
        lines = steps.get(number, [])
        if query.basis == "allocation":
            lines = allocate(lines, query.idle, owners)
        rows += _rows(query, lines, node, question.other, start_ns, end_ns)
    costs = [row.cost_nano for row in rows if row.cost_nano is not None]
    energies = [row.energy_uj for row in rows if row.energy_uj is not None]
    return Report(
        query=query,
        currency=currency,
        rows=tuple(rows),
        total_gpu_ns=sum(row.gpu_ns for row in rows),
        total_cost_nano=sum(costs) if costs else None,
        start_ns=window.start_ns,
        end_ns=window.end_ns,
        total_energy_uj=sum(energies) if energies else None,
        notes=(*_widened(window), *_left_out(bills, currency, window)),
    )


def _question(query: ReportQuery) -> _Question:
    terms = [*query.filter, *([tenant_term(query.tenant)] if query.tenant is not None else [])]
    if query.basis == "usage":
        exact, other = exact_terms(terms, BOOKED)
    else:
        exact, other = [], terms  # only later: what is idle is spread over the work of all
    asked = (*query.aggregate, *(term.dimension for term in other))
    dimensions = dimensions_needed(asked, query.idle if query.basis == "allocation" else "none")
    columns = [BOOKED[dimension] for dimension in dimensions if dimension in BOOKED]
    if "gpu_model" in dimensions:  # the account says
        columns = list(dict.fromkeys([*columns, "gpu", "account_ns"]))
    return _Question(dimensions, tuple(columns), tuple(exact), tuple(other))


def _lines(
    connection: Connection, window: Window, question: _Question, money: _Money, known: Sequence[tuple[int, int]]
) -> dict[int, list[Line]]:
    """Step -> what was booked in it, one line for each set of names."""
    models = {bill.key: bill.account.gpu_model for bill in money.bills}
    rows, past = _statement(connection, question, money), _past_statement(connection, question, money)
    found: dict[int, dict[tuple[str, ...], list[int]]] = {}
    width = len(question.columns)
    finder = _names_of(question, models)
    for piece, is_past in _pieces(window, known):
        groups = found.setdefault(piece.step, {})
        for row in connection.execute(past if is_past else rows, _bounds(piece)):
            names = finder(row)
            sums = groups.get(names)
            amounts = [int(value) for value in row[width:]]
            if len(amounts) < len(SUMMED):
                amounts.append(amounts[0])  # all time of all accounts has a price
            groups[names] = amounts if sums is None else [a + b for a, b in zip(sums, amounts, strict=True)]
    return {
        step: [Line(dict(zip(question.dimensions, names, strict=True)), tuple(sums)) for names, sums in groups.items()]
        for step, groups in found.items()
    }


def _pieces(window: Window, known: Sequence[tuple[int, int]]) -> Iterator[tuple[Range, bool]]:
    """The ranges of a window, cut where days begin or end that are summed up; True: of such days."""
    runs = _runs(known)
    for piece in window.ranges:
        at = piece.first
        if piece.grain == DAY:
            for first, end in runs:
                first, end = max(first, at), min(end, piece.end)  # both are bounds of days
                if first < end:
                    if at < first:
                        yield piece._replace(first=at, end=first), False
                    yield piece._replace(first=first, end=end), True
                    at = end
        if at < piece.end:
            yield piece._replace(first=at), False


def _runs(known: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Days that follow one another, as one."""
    runs: list[tuple[int, int]] = []
    for first, end in known:
        if runs and runs[-1][1] == first:
            runs[-1] = (runs[-1][0], end)
        else:
            runs.append((first, end))
    return runs


def _names_of(question: _Question, models: Mapping[AccountKey, str]) -> Any:
    """How a line's names are read from a row that begins with the question's columns."""
    if "gpu_model" not in question.dimensions:
        places_of = [question.columns.index(BOOKED[dimension]) for dimension in question.dimensions]
        if places_of == list(range(len(places_of))):
            width = len(places_of)
            return lambda row: row[:width]
        return lambda row: tuple([row[place] for place in places_of])
    gpu, account = question.columns.index("gpu"), question.columns.index("account_ns")
    where = [None if d == "gpu_model" else question.columns.index(BOOKED[d]) for d in question.dimensions]
    return lambda row: tuple(
        [models.get((row[gpu], row[account]), "") if place is None else row[place] for place in where]
    )


def _bounds(piece: Range) -> dict[str, int]:
    return {"grain": piece.grain, "first": piece.first, "end": piece.end}


def _statement(connection: Connection, question: _Question, money: _Money) -> Select[tuple[Any, ...]]:
    e, p = entries.c, places.c
    is_priced = None if money.counted is None else tuple_(p.gpu, p.account_ns).in_(money.counted)
    within = (e.grain == bindparam("grain")) & (e.minute >= bindparam("first")) & (e.minute < bindparam("end"))
    statement = _sums(connection, question, e, p, is_priced).where(within)
    if question.columns or question.exact or is_priced is not None:
        statement = statement.select_from(entries.join(places, p.id == e.place))
    return statement


def _past_statement(connection: Connection, question: _Question, money: _Money) -> Select[tuple[Any, ...]]:
    """The same question to the sums of past days."""
    d = past_days.c
    is_priced = None if money.counted is None else d.currency == (money.currency or " ")
    if not question.fits_past_days:
        return _statement(connection, question, money)
    return _sums(connection, question, d, d, is_priced).where(d.day >= bindparam("first"), d.day < bindparam("end"))


def _sums(
    connection: Connection, question: _Question, amounts: Any, names: Any, is_priced: ColumnElement[bool] | None
) -> Select[tuple[Any, ...]]:
    values: dict[str, ColumnElement[int]] = {name: amounts[name] for name in AMOUNTS}
    if is_priced is not None:
        values["nano"] = case((is_priced, amounts.nano), else_=0)
        values["priced_ns"] = case((is_priced, amounts.gpu_ns), else_=0)
    columns = [names[name] for name in question.columns]
    statement = select(*columns, *(func.sum(values[name]).label(name) for name in SUMMED if name in values))
    for term in question.exact:
        column = names[BOOKED[term.dimension]]
        wanted = [value for value in term.values if _storable(value, connection.dialect.name)]
        statement = statement.where(column.in_(wanted) if term.op == "is" else column.not_in(wanted))
    return statement.group_by(*columns) if columns else statement.having(func.count() > literal(0))


def _storable(text: str, dialect: str) -> bool:
    """Whether a text can be in the ledger at all: what cannot is no place's name, and drivers refuse to ask for it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return dialect == "sqlite" or "\0" not in text


def _rows(
    query: ReportQuery, lines: Iterable[Line], node: str, terms: Sequence[Term], start_ns: int, end_ns: int
) -> list[ReportRow]:
    """The rows of one step."""
    groups: dict[tuple[str, ...], tuple[int, ...]] = {}
    derive = node if "node" in query.aggregate or any(term.dimension == "node" for term in terms) else None
    wants_waste = "waste" in query.aggregate or any(term.dimension == "waste" for term in terms)
    for line in lines:
        names = line.names
        if derive is not None or wants_waste:
            names = {**names, "node": node, "waste": waste_of(names.get("outcome", ""))}
        if terms and not passes_all(terms, names):
            continue
        key = tuple([names[dimension] for dimension in query.aggregate])
        sums = groups.get(key)
        groups[key] = line.amounts if sums is None else tuple([a + b for a, b in zip(sums, line.amounts, strict=True)])
    return [_row(query, key, groups[key], start_ns, end_ns) for key in sorted(groups) if any(groups[key])]


def _row(query: ReportQuery, names: tuple[str, ...], amounts: tuple[int, ...], start_ns: int, end_ns: int) -> ReportRow:
    metered_ns, nano = amounts[PLACE["metered_ns"]], amounts[PLACE["nano"]]
    return ReportRow(
        start_ns=start_ns,
        end_ns=end_ns,
        group=dict(zip(query.aggregate, names, strict=True)),
        gpu_ns=amounts[PLACE["gpu_ns"]],
        cost_nano=nano if nano or amounts[PLACE["priced_ns"]] else None,
        requests=amounts[PLACE["requests"]],
        input_tokens=amounts[PLACE["input_tokens"]],
        output_tokens=amounts[PLACE["output_tokens"]],
        input_cached_tokens=amounts[PLACE["input_cached_tokens"]],
        work_ns=amounts[PLACE["work_ns"]],
        energy_uj=amounts[PLACE["energy_uj"]] if metered_ns or amounts[PLACE["energy_uj"]] else None,
        metered_ns=metered_ns,
    )


def _widened(window: Window) -> list[str]:
    found = []
    for grain in window.widened:
        finer = GRAIN_NAMES[grain - 1]
        found.append(
            f"Of a part of this time no {finer} are kept any more, so what is asked there was moved to whole "
            f"{GRAIN_NAMES[grain]} of the report's time zone; start and end of the rows say to where."
        )
    return found


def _left_out(bills: Iterable[Bill], currency: str | None, window: Window) -> list[str]:
    """What the sums of money lack."""
    notes: dict[str, None] = {}
    for bill in bills:
        account = bill.account
        if account.currency == currency or not (account.from_ns < window.end_ns and bill.through_ns > window.start_ns):
            continue
        if account.currency is None:
            notes[
                f"No price covers {account.gpu_model} for a part of this time: its time is here, its cost is not."
            ] = None
        else:
            notes[f"The report is in {currency}: of what cost {account.currency} the time is here, not the money."] = (
                None
            )
    return list(notes)
