"""Prometheus rule files: text in, checked frozen rules out.

The format is Prometheus' own (https://prometheus.io/docs/prometheus/latest/configuration/recording_rules/), read as
strictly as `promtool check rules` does and a little stricter: what we would not evaluate as Prometheus does is refused.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from agent.core.alerts.templates import Template, TemplateError, compile_template
from agent.core.metrics.promql import Expr, QueryError, longest_reach_ms, parse
from agent.core.metrics.samples import Labels
from agent.core.ports import ConfigError

MS = {"y": 365 * 86_400_000, "w": 7 * 86_400_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_DURATION = re.compile(r"0|(?:(\d+)y)?(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?(?:(\d+)ms)?")
_METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_GROUP_FIELDS = ("name", "interval", "limit", "rules")
_ALERT_FIELDS = ("alert", "expr", "for", "keep_firing_for", "labels", "annotations")
_RECORD_FIELDS = ("record", "expr", "labels")


class RuleFileError(ConfigError):
    """A rule file says something we refuse. The message names the file, the group and the rule."""

    def __init__(self, where: str, expected: str) -> None:
        super().__init__("rules.files", f"{where}: {expected}")


@dataclass(frozen=True, slots=True)
class KeptHistory:
    """How far back the series history reaches, and the setting that says so (for messages)."""

    reach_ms: int = 30 * 60_000
    setting: str = "storage.history_seconds"


@dataclass(frozen=True, slots=True)
class RecordingRule:
    """`record`: the result becomes a new series of that name. `labels` replace those of the result."""

    record: str
    query: str
    expr: Expr
    labels: Labels

    @property
    def name(self) -> str:
        return self.record


@dataclass(frozen=True, slots=True)
class AlertRule:
    """`alert`: each label set the expression returns is an alert. Durations are milliseconds."""

    alert: str
    query: str
    expr: Expr
    for_ms: int
    keep_firing_for_ms: int
    labels: tuple[tuple[str, Template], ...]
    annotations: tuple[tuple[str, Template], ...]

    @property
    def name(self) -> str:
        return self.alert


Rule = RecordingRule | AlertRule


@dataclass(frozen=True, slots=True)
class RuleGroup:
    """Rules evaluated in order at one instant. `interval_ms` None means the default; `limit` 0 means none."""

    name: str
    file: str
    interval_ms: int | None
    limit: int
    rules: tuple[Rule, ...]


def parse_duration_ms(text: str) -> int:
    """Prometheus' durations: `5m`, `1h30m`, `0`. Raises `ValueError`."""
    match = _DURATION.fullmatch(text)
    if match is None or not text:
        raise ValueError(f"`{text}` is not a duration; write for example 30s, 5m or 1h30m")
    return sum(int(count) * unit for count, unit in zip(match.groups(), MS.values(), strict=True) if count)


def parse_rule_file(text: str, file: str, kept: KeptHistory | None = None) -> tuple[RuleGroup, ...]:
    """All groups of one file. With `kept`, a query that looks further back is refused. Raises `RuleFileError`."""
    document = _load(text, file)
    if document == "":
        return ()
    top = _mapping(document, file, ("groups",), "the file")
    groups: dict[str, RuleGroup] = {}
    for index, entry in enumerate(_sequence(top.get("groups", ""), file, "groups"), 1):
        group = _group(entry, file, index, kept)
        if group.name in groups:
            raise RuleFileError(file, f"group `{group.name}` is there twice; names of groups are unique in a file")
        groups[group.name] = group
    return tuple(groups.values())


