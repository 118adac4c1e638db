"""The lines of a metrics page in, its layout out: which series each line stands for, for reading the next page fast."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan
from typing import NamedTuple

from agent.core.metrics.exposition_line import MalformedLine, parse_line, parse_value, shown
from agent.core.metrics.samples import Labels, Sample, SeriesKey
from agent.core.metrics.scrape import Family, Scrape, family_of

SHOWN_PROBLEMS = 5
# A page with this many bad lines before the first good one is something else; the rest is not looked at.
HOPELESS_LINES = 1000

# What a line can be instead of the only line of one sample. Of these, only DROPPED lines may change unnoticed.
DROPPED = -1  # a sample line that is read and thrown away (_created)
NO_SAMPLE = -2  # a comment, a blank or a malformed line
SHARED = -3  # one of several lines of one series: the value is made of all of them

_ADDITIVE_TYPES = frozenset({"counter", "histogram", "summary", "gaugehistogram"})
_METADATA = {b"TYPE": "type", b"HELP": "help", b"UNIT": "unit"}


class Series(NamedTuple):
    """What the head of a line stands for. `merged` when a pid label was taken off it."""

    key: SeriesKey
    merged: bool


@dataclass(slots=True)
class Layout:
    """What is remembered of a page. `heads[i]` and `slots[i]` belong to `lines[i]`."""

    total: int = -1  # lines of the page, those included that were not read
    lines: list[bytes] = field(default_factory=list)  # those that were read
    heads: list[bytes | None] = field(default_factory=list)  # bytes before the value; None for no plain sample line
    slots: list[int] = field(default_factory=list)  # a place in `samples`, or one of the negative marks above
    samples: list[Sample] = field(default_factory=list)
    places: dict[str, list[int]] = field(default_factory=dict)  # metric name -> places in `samples`
    families: dict[str, Family] = field(default_factory=dict)
    series: dict[bytes, Series] = field(default_factory=dict)  # by head
    problems: list[str] = field(default_factory=list)
    malformed: int = 0
    duplicates: int = 0
    truncated: bool = False

    def problem(self, text: str) -> None:
        """Keep the first few only: a broken page has thousands."""
        if len(self.problems) < SHOWN_PROBLEMS:
            self.problems.append(text)

    def scrape(self) -> Scrape:
        """The page as it is now; later changes of the samples do not reach it."""
        return Scrape(
            samples=tuple(self.samples),
            families=self.families,
            problems=tuple(self.problems),
            malformed=self.malformed,
            duplicates=self.duplicates,
            truncated=self.truncated,
            _places=self.places,
        )


class LayoutBuilder:
    """Reads one page line by line. `known` are heads of the page before: their lines are read the short way."""

    def __init__(self, add_labels: Labels, max_samples: int, known: Mapping[bytes, Series]) -> None:
        self.layout = Layout()
        self._add_labels = add_labels
        self._added = {label for label, _ in add_labels}
        self._max_samples = max_samples
        self._known = known
        self._slot_of: dict[SeriesKey, int] = {}
        self._shared: set[int] = set()
        self._created: dict[str, bool] = {}
        self._names: dict[str, str] = {}  # one text for all series of a metric
        self._pairs: dict[tuple[str, str], tuple[str, str]] = {}  # one label for all series that carry it

    def build(self, lines: Sequence[bytes], max_lines: int) -> Layout:
        """The layout of a page of `lines`, of which at most `max_lines` are read."""
        layout = self.layout
        layout.total, layout.truncated = len(lines), len(lines) > max_lines
        readable = lines[:max_lines]
        layout.families = read_metadata(readable)
        for at, line in enumerate(readable):
            if line.startswith(b"# EOF"):
                self._after_eof(at, readable)
                break
            self._add(at, line)
            if len(layout.samples) > self._max_samples or self._hopeless():
                layout.truncated = True
                break
        self._cap()
        layout.lines = list(lines[: len(layout.heads)])
        # Lines that share a series cannot be brought up to date one by one: a change of one reads the page anew.
        layout.slots = [SHARED if slot in self._shared else slot for slot in layout.slots]
        self._summarise(max_lines)
        return layout

    def _hopeless(self) -> bool:
        return self.layout.malformed >= HOPELESS_LINES and not self.layout.samples

    def _cap(self) -> None:
        """Take back the one sample that showed that there are too many."""
        layout = self.layout
        if len(layout.samples) > self._max_samples:
            name = layout.samples.pop().key.name
            layout.places[name].pop()
            if not layout.places[name]:
                del layout.places[name]
            layout.heads.pop()
            layout.slots.pop()

    def _add(self, at: int, line: bytes) -> None:
        head, _, number = line.rpartition(b" ")
        series = self._known.get(head) or self.layout.series.get(head)
        if series is not None:
            try:
                value = parse_value(number)
            except ValueError:
                series = None
        if series is None:
            if not line or line.isspace() or line.startswith(b"#"):
                self._place(None, NO_SAMPLE)
                return
            try:
                parsed = parse_line(line)
            except MalformedLine as error:
                self.layout.malformed += 1
                self.layout.problem(f"line {at + 1}: {error}")
                self._place(None, NO_SAMPLE)
                return
            series, value = self._series(parsed.name, parsed.labels), parsed.value
            if not parsed.plain:
                head = b""
        if head:
            self.layout.series[head] = series
        self._place(head or None, self._slot(at, series, value))

    def _place(self, head: bytes | None, slot: int) -> None:
        self.layout.heads.append(head)
        self.layout.slots.append(slot)

    def _series(self, name: str, labels: Labels) -> Series:
        """Identity of a series as read, with the labels that we take off and put on."""
        merged = False
        kept = []
        for pair in labels:
            label, value = pair
            if label == "pid" and value.isdecimal():
                merged = True
            else:
                kept.append((f"exported_{label}", value) if label in self._added else pair)
        pairs = self._pairs
        shared = [pairs.setdefault(pair, pair) for pair in kept]
        return Series(SeriesKey(self._names.setdefault(name, name), (*shared, *self._add_labels)), merged)

    def _slot(self, at: int, series: Series, value: float) -> int:
        key, samples = series.key, self.layout.samples
        if key.name.endswith("_created") and self._is_created_twin(key.name):
            return DROPPED
        slot = self._slot_of.get(key)
        if slot is None:
            slot = self._slot_of[key] = len(samples)
            samples.append(Sample(key, value))
            self.layout.places.setdefault(key.name, []).append(slot)
            return slot
        self._shared.add(slot)
        samples[slot] = Sample(key, self._together(at, series, samples[slot].value, value))
        return slot

    def _together(self, at: int, series: Series, before: float, value: float) -> float:
        """One value of two lines of the same series."""
        if series.merged:
            if family_of(self.layout.families, series.key.name).type in _ADDITIVE_TYPES:
                return before + value
            return value if isnan(before) or value > before else before
        self.layout.duplicates += 1
        if before != value and not (isnan(before) and isnan(value)):
            self.layout.problem(
                f"line {at + 1}: {shown(repr(series.key).encode())} is given twice, as {before:g} and as {value:g}; "
                "kept the last"
            )
        return value

    def _is_created_twin(self, name: str) -> bool:
        """Whether this is the creation time of a counter, histogram or summary, and no gauge of its own."""
        known = self._created.get(name)
        if known is None:
            base, families = name.removesuffix("_created"), self.layout.families
            types = {families[n].type for n in (base, f"{base}_total") if n in families}
            known = self._created[name] = bool(types & _ADDITIVE_TYPES)
            if known:
                families.pop(name, None)
        return known

    def _after_eof(self, at: int, lines: Sequence[bytes]) -> None:
        """The end mark, and what should not be behind it: not read, but remembered, so that a change of it is seen."""
        left = sum(1 for line in lines[at + 1 :] if line and not line.isspace())
        if left:
            self.layout.problem(f"line {at + 1}: {left} lines after # EOF are not read")
        for _ in lines[at:]:
            self._place(None, NO_SAMPLE)

    def _summarise(self, max_lines: int) -> None:
        """What is wrong with the page as a whole; stands behind the bad lines, or in their place."""
        layout = self.layout
        if layout.samples:
            if layout.truncated:
                layout.problems.append(
                    f"the page holds more than {self._max_samples} series or {max_lines} lines: the rest was not read "
                    "(look for a label with very many values)"
                )
        elif any(b"\0" in line for line in layout.lines):
            layout.problems = ["this is binary data, not metrics"]
        elif layout.truncated:
            layout.problems.append(f"none of the first {HOPELESS_LINES} lines is a metric: this is not a metrics page")
        elif not layout.problems:
            layout.problem("the page holds no samples")


def read_metadata(lines: Sequence[bytes]) -> dict[str, Family]:
    """What TYPE, HELP and UNIT lines say, by the name they give."""
    declared: dict[str, dict[str, str]] = {}
    for line in lines:
        if not line.startswith(b"# "):
            continue
        parts = line.split(None, 3)
        if len(parts) < 3 or parts[1] not in _METADATA:
            continue
        value = parts[3].decode(errors="replace").strip() if len(parts) > 3 else ""
        name = parts[2].decode(errors="replace").strip('"')
        declared.setdefault(name, {})[_METADATA[parts[1]]] = value
    families = {}
    for name, known in declared.items():
        kind = known.get("type", "").lower()
        families[name] = Family(
            type=kind if kind and kind != "untyped" else "unknown",
            unit=known.get("unit", ""),
            help=known.get("help", ""),
        )
    return families
