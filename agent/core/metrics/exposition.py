"""A metrics page in, samples out: Prometheus text and OpenMetrics, read leniently, and fast from the second page on.

Pages of one engine keep their layout: the same series in the same order, other values. An `Exposition` remembers the
layout of the last page (bytes before the value -> series), compares line by line, and reads only lines that changed.
"""

from functools import partial
from itertools import compress
from operator import ne

from agent.core.metrics.exposition_layout import DROPPED, Layout, LayoutBuilder
from agent.core.metrics.exposition_line import shown
from agent.core.metrics.samples import Labels, Sample
from agent.core.metrics.scrape import Scrape

MAX_SAMPLES = 50_000
# Lines for each allowed sample: HELP, TYPE, _created twins and blank lines beside it, with room.
LINES_PER_SAMPLE = 4

_sample = partial(tuple.__new__, Sample)  # Sample(...) without its Python-level constructor


class Exposition:
    """Reads the pages of one endpoint, one after the other. Not thread-safe; one instance for each endpoint.

    `add_labels` are put on every series as Prometheus adds its target labels: a label of the same name on the page
    becomes ``exported_<name>``. Numeric `pid` labels (multiprocess mode of prometheus_client) are taken off; of several
    processes' values a gauge keeps the largest (a process that does not run the engine reports 0 for ever), the other
    types are added up. Of a series given twice the last value holds. Of a page with more than `max_samples` series the
    first ones are read.
    """

    def __init__(self, add_labels: Labels = (), max_samples: int = MAX_SAMPLES) -> None:
        self.add_labels = add_labels
        self.max_samples = max_samples
        self._layout = Layout()

    def parse(self, page: bytes) -> Scrape:
        """Read one page. Never raises on its content: what cannot be read is told in `Scrape.problems`."""
        refusal = not_metrics(page)
        if refusal:
            return Scrape(problems=(refusal,))
        if b"\r" in page:
            page = page.replace(b"\r\n", b"\n")
        max_lines = LINES_PER_SAMPLE * self.max_samples
        lines = page.split(b"\n", max_lines)
        if not self._update(lines):
            # Only what the last page held is remembered: series that are gone do not pile up.
            builder = LayoutBuilder(self.add_labels, self.max_samples, self._layout.series)
            self._layout = builder.build(lines, max_lines)
        return self._layout.scrape()

    def _update(self, lines: list[bytes]) -> bool:
        """Bring the layout's values up to date. False when the page no longer fits it (values may be half new)."""
        layout = self._layout
        if len(lines) != layout.total:
            return False
        heads, slots, samples = layout.heads, layout.slots, layout.samples
        for at in compress(range(len(heads)), map(ne, lines, layout.lines)):
            head, _, number = lines[at].rpartition(b" ")
            if head != heads[at]:
                return False
            slot = slots[at]
            if slot >= 0:
                try:
                    value = float(number)
                except ValueError:
                    return False
                if b"_" in number:  # parse_value, written out: this is the hot line
                    return False
                samples[slot] = _sample((samples[slot][0], value))
            elif slot != DROPPED:
                return False
        layout.lines = lines[: len(heads)]
        return True


def not_metrics(page: bytes) -> str:
    """Says what a page is that is plainly no metrics page; the empty string for what may be one."""
    start = page[:1024].lstrip(b"\xef\xbb\xbf \t\r\n")
    if not start:
        return "the page is empty" if not page[1024:].strip() else ""
    if start[:1] == b"<":
        return f"this is HTML, not metrics: {shown(start.splitlines()[0])}"
    if start.startswith(b"\x1f\x8b"):  # gzip
        return "this is binary data, not metrics"
    if start[:1] == b"[" or (start[:1] == b"{" and _looks_like_json(start)):
        return f"this is JSON, not metrics: {shown(start.splitlines()[0])}"
    return ""


def _looks_like_json(start: bytes) -> bool:
    """Tell `{"a": 1}` from the sample `{"my.metric"} 1`: only JSON has a colon after the first string."""
    inside = start[1:].lstrip()
    if not inside.startswith(b'"'):
        return True
    _, _, after = inside[1:].partition(b'"')
    return after.lstrip()[:1] in (b":", b"")
