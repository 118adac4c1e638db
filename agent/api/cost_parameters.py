"""Query parameters of the cost report → the ledger's question, or a problem that says which is wrong and why."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from agent.api.problems import Problem
from agent.core.cost.calendar import Calendar
from agent.core.cost.filter_language import DIMENSIONS, OPERATORS
from agent.core.cost.report_forms import CSV_ROWS, JSON_ROWS, MAX_ROWS, Page
from agent.core.cost.report_language import (
    ACCUMULATIONS,
    BASES,
    DEFAULT_STEP,
    IDLE_POLICIES,
    Asked,
    Question,
    WrongParameter,
    flag,
    question,
)
from agent.core.cost.report_windows import STEP_FORMS, WINDOW_FORMS
from agent.doors.identity import Identity

Format = Literal["json", "csv", "focus"]
FORMATS: tuple[Format, ...] = ("json", "csv", "focus")
LONGEST = 256


class ReportParameters(BaseModel):
    """Query parameters of the cost report, by the names that OpenCost and Kubecost give them where they have one."""

    model_config = ConfigDict(extra="forbid")

    window: str = Field("today", description=f"Time covered: {WINDOW_FORMS}.", max_length=LONGEST)
    aggregate: str | None = Field(
        None,
        description=f"Comma-separated dimensions of a row, of: {', '.join(DIMENSIONS)}; also as label:tenant; "
        "`all` for one row. Default: state.",
        max_length=1024,
    )
    step: str | None = Field(
        None, description=f"Cut rows at: {STEP_FORMS}. Without it one row per group.", max_length=LONGEST
    )
    accumulate: str | None = Field(
        None,
        description=f"One of {', '.join(ACCUMULATIONS)}. true: one row per group. false: one per group and step "
        f"(default {DEFAULT_STEP}). A period: as a step of that name.",
        max_length=LONGEST,
    )
    accumulateBy: str | None = Field(None, description="Another name of `accumulate`.", max_length=LONGEST)  # noqa: N815 - Kubecost's name
    basis: str | None = Field(
        None,
        description=f"{' or '.join(BASES)}. usage: as booked, idle time in rows of its own. allocation: with idle "
        "time spread by `idlePolicy`. Default: usage, unless a policy is given.",
        max_length=LONGEST,
    )
    idlePolicy: str | None = Field(  # noqa: N815 - in the style of the others
        None,
        description=f"Who pays for idle time: {', '.join(IDLE_POLICIES)}. Default on basis allocation: model.",
        max_length=LONGEST,
    )
    shareIdle: str | None = Field(  # noqa: N815 - OpenCost's name
        None,
        description="true or weighted: basis allocation, idlePolicy node. even: idlePolicy even. false: as `basis`.",
        max_length=LONGEST,
    )
    idle: str | None = Field(
        None, description="false leaves rows of idle states out, and says what they sum to.", max_length=LONGEST
    )
    includeIdle: str | None = Field(None, description="Another name of `idle`.", max_length=LONGEST)  # noqa: N815 - OpenCost's name
    idleByNode: str | None = Field(  # noqa: N815 - OpenCost's name
        None, description="true or false; without effect, as this is one node.", max_length=LONGEST
    )
    resolution: str | None = Field(
        None, description="Without effect: amounts are booked, not sampled.", max_length=LONGEST
    )
    filter: str = Field(
        "",
        description='Terms that rows must pass, as tenant:"a","b"+model!:"x". '
        f"Operators: {'  '.join(OPERATORS)}. All terms must hold; | is not supported.",
    )
    currency: str | None = Field(
        None, description="Refused unless it is the ledger's: nothing is converted.", max_length=LONGEST
    )
    format: str = Field("json", description="json, csv, or focus (FOCUS 1.2 CSV).", max_length=LONGEST)
    tenant: str | None = Field(None, description="Only what is this tenant's.", max_length=LONGEST)
    offset: int = Field(0, ge=0, le=MAX_ROWS, description="Rows to leave out at the beginning.")
    limit: int | None = Field(
        None, ge=1, le=MAX_ROWS, description=f"Most rows to answer with. Default: {JSON_ROWS}; csv: {CSV_ROWS}."
    )

    def page(self, default: int) -> Page:
        """Which rows to tell."""
        return Page(offset=self.offset, limit=default if self.limit is None else self.limit)


def own_tenant(identity: Identity, asked: str | None) -> str | None:
    """Whose figures the report may hold: None for everybody's. Raises `Problem` for somebody else's."""
    if identity.tenant is None:
        return asked
    if asked not in (None, identity.tenant):
        detail = f"{identity.name} may see one tenant's costs, and {asked!r} is another."
        raise Problem(403, "Not allowed", detail, "Leave out `tenant`, or ask whoever runs this agent.")
    return identity.tenant


def read_question(parameters: ReportParameters, now_ns: int, calendar: Calendar, tenant: str | None) -> Question:
    """The question, about `tenant` only unless it is None. Raises `Problem`."""
    try:
        flag("idleByNode", parameters.idleByNode)
        if parameters.format not in FORMATS:
            raise WrongParameter("format", f"{parameters.format!r} is not served here", "Ask for json, csv or focus.")
        if parameters.format == "focus":
            _check_focus(parameters)
        return question(_asked(parameters, tenant), now_ns, calendar)
    except WrongParameter as error:
        raise bad(error.parameter, error.detail, error.remedy) from error


def bad(parameter: str, detail: str, remedy: str) -> Problem:
    """The problem of one wrong parameter."""
    return Problem(400, "Invalid query parameter", f"{parameter}: {detail}.", remedy)


def check_currency(asked: str | None, currency: str | None) -> None:
    """Raises `Problem` when the report is in another currency than was asked for."""
    if asked is not None and asked.upper() != currency:
        kept = f"this ledger is in {currency}" if currency else "nothing in this ledger has a price"
        raise bad("currency", f"{asked!r} is not what this report is in: {kept}", "Leave out `currency`.")


def _asked(parameters: ReportParameters, tenant: str | None) -> Asked:
    return Asked(
        window=parameters.window,
        aggregate="state" if parameters.aggregate is None else parameters.aggregate,
        step=parameters.step,
        accumulate=_same("accumulate", parameters.accumulate, "accumulateBy", parameters.accumulateBy),
        basis=parameters.basis,
        idle_policy=parameters.idlePolicy,
        share_idle=parameters.shareIdle,
        idle=_same("idle", parameters.idle, "includeIdle", parameters.includeIdle),
        filter=parameters.filter,
        tenant=tenant,
    )


def _same(name: str, value: str | None, other_name: str, other: str | None) -> str | None:
    if None not in (value, other) and value != other:
        detail = f"{value!r} and {other_name}={other!r} contradict each other"
        raise WrongParameter(name, detail, f"They mean the same; give one of {name} and {other_name}.")
    return other if value is None else value


def _check_focus(parameters: ReportParameters) -> None:
    """A FOCUS dataset has rows of one kind, and all of them."""
    given = {
        "aggregate": parameters.aggregate,
        "step": parameters.step,
        "accumulate": parameters.accumulate or parameters.accumulateBy,
        "limit": parameters.limit,
        "offset": parameters.offset or None,
    }
    for name, value in given.items():
        if value is not None:
            detail = "format=focus has one row for each hour, GPU, tenant, model and state, and all of them"
            raise WrongParameter(name, detail, f"Leave out `{name}`, or ask for json or csv.")
    if parameters.basis == "allocation" or parameters.idlePolicy or (parameters.shareIdle or "false") != "false":
        detail = "format=focus shows idle time as unused capacity, in rows of its own"
        raise WrongParameter("basis", detail, "Ask for basis=usage, or for json or csv.")
