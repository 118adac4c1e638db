"""Settings of the choice among several engines of a gateway: the keys `upstreams` and `balance` of `sidecar`."""

from pydantic import Field, field_validator, model_validator

from agent.settings import Section
from agent.sidecar.sockets.addresses import parse_upstream


class EngineEntry(Section):
    """One engine of a gateway."""

    url: str = Field(description="The engine, http://host:port or https://host:port.")

    @field_validator("url")
    @classmethod
    def _is_engine(cls, value: str) -> str:
        parse_upstream(value)
        return value.rstrip("/")

    models: tuple[str, ...] = Field(
        (),
        description="Models that it serves, by the names that requests use. Empty: every model. A request whose model "
        "no entry names goes to the engines without names; where all have some, to any.",
    )


class BalanceSettings(Section):
    """How a gateway chooses: the engine with the fewest requests under way, without those that fail."""

    eject_after_failures: int = Field(
        3,
        ge=0,
        description="Failures in a row (no connection, or a 5xx before the first byte) after which an engine gets no "
        "more requests for a while. 0: never. If no engine is left, all get requests.",
    )
    eject_seconds: float = Field(
        1.0,
        gt=0,
        description="How long the first time, give or take a quarter. Then one request tries it: if that fails too, "
        "twice as long.",
    )
    eject_max_seconds: float = Field(60.0, gt=0, description="Longest such time.")
    check: bool | None = Field(
        None,
        description="Whether each engine is asked regularly if it is ready. Default: with several engines. One that "
        "has no such path (404, 405, 501) counts as ready.",
    )
    check_path: str = Field("/health", pattern=r"^/[!-~]*$", description="What is asked; a 2xx means ready.")
    check_interval_seconds: float = Field(5.0, gt=0, description="How often.")
    check_timeout_seconds: float = Field(2.0, gt=0, description="Longest wait for that answer.")
    check_failures: int = Field(
        2, ge=1, description="Bad answers in a row after which an engine is not ready; a good one makes it ready again."
    )
    sticky_header: str | None = Field(
        None,
        pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$",
        description="Request header, such as x-session-id, whose equal values go to the same engine while it serves, "
        "so that its prefix cache is used. Default: none.",
    )
    sticky_load_ratio: float = Field(
        1.25,
        gt=1,
        description="With `sticky_header`: an engine takes at most so many times the mean of requests under way; what "
        "is over goes to the next one.",
    )

    @field_validator("sticky_header")
    @classmethod
    def _lower(cls, value: str | None) -> str | None:
        return None if value is None else value.lower()

    @model_validator(mode="after")
    def _in_order(self) -> "BalanceSettings":
        if self.eject_max_seconds < self.eject_seconds:
            least = f"eject_seconds ({self.eject_seconds:g})"
            raise ValueError(f"eject_max_seconds ({self.eject_max_seconds:g}) must not be below {least}")
        return self
