"""Bucket series in, quantiles out: classic histograms.

Interpolation is linear inside a bucket, from 0 for a lowest bucket with a positive bound; a rank in the last bucket
gives the highest finite bound. Buckets that count less than the one below (racing scrapes, float noise) are lifted.
"""

import math
import sys

import numpy as np

from agent.core.metrics.promql.labels import METADATA, get, remove
from agent.core.metrics.promql.values import Vector
from agent.core.metrics.samples import Labels

_NOISE = 1e-12  # relative difference of two counts that is float noise
_WITHOUT_LE = METADATA | {"le"}


def histogram_quantile(q: float, vector: Vector) -> Vector:
    """The `q` quantile of each histogram in the vector; series without a readable `le` are left out."""
    groups: dict[Labels, list[tuple[float, float]]] = {}
    for labels, count in zip(vector.labels, vector.values.tolist(), strict=True):
        bound = _bound(get(labels, "le"))
        if bound is not None:
            groups.setdefault(remove(labels, _WITHOUT_LE), []).append((bound, count))
    values = [_quantile(q, buckets) for buckets in groups.values()]
    return Vector(list(groups), np.array(values, dtype=np.float64))


def _bound(text: str) -> float | None:
    if not text or "_" in text or text != text.strip():
        return None
    try:
        return float(text)
    except ValueError:
        return None


def _quantile(q: float, buckets: list[tuple[float, float]]) -> float:
    if math.isnan(q):
        return math.nan
    if q < 0:
        return -math.inf
    if q > 1:
        return math.inf
    bounds, counts = _merged(buckets)
    if bounds[-1] != math.inf or len(bounds) < 2:
        return math.nan
    _lift(counts)
    if counts[-1] == 0:
        return math.nan
    rank = q * counts[-1]
    top = len(bounds) - 1
    found = _search(counts, rank, top)
    if found == top:
        return bounds[-2]
    if found == 0:
        return bounds[0] if bounds[0] <= 0 else bounds[0] * _share(rank, counts[0])
    start, inside = bounds[found - 1], counts[found] - counts[found - 1]
    return start + (bounds[found] - start) * _share(rank - counts[found - 1], inside)


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _merged(buckets: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Ascending bounds and their counts; `le="1"` and `le="1.0"` are one bucket."""
    bounds: list[float] = []
    counts: list[float] = []
    for bound, count in sorted(buckets, key=lambda bucket: bucket[0]):
        if bounds and bounds[-1] == bound:
            counts[-1] += count
        else:
            bounds.append(bound)
            counts.append(count)
    return bounds, counts


def _lift(counts: list[float]) -> None:
    """Make the counts ascend: smaller ones, and ones that differ by float noise only, become the one before."""
    before = counts[0]
    for index in range(1, len(counts)):
        now = counts[index]
        if now < before or _nearly_equal(now, before):
            counts[index] = before
        else:
            before = now


def _nearly_equal(a: float, b: float) -> bool:
    if a == b or (math.isnan(a) and math.isnan(b)):
        return True
    apart, size = abs(a - b), abs(a) + abs(b)
    if a == 0 or b == 0 or size < sys.float_info.min:
        return apart < _NOISE * sys.float_info.min
    return apart / min(size, sys.float_info.max) < _NOISE


def _search(counts: list[float], rank: float, top: int) -> int:
    """First bucket below `top` that holds the rank, by bisection (which also says what a NaN count leads to)."""
    low, high = 0, top
    while low < high:
        middle = (low + high) // 2
        if counts[middle] >= rank:
            high = middle
        else:
            low = middle + 1
    return low
