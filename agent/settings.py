"""What every section is made of, and the settings of the node itself: its name, its folder. `node`, `storage`."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo


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


class NodeSettings(Section):
    """Who this node is."""

    name: str | None = Field(None, description="Name shown in labels and pages. Default: the host's name.")


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
