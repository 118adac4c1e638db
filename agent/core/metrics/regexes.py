"""Regular expressions as Prometheus means them (RE2 syntax) in, Python's out; what would differ or not end is refused.

Python's engine backtracks, so some expressions would keep it busy for ever, and queries come from outside. Therefore a
repeat of something that itself can match in several ways is refused, and the number of choices in a row is limited.
"""

import re
import warnings
from dataclasses import dataclass
from functools import lru_cache

MAX_UNBOUNDED = 4  # `*`, `+`, `{n,}` one after the other
MAX_CHOICES = 12  # `?`, `{n,m}`, `(a|b)` one after the other
MAX_REPEAT = 1000  # RE2's own limit

_CLASSES = {"d": "0-9", "w": "0-9A-Za-z_", "s": r"\t\n\f\r "}
_GROUP = re.compile(r"\((?:\?(?:P?<([A-Za-z_]\w*)>|(-?[is]+|[is]+-[is]+)?(:|\)))|(?!\?))", re.ASCII)
_ESCAPE = re.compile(r"\\(?:x[0-9A-Fa-f]{2}|[aftnrv]|[^A-Za-z0-9\s])")  # read alike by both engines
_REPEAT = re.compile(r"(?:[*+?]|\{(\d+)(,?)(\d*)\})(\??)")


class RegexError(ValueError):
    """A regular expression that we cannot run exactly and safely as Prometheus would; the message says why."""


@dataclass(slots=True)
class _Level:
    """Ways to match inside one group: of the alternative being read, and the most of those before it."""

    unbounded: int = 0
    choices: int = 0
    most_unbounded: int = 0
    most_choices: int = 0
    alternatives: int = 1

    def next_alternative(self) -> None:
        self.most_unbounded = max(self.most_unbounded, self.unbounded)
        self.most_choices = max(self.most_choices, self.choices)
        self.unbounded = self.choices = 0
        self.alternatives += 1

    def total(self) -> tuple[int, int]:
        """Unbounded repeats and choices of the whole group."""
        return (
            max(self.most_unbounded, self.unbounded),
            max(self.most_choices, self.choices) + (self.alternatives > 1),
        )


@lru_cache(maxsize=512)
def compile_regex(pattern: str) -> "re.Pattern[str]":
    """The expression for Python's `re`; use it with `fullmatch`. `.` matches line ends too. Raises `RegexError`."""
    translated = _Translation(pattern).run()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a FutureWarning says that Python reads a set otherwise than RE2
        try:
            return re.compile(translated, re.DOTALL)
        except (re.error, FutureWarning, OverflowError) as error:
            raise RegexError(f"not a regular expression we can run: {error}") from None


