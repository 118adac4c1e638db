"""The settings of this station: the section `reports` of the configuration file."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from agent.core.cost.calendar import Calendar
from agent.core.cost.focus import FocusNames
from agent.core.cost.report_language import Asked, WrongParameter, question
from agent.core.cost.report_windows import WINDOW_FORMS
from agent.settings import ConfigPath, Section

Every = Literal["daily", "weekly", "monthly"]
_SOME_DAY_NS = 1_800_000_000 * 10**9  # for trying a question out


class FocusSettings(Section):
    """Names in FOCUS datasets. Left out: the node, or the provider."""

    version: Literal["1.2"] = Field("1.2", description="Version of the specification that datasets follow.")
    provider: str = Field("engineroom", min_length=1, description="ProviderName: who makes the GPUs available.")
    publisher: str | None = Field(None, min_length=1, description="PublisherName. Default: the provider.")
    invoice_issuer: str | None = Field(None, min_length=1, description="InvoiceIssuerName. Default: the provider.")
    billing_account_id: str | None = Field(None, min_length=1, description="BillingAccountId. Default: the node.")
    billing_account_name: str | None = Field(
        None, min_length=1, description="BillingAccountName. Default: the account's id."
    )

    def to_names(self) -> FocusNames:
        """The names as datasets need them."""
        return FocusNames(**self.model_dump())


class ReportWebhookSettings(Section):
    """Who is sent a finished report as JSON."""

    url: str | None = Field(None, pattern="^https?://.", description="Where to post.")
    url_file: ConfigPath | None = Field(None, description="File that holds the address, when the address is a secret.")
    secret_file: ConfigPath | None = Field(
        None, description="File with a secret; the body's HMAC-SHA256 is then sent as X-Engineroom-Signature."
    )
    authorization_file: ConfigPath | None = Field(
        None, description="File with the value of the Authorization header, such as `Bearer ...`."
    )

    @model_validator(mode="after")
    def _one_address(self) -> "ReportWebhookSettings":
        if (self.url is None) == (self.url_file is None):
            raise ValueError("expected exactly one of `url` and `url_file`")
        return self


def _clock_time(text: str) -> str:
    if not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", text):
        raise ValueError(f"{text!r} is not a time of day; write it as 06:00")
    return text


class ScheduleSettings(Section):
    """A report that is made by itself, each time a day, a week or a month is over."""

    name: str = Field(
        pattern="^[a-z0-9][a-z0-9_-]{0,63}$", description="Its name, in file names: small letters, digits, - and _."
    )
    every: Every = Field("daily", description="Which period is over: daily, weekly (from Monday) or monthly.")
    at: Annotated[str, AfterValidator(_clock_time)] = Field(
        "06:00", description="When it is made, on the first day after the period, in the node's time zone."
    )
    window: str | None = Field(
        None, description=f"Time covered, seen from the end of the period: {WINDOW_FORMS}. Default: the period."
    )
    aggregate: str = Field("tenant,model,state", description="Dimensions of a row, as in the API.")
    step: str | None = Field(None, description="Where rows are cut, as in the API. Default: not at all.")
    basis: str | None = Field(None, description="usage or allocation, as in the API.")
    idle_policy: str | None = Field(None, description="Who pays for idle time, as in the API.")
    filter: str = Field("", description="Terms that rows must pass, as in the API.")
    format: Literal["json", "csv", "focus"] = Field(
        "csv", description="Form of the file. focus: FOCUS rows by the hour; aggregate, step and basis do not count."
    )
    folder: ConfigPath | None = Field(None, description="Where files go. Default: `reports` in the data folder.")
    keep: int = Field(60, ge=1, le=10_000, description="How many files are kept; older ones are deleted.")
    webhook: ReportWebhookSettings | None = Field(None, description="Who is sent each report, as JSON.")

    @model_validator(mode="after")
    def _is_a_question(self) -> "ScheduleSettings":
        try:
            question(self.asked(self.window or "lastmonth"), _SOME_DAY_NS, Calendar())
        except WrongParameter as error:
            key = re.sub("[A-Z]", lambda letter: f"_{letter.group().lower()}", error.parameter)
            raise ValueError(f"`{key}`: {error.detail}. {error.remedy}") from None
        return self

    def asked(self, window: str) -> Asked:
        """What is asked of the ledger for a window."""
        return Asked(
            window=window,
            aggregate=self.aggregate,
            step=self.step,
            basis=self.basis,
            idle_policy=self.idle_policy,
            filter=self.filter,
        )


class ReportsSettings(Section):
    """Reports that are made by themselves, and names in FOCUS datasets. docs/cost-reports.md."""

    schedules: tuple[ScheduleSettings, ...] = Field((), description="Reports to make, each with a name of its own.")
    focus: FocusSettings = Field(default_factory=FocusSettings, description="Names in FOCUS datasets.")
    timeout_seconds: float = Field(
        10.0, gt=0, le=60, description="Seconds after which an unanswered webhook counts as failed."
    )

    @model_validator(mode="after")
    def _a_name_each(self) -> "ReportsSettings":
        names = [schedule.name for schedule in self.schedules]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two schedules are named `{twice}`; give each a name of its own")
        return self
