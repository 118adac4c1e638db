"""Parsing a metrics page again and again: ours against prometheus_client's parser, on a recorded vLLM 0.33 page.

From each page to the next a fifth of the sample lines has another value, as on an engine under load; no page is parsed
twice. Both sides make an object for every sample and keep them. Rounds of the two sides alternate.
"""

import gc
import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter

from prometheus_client.parser import text_string_to_metric_families

from agent.core.metrics.exposition import Exposition
from bench.figures import Figure

PAGE = Path(__file__).resolve().parents[1] / "tests/engines/vllm/0.33.0/metrics.prom"
CHANGED = 0.2  # of the sample lines, from one page to the next
ROUNDS = 7
OUR_PAGES = 100
THEIR_PAGES = 5
BAR_TIMES = 30


def pages(count: int, dice: random.Random) -> list[bytes]:
    """Pages as successive scrapes would bring them."""
    lines = PAGE.read_bytes().split(b"\n")
    places = [at for at, line in enumerate(lines) if line and not line.startswith(b"#")]
    found = []
    for _ in range(count):
        for at in dice.sample(places, int(len(places) * CHANGED)):
            head, _, value = lines[at].rpartition(b" ")
            lines[at] = head + b" " + repr(float(value) + dice.randrange(1, 1000)).encode()
        found.append(b"\n".join(lines))
    assert all(before != after for before, after in pairwise(found))
    return found


def _seconds(parse: Callable[[bytes], object], these: list[bytes]) -> float:
    """Seconds for each page, its result kept until the next."""
    gc.collect()
    began = perf_counter()
    for page in these:
        kept = parse(page)
    seconds = (perf_counter() - began) / len(these)
    assert kept is not None
    return seconds


def _theirs(page: bytes) -> object:
    return [sample for family in text_string_to_metric_families(page.decode()) for sample in family.samples]


def _first(page: bytes) -> object:
    return Exposition().parse(page)


def run() -> list[Figure]:
    """Medians of several rounds: the second scrape on, and the first scrape of an endpoint."""
    dice = random.Random(33)
    ours, first, theirs = [], [], []
    for _ in range(ROUNDS):
        these = pages(OUR_PAGES + 1, dice)
        exposition = Exposition()
        exposition.parse(these[0])
        ours.append(_seconds(exposition.parse, these[1:]))
        first.append(_seconds(_first, these[:THEIR_PAGES]))
        theirs.append(_seconds(_theirs, these[:THEIR_PAGES]))
    again, peer = median(ours), median(theirs)
    times = "times"
    return [
        Figure(name="exposition_parse", value=again * 1e6, unit="us/page", bar=peer * 1e6 / BAR_TIMES, better="lower"),
        Figure(name="exposition_vs_peer", value=peer / again, unit=times, bar=BAR_TIMES, better="higher"),
        Figure(name="exposition_first_vs_peer", value=peer / median(first), unit=times, bar=1.0, better="higher"),
    ]
