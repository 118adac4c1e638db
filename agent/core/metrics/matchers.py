"""Label matchers: which series a selector means."""

import re
from dataclasses import dataclass, field
from typing import Literal

from agent.core.metrics.regexes import compile_regex
from agent.core.metrics.samples import Labels

MatchOp = Literal["=", "!=", "=~", "!~"]


@dataclass(frozen=True, slots=True)
class Matcher:
    """One condition on a label. A label that is absent has the empty value. Raises `RegexError`."""

    name: str
    op: MatchOp
    value: str
    _regex: "re.Pattern[str] | None" = field(init=False, repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        if self.op in ("=~", "!~"):
            object.__setattr__(self, "_regex", compile_regex(self.value))

    def matches(self, value: str) -> bool:
        """Whether a label with this value satisfies the condition."""
        if self._regex is not None:
            return (self._regex.fullmatch(value) is not None) == (self.op == "=~")
        return (value == self.value) == (self.op == "=")

    def matches_labels(self, labels: Labels) -> bool:
        """Whether the label set (with `__name__` among its labels) satisfies the condition."""
        return self.matches(next((value for name, value in labels if name == self.name), ""))

    def __str__(self) -> str:
        return f'{self.name}{self.op}"{self.value}"'
