"""What every engine file provides, and the two small values that pass between it and the scraper.

To add an engine: write `agent/engines/<kind>.py` with the names of `EngineFile`, add it to `registry.py`, and record a
page of the real server under `tests/engines/<kind>/<version>/` (its README says how).
"""

from collections.abc import Mapping
from typing import Protocol

from msgspec import Struct

from agent.core.metrics.scrape import Scrape
from agent.core.readings import EngineReading

UNKNOWN_MODEL = "unknown"  # shown for an engine that does not tell which model it serves


class About(Struct, frozen=True, kw_only=True):
    """What an engine says about itself beside its metrics; None where it does not."""

    model: str | None = None
    version: str | None = None


class Origin(Struct, frozen=True, kw_only=True):
    """Where and when a page was read; goes unchanged into the readings."""

    engine: str
    url: str
    read_at_ns: int
    about: About = About()


class EngineFile(Protocol):
    """The shape of a module in this folder. Paths are relative to the engine's base address."""

    @property
    def KIND(self) -> str:  # noqa: N802  # a module constant
        """Short lower-case name, as in the config."""
        ...

    @property
    def DEFAULT_PORTS(self) -> tuple[int, ...]:  # noqa: N802
        """Ports the engine listens on when nobody says otherwise: the only ones that discovery looks at."""
        ...

    @property
    def METRICS_PATH(self) -> str:  # noqa: N802
        """Path of the metrics page."""
        ...

    @property
    def ABOUT_PATHS(self) -> tuple[str, ...]:  # noqa: N802
        """Paths of small JSON bodies that tell model and version; asked rarely, and never needed for a reading."""
        ...

    @property
    def METRICS_HINT(self) -> str:  # noqa: N802
        """What an operator must do so that the engine shows its metrics; ends a sentence."""
        ...

    def matches(self, scrape: Scrape) -> bool:
        """Whether this page is from this engine, judged by its content alone."""
        ...

    def about(self, bodies: Mapping[str, bytes]) -> About:
        """Read the bodies of `ABOUT_PATHS` (those that were answered). Never raises on their content."""
        ...

    def read(self, scrape: Scrape, origin: Origin) -> list[EngineReading]:
        """One reading for each served model; empty when the page has no signal of this engine."""
        ...