class _Loader(getattr(yaml, "CBaseLoader", yaml.BaseLoader)):  # type: ignore[misc]  # the C loader may be missing
    """Every scalar stays the text it is, as Go's decoder reads them into string fields; no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                raise yaml.MarkedYAMLError(problem=f"key `{name}` is there twice", problem_mark=key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep=deep)  # type: ignore[no-any-return]  # untyped base class


def _load(text: str, file: str) -> Any:
    try:
        found = yaml.load(text, Loader=_Loader)  # which makes only texts, lists and mappings
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{file}, line {mark.line + 1}, column {mark.column + 1}" if mark else file
        raise RuleFileError(where, f"not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise RuleFileError(file, f"not valid YAML: {error}") from None
    return "" if found is None else found


def _mapping(value: Any, where: str, allowed: tuple[str, ...], what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise RuleFileError(where, f"{what} has to be a mapping with the fields {', '.join(allowed)}")
    for name in value:
        if name not in allowed:
            raise RuleFileError(where, f"unknown field `{name}` in {what}; allowed are {', '.join(allowed)}")
    return value


def _sequence(value: Any, where: str, what: str) -> list[Any]:
    if value == "":
        return []
    if not isinstance(value, list):
        raise RuleFileError(where, f"`{what}` has to be a list")
    return value


def _text(fields: Mapping[str, Any], name: str, where: str) -> str:
    value = fields.get(name, "")
    if not isinstance(value, str):
        raise RuleFileError(where, f"`{name}` has to be a text, not a {type(value).__name__}")
    return value


def _duration(fields: Mapping[str, Any], name: str, where: str) -> int | None:
    text = _text(fields, name, where)
    try:
        return parse_duration_ms(text) if text else None
    except ValueError as error:
        raise RuleFileError(where, f"`{name}`: {error}") from None


def _group(entry: Any, file: str, index: int, kept: KeptHistory | None) -> RuleGroup:
    fields = _mapping(entry, f"{file}: group {index}", _GROUP_FIELDS, "the group")
    name = _text(fields, "name", f"{file}: group {index}")
    if not name:
        raise RuleFileError(f"{file}: group {index}", "a group needs a `name`")
    where = f"{file}: group `{name}`"
    limit = _text(fields, "limit", where) or "0"
    if not limit.isdecimal():
        raise RuleFileError(where, f"`limit`: `{limit}` is not a whole number of results (0 means no limit)")
    rules: list[Rule] = []
    for number, item in enumerate(_sequence(fields.get("rules", ""), where, "rules"), 1):
        rule = _rule(item, where, number, kept)
        for earlier in rules:
            if (type(earlier), earlier.name, _sources(earlier)) == (type(rule), rule.name, _sources(rule)):
                raise RuleFileError(
                    where, f"two rules named `{rule.name}` with the same labels; their results would mix"
                )
        rules.append(rule)
    return RuleGroup(name, file, _duration(fields, "interval", where) or None, int(limit), tuple(rules))


def _sources(rule: Rule) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, v if isinstance(v, str) else v.source) for name, v in rule.labels))


def _rule(item: Any, where: str, number: int, kept: KeptHistory | None) -> Rule:
    here = f"{where}, rule {number}"
    if not isinstance(item, dict) or ("alert" in item) == ("record" in item):
        raise RuleFileError(here, "a rule is a mapping with exactly one of the fields `alert` and `record`")
    kind = "alert" if "alert" in item else "record"
    fields = _mapping(item, here, _ALERT_FIELDS if kind == "alert" else _RECORD_FIELDS, f"a rule with `{kind}`")
    name = _text(fields, kind, here)
    here = f"{here} `{name}`"
    if not name:
        raise RuleFileError(here, f"`{kind}` needs a name")
    if kind == "record" and not _METRIC.fullmatch(name):
        raise RuleFileError(here, f"`{name}` is not a metric name; use letters, digits, `_` and `:`")
    query = _text(fields, "expr", here)
    expr = _expression(query, here, kept)
    labels = _pairs(fields, "labels", here)
    if kind == "record":
        return RecordingRule(name, query, expr, labels)
    annotations = _pairs(fields, "annotations", here)
    return AlertRule(
        name,
        query,
        expr,
        _duration(fields, "for", here) or 0,
        _duration(fields, "keep_firing_for", here) or 0,
        tuple((n, _template(v, f"{here}, label `{n}`")) for n, v in labels),
        tuple((n, _template(v, f"{here}, annotation `{n}`")) for n, v in annotations),
    )


def _expression(query: str, where: str, kept: KeptHistory | None) -> Expr:
    if not query.strip():
        raise RuleFileError(where, "a rule needs an `expr`")
    try:
        expr = parse(query)
    except QueryError as error:
        raise RuleFileError(where, f"`expr`: {error}") from None
    if expr.kind not in ("scalar", "vector"):
        raise RuleFileError(where, f"`expr` gives a {expr.kind}; a rule needs a number or an instant vector")
    reach = longest_reach_ms(expr)
    if kept is not None and reach > kept.reach_ms:
        raise RuleFileError(
            where,
            f"`expr` looks {reach / 1000:g} s back, the history kept is {kept.reach_ms / 1000:g} s; "
            f"raise `{kept.setting}` or use a shorter range",
        )
    return expr


def _pairs(fields: Mapping[str, Any], name: str, where: str) -> Labels:
    value = fields.get(name, "")
    if value == "":
        return ()
    if not isinstance(value, dict):
        raise RuleFileError(where, f"`{name}` has to be a mapping of names to texts")
    for key, text in value.items():
        if not isinstance(key, str) or not _LABEL.fullmatch(key) or (name == "labels" and key == "__name__"):
            raise RuleFileError(
                where, f"`{key}` is not a name for {name}; use letters, digits and `_`, not first a digit"
            )
        if name == "labels" and key == "alertname":
            raise RuleFileError(where, "label `alertname` is set by the rule's name; remove it")
        if not isinstance(text, str):
            raise RuleFileError(where, f"`{key}` in `{name}` has to be a text, not a {type(text).__name__}")
    return tuple(sorted(value.items()))


def _template(text: str, where: str) -> Template:
    try:
        return compile_template(text)
    except TemplateError as error:
        raise RuleFileError(where, str(error)) from None
