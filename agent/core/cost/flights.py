"""Live requests and a cell of time in; which of them were in flight in it, and for how long, as arrays, out."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from agent.core.cost.closed import IN_FLIGHT
from agent.core.cost.exact import Ints
from agent.core.cost.live import Live


@dataclass(slots=True)
class Flights:
    """The proxied requests of one engine in a cell, those of one place beside each other; `begins` and `ends` in it.

    `starts`: first of each place, of which `keys` tells model, tenant and outcome. `work`: ns, None: not known.
    """

    requests: list[Live]
    begins: Ints
    ends: Ints
    starts: Ints
    keys: list[tuple[str, str, str]]
    work: Ints | None = None


def flights_of(lives: Iterable[Live], start_ns: int, end_ns: int) -> Flights | None:
    """Requests in flight in [start, end), by place and id, in whatever order they were told. None: there are none."""
    requests: list[Live] = []
    ids: list[str] = []
    begins: list[int] = []
    ends: list[int] = []
    keys: list[tuple[str, str, str]] = []
    for request in lives:  # all at once: each look at one of so many costs a miss of the cache
        begin, end, outcome = request.started_ns, request.ended_ns, request.outcome
        if begin >= end_ns or outcome == "rejected":
            continue  # a rejected one never ran
        if begin < start_ns:
            begin = start_ns
        if end is None or end > end_ns:
            end = end_ns
        if begin < end:
            request.seen_ns += end - begin
            requests.append(request)
            ids.append(request.id)
            begins.append(begin)
            ends.append(end)
            keys.append((request.model, request.tenant, outcome or IN_FLIGHT))
    if not requests:
        return None
    places = {key: number for number, key in enumerate(sorted(set(keys)))}
    place = np.array([places[key] for key in keys], dtype=np.int64)
    by_id = np.arange(len(ids))
    if ids != sorted(ids):  # they are made in ascending order
        by_id = np.array(sorted(range(len(ids)), key=ids.__getitem__), dtype=np.int64)
    order = by_id[np.argsort(place[by_id], kind="stable")]
    bounds = np.array((begins, ends), dtype=np.int64)[:, order]
    ordered = [requests[i] for i in order.tolist()]
    return Flights(ordered, bounds[0], bounds[1], np.flatnonzero(np.diff(place[order], prepend=-1)), list(places))


def merged(flights: Iterable[Flights]) -> int:
    """Length of the union of the in-flight intervals."""
    found = list(flights)
    if not found:
        return 0
    begins = found[0].begins if len(found) == 1 else np.concatenate([one.begins for one in found])
    ends = found[0].ends if len(found) == 1 else np.concatenate([one.ends for one in found])
    order = np.argsort(begins)
    begins, reached = begins[order], np.maximum.accumulate(ends[order])
    gaps = begins[1:] - reached[:-1]
    return int(reached[-1] - begins[0] - gaps[gaps > 0].sum())
