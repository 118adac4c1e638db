"""What a driver told an engine's metrics code, in the words of our readings; written as JSON beside the page."""

import inspect
import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Observed:
    """Keys are those of `EngineReading`. `histograms` hold every single observation."""

    model: str
    values: dict[str, float] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    histograms: dict[str, list[float]] = field(default_factory=dict)

    def took(self, histogram: str, *seconds: float) -> None:
        """Observations of a histogram."""
        self.histograms.setdefault(histogram, []).extend(seconds)

    def write(self, page: str, folder: Path) -> None:
        """`metrics.prom` and `observed.json`, for the test that started this process."""
        (folder / "metrics.prom").write_text(page)
        (folder / "observed.json").write_text(json.dumps(vars(self)))


def fitting(call: Callable[..., Any], **given: Any) -> Any:
    """Call with the arguments that this version takes."""
    known = inspect.signature(call).parameters
    return call(**{name: value for name, value in given.items() if name in known})


def arguments() -> tuple[Path, tuple[int, ...], Path, set[str]]:
    """Of the command line: folder of the unpacked wheel, version, folder to write to, and flags."""
    root, version, out, *flags = sys.argv[1:]
    return Path(root), tuple(int(part) for part in version.split(".")[:3]), Path(out), set(flags)
