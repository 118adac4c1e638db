"""What every section is made of, and the settings of the node itself: its name, its folder. `node`, `storage`."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, model_validator

from agent.core.cost.calendar import Calendar


def _from_the_folder(path: Path, info: ValidationInfo) -> Path:
    folder = (info.context or {}).get("folder")
    return folder / path if folder is not None else path


ConfigPath = Annotated[Path, AfterValidator(_from_the_folder)]
"""A path in the configuration: relative to the file that names it, wherever the program was started."""


class Section(BaseModel):
    """A section of engineroom.yaml: unknown keys are errors, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def split_address(text: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port` -> (host, port). Raises ValueError with what was expected."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or not 0 <= int(port) <= 65535 or not host:
        raise ValueError(f"expected host:port such as 127.0.0.1:9440, got {text!r}")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _known_zone(name: str) -> str:
    return Calendar(name).zone


TimeZone = Annotated[str, AfterValidator(_known_zone)]
"""An IANA name such as Europe/Berlin."""


def _database_url(url: str) -> str:
    if not url.startswith(("postgresql://", "postgres://")) or not url.rpartition("/")[2]:
        raise ValueError("expected a URL such as postgresql://user@host:5432/engineroom; left out, it is a file here")
    return "postgresql://" + url.partition("://")[2]


class NodeSettings(Section):
    """Who this node is."""

    name: str | None = Field(None, description="Name shown in labels and pages. Default: the host's name.")
    time_zone: TimeZone = Field(
        "UTC",
        description="IANA name of the zone whose hours and days reports and budgets are in, such as Asia/Shanghai. "
        "A change holds from then on: what is rolled up into hours and days stays as it is.",
    )


class StorageSettings(Section):
    """Where the agent keeps what must survive a restart."""

    data_dir: ConfigPath | None = Field(
        None,
        description="Folder for the ledger and the lock. Default: /var/lib/engineroom for root, "
        "else ~/.local/state/engineroom.",
    )
    history_seconds: float = Field(
        1800, ge=60, le=86400, description="How long every series is kept in memory for rules and queries."
    )
    history_bytes: int = Field(
        64 * 2**20,
        ge=2**20,
        description="Most memory the series may take; new series beyond it are dropped and counted.",
    )
    ledger: Annotated[str, AfterValidator(_database_url)] | None = Field(
        None,
        description="URL of a PostgreSQL database for the ledger, of this node alone. Default: ledger.sqlite in "
        "`data_dir`. Needs `pip install 'engineroom[postgres]'`.",
    )
    ledger_file: ConfigPath | None = Field(
        None, description="File that holds that URL, instead of `ledger`: for one with a password."
    )
    ledger_minutes_days: int = Field(
        3, ge=1, le=400, description="Days for which costs are kept by the minute; older ones are kept by the hour."
    )
    ledger_hours_days: int = Field(
        100, ge=1, le=4000, description="Days for which costs are kept by the hour; by the day they are kept for ever."
    )
    ledger_requests_days: int = Field(
        14, ge=1, le=4000, description="Days for which the price of every single request can be asked for."
    )

    @model_validator(mode="after")
    def _possible(self) -> "StorageSettings":
        if self.ledger is not None and self.ledger_file is not None:
            raise ValueError("expected `ledger` or `ledger_file`, not both")
        if self.ledger_hours_days < self.ledger_minutes_days:
            raise ValueError(
                "`ledger_hours_days` is less than `ledger_minutes_days`: hours are kept longer than minutes"
            )
        return self
