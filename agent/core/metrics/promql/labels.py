"""Label sets in, label sets out: dropping, keeping, replacing; and the check that no two elements carry the same."""

import re
from collections.abc import Iterable, Sequence

from agent.core.metrics.promql.values import QueryError, Vector
from agent.core.metrics.regexes import RegexError, compile_regex
from agent.core.metrics.samples import Labels

NAME = "__name__"
METADATA = frozenset((NAME, "__type__", "__unit__"))  # what operations drop: the result is not that metric any more
_REFERENCE = re.compile(r"\$(?:\$|\{(\w+)\}|(\w+))", re.ASCII)


def drop_name(labels: Labels) -> Labels:
    """Without the metric name (and the type and unit that go with it)."""
    return tuple([pair for pair in labels if pair[0] not in METADATA])


def keep(labels: Labels, names: frozenset[str]) -> Labels:
    """Only the labels named."""
    return tuple([pair for pair in labels if pair[0] in names])


def remove(labels: Labels, names: frozenset[str]) -> Labels:
    """Without the labels named."""
    return tuple([pair for pair in labels if pair[0] not in names])


def get(labels: Labels, name: str) -> str:
    """Value of a label, empty when it is absent."""
    return next((value for key, value in labels if key == name), "")


def put(labels: Labels, name: str, value: str) -> Labels:
    """With one label set; an empty value removes it."""
    rest = [pair for pair in labels if pair[0] != name]
    if value:
        rest.append((name, value))
        rest.sort()
    return tuple(rest)


def show(labels: Labels) -> str:
    """As people write it: `name{a="b"}`."""
    inside = ", ".join(f'{key}="{value}"' for key, value in labels if key != NAME)
    return f"{get(labels, NAME)}{{{inside}}}"


def ensure_unique(labels: Sequence[Labels], what: str) -> None:
    """Raise `QueryError` when two elements have the same label set."""
    if len(set(labels)) == len(labels):
        return
    seen: set[Labels] = set()
    for one in labels:
        if one in seen:
            raise QueryError(f"{what} gives two elements with the same labels {show(one)}; tell them apart by a label")
        seen.add(one)


def label_replace(vector: Vector, target: str, replacement: str, source: str, pattern: str) -> Vector:
    """Set `target` to `replacement` where the whole value of `source` matches; `$1` and `${name}` mean groups."""
    if not target:
        raise QueryError("label_replace needs the name of the label to set")
    try:
        regex = compile_regex(pattern)
    except RegexError as error:
        raise QueryError(f"label_replace, pattern {pattern!r}: {error}") from None
    found = []
    for labels in vector.labels:
        match = regex.fullmatch(get(labels, source))
        found.append(labels if match is None else put(labels, target, _expand(replacement, match)))
    ensure_unique(found, "label_replace")
    return Vector(found, vector.values)


def label_join(vector: Vector, target: str, separator: str, sources: Iterable[str]) -> Vector:
    """Set `target` to the values of `sources`, joined."""
    names = list(sources)
    if not target or not all(names):
        raise QueryError("label_join needs the names of labels, not empty texts")
    found = [put(labels, target, separator.join(get(labels, name) for name in names)) for labels in vector.labels]
    ensure_unique(found, "label_join")
    return Vector(found, vector.values)


def _expand(template: str, match: "re.Match[str]") -> str:
    """`$1`, `${1}`, `$name`, `$$` as Go's regexp expands them: the longest name counts, unknown groups are empty."""

    def group(reference: "re.Match[str]") -> str:
        name = reference[1] or reference[2]
        if name is None:
            return "$"
        if name.isdecimal():
            return (match[int(name)] or "") if int(name) <= len(match.groups()) else ""
        return match.groupdict().get(name) or ""

    return _REFERENCE.sub(group, template)