class _Translation:
    """One walk over the pattern; `_atom` is what the next repeat would repeat: its unbounded repeats and choices."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0
        self._out: list[str] = []
        self._levels = [_Level()]
        self._atom: tuple[int, int] | None = None

    def run(self) -> str:
        """The whole pattern, translated."""
        while self._at < len(self._pattern):
            self._step(self._pattern[self._at])
            for level in self._levels:
                if level.unbounded > MAX_UNBOUNDED or level.choices > MAX_CHOICES:
                    raise RegexError("too many repeats or choices one after the other")
        return "".join(self._out)

    def _step(self, char: str) -> None:
        if char == "\\":
            self._escape()
        elif char == "[":
            self._set()
        elif char == "(":
            self._open()
        elif char == ")":
            self._close()
        elif char == "|":
            self._levels[-1].next_alternative()
            self._emit("|", None)
        elif char == "$":
            self._emit(r"\Z", None)
        elif char in "*+?" or (char == "{" and _REPEAT.match(self._pattern, self._at)):
            self._repeat()
        elif char in "{}":
            if self._pattern.startswith("{,", self._at):
                raise RegexError("`{,n}` is not a repeat in RE2; write {0,n}")
            self._emit("\\" + char, (0, 0))
        else:
            self._emit(char, None if char == "^" else (0, 0))

    def _emit(self, text: str, atom: tuple[int, int] | None, width: int = 1) -> None:
        self._out.append(text)
        self._atom = atom
        self._at += width

    def _escape(self) -> None:
        char = self._pattern[self._at + 1 : self._at + 2]
        if char == "z":
            self._emit(r"\Z", None, 2)
        elif char == "A":
            self._emit(r"\A", None, 2)
        elif char.lower() in _CLASSES and char:
            self._emit(f"[{'^' if char.isupper() else ''}{_CLASSES[char.lower()]}]", (0, 0), 2)
        else:
            text = self._plain_escape()
            self._emit(text, (0, 0), len(text))

    def _plain_escape(self) -> str:
        found = _ESCAPE.match(self._pattern, self._at)
        if found is None:
            raise RegexError(f"the escape `{self._pattern[self._at : self._at + 2]}` is not supported")
        return found[0]

    def _set(self) -> None:
        """`[…]`: the same in both engines but for nested brackets and class escapes."""
        start = self._at
        self._at += 1
        out = ["["]
        if self._pattern.startswith("^", self._at):
            out.append("^")
            self._at += 1
        first = True
        while first or not self._pattern.startswith("]", self._at):
            if self._at >= len(self._pattern):
                raise RegexError(f"the `[` at character {start + 1} is never closed")
            out.append(self._set_member())
            first = False
        self._emit("".join(out) + "]", (0, 0))

    def _set_member(self) -> str:
        char = self._pattern[self._at]
        if self._pattern.startswith("[:", self._at):
            raise RegexError("classes such as [:alpha:] are not supported; write a-zA-Z")
        if char != "\\":
            self._at += 1
            return "\\" + char if char in "[]&~|" else char
        letter = self._pattern[self._at + 1 : self._at + 2]
        if letter and letter in _CLASSES:
            self._at += 2
            return _CLASSES[letter]
        text = self._plain_escape()
        self._at += len(text)
        return text

    def _open(self) -> None:
        found = _GROUP.match(self._pattern, self._at)
        if found is None:
            raise RegexError(
                f"the group at character {self._at + 1} is of a kind that RE2 does not have or we do not run"
            )
        name, flags, end = found[1], found[2], found[3]
        if end == ")":  # flags for the rest of the pattern; Python takes them at the start only
            self._emit(found[0], None, len(found[0]))
            return
        text = f"(?P<{name}>" if name else f"(?{flags or ''}:" if end else "("
        self._levels.append(_Level())
        self._emit(text, None, len(found[0]))

    def _close(self) -> None:
        if len(self._levels) == 1:
            raise RegexError(f"the `)` at character {self._at + 1} closes nothing")
        unbounded, choices = self._levels.pop().total()
        self._levels[-1].unbounded += unbounded
        self._levels[-1].choices += choices
        self._emit(")", (unbounded, choices))

    def _repeat(self) -> None:
        found = _REPEAT.match(self._pattern, self._at)
        if found is None or self._atom is None:
            raise RegexError(f"the repeat at character {self._at + 1} repeats nothing")
        unbounded, choices = self._atom
        low, comma, high = found[1], found[2], found[3]
        if max(int(low or 0), int(high or 0)) > MAX_REPEAT:
            raise RegexError(f"a repeat of more than {MAX_REPEAT} times")
        level = self._levels[-1]
        if found[0][0] in "*+" or (comma and not high):
            if unbounded or choices:
                raise RegexError("a repeat of something that can match in several ways can run without end; rewrite it")
            level.unbounded += 1
        else:
            times = int(high or low or 1)
            level.unbounded += unbounded * max(0, times - 1)
            level.choices += choices * max(0, times - 1) + (not low or (bool(comma) and low != high))
        self._emit(found[0], None, len(found[0]))
