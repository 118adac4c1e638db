"""Random series and queries in, Prometheus' own answers out: `promtool test rules` as the judge of our PromQL.

Debian's Prometheus 2.42 counts a sample exactly on the left edge of a range, Prometheus 3 (and we) do not. So samples
lie on multiples of 15 s, evaluations 7 s beside them, and steps of subqueries never meet both.
"""

import json
import math
import random
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agent.core.metrics.block import STALE
from agent.core.metrics.matchers import Matcher
from agent.core.metrics.promql import Matrix, QueryError, Scalar, Text, Vector, evaluate, parse
from agent.core.metrics.samples import Labels
from agent.core.metrics.series import SeriesWindow

INTERVAL_MS = 15_000
ROWS = 60
INSTANTS_MS = (7_000, 67_000, 307_000, 457_000, 607_000, 877_000)
NEVER = [{"labels": "never{}", "value": 42}]  # wrong on purpose: promtool prints only wrong expectations

Answer = dict[Labels, float] | str  # a vector (a scalar has no labels), or "error"
Points = list[float | str | None]  # one for each interval: a value, "stale", or nothing


@dataclass(frozen=True, slots=True)
class Question:
    expr: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class World:
    """Series by their labels. Also the `Source` that our engine asks."""

    series: dict[Labels, Points]

    def select(self, matchers: Sequence[Matcher], start_ms: int, end_ms: int) -> list[SeriesWindow]:
        found = []
        for labels, points in self.series.items():
            if not all(matcher.matches_labels(labels) for matcher in matchers):
                continue
            held = [(row * INTERVAL_MS, point) for row, point in enumerate(points) if point is not None]
            kept = [(at, STALE if point == "stale" else point) for at, point in held if start_ms < at <= end_ms]
            if kept:
                times = np.array([at for at, _ in kept], dtype=np.int64)
                found.append(SeriesWindow(labels, times, np.array([value for _, value in kept], dtype=np.float64)))
        return found


def ours(world: World, question: Question) -> Answer:
    """What our engine answers."""
    try:
        value = evaluate(parse(question.expr), world, question.at_ms)
    except QueryError:
        return "error"
    match value:
        case Scalar(value=number):
            return {(): number}
        case Vector():
            return dict(value.samples)
        case Text() | Matrix():
            raise AssertionError("the grammar makes vectors and scalars only")


def theirs(promtool: str, folder: Path, world: World, questions: Sequence[Question]) -> list[Answer]:
    """What Prometheus answers: every expectation is wrong, and promtool prints what it got instead."""
    tests = [
        {"expr": question.expr, "eval_time": f"{question.at_ms}ms", "exp_samples": NEVER} for question in questions
    ]
    # promtool loads samples up to the last multiple of its evaluation interval before the last evaluation.
    tests.append({"expr": "never", "eval_time": f"{ROWS * INTERVAL_MS}ms", "exp_samples": []})
    series = [
        {"series": _write_labels(labels), "values": " ".join(map(_write_point, points))}
        for labels, points in world.series.items()
    ]
    file = folder / "oracle.test.yaml"  # JSON is YAML
    file.write_text(
        json.dumps(
            {
                "evaluation_interval": "1m",
                "tests": [{"interval": f"{INTERVAL_MS}ms", "input_series": series, "promql_expr_test": tests}],
            }
        )
    )
    done = subprocess.run([promtool, "test", "rules", str(file)], capture_output=True, text=True, timeout=120)
    answers = [_read_answer(part) for part in done.stderr.split("\n    expr: ")[1:]]
    assert len(answers) == len(questions), done.stderr[-2000:] + done.stdout[-2000:]
    return answers


def alike(one: Answer, other: Answer) -> bool:
    """Equal but for the last digits."""
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    return one.keys() == other.keys() and all(_close(value, other[labels]) for labels, value in one.items())


def stricter(question: Question, one: Answer) -> bool:
    """Whether Prometheus 3 (and we) may call this query ambiguous where 2.42 did not.

    Since 3, elements that match twice are an error also where the comparison then filters them out.
    """
    return one == "error" and any(op in question.expr for op in ("==", "!=", ">", "<"))


def _close(a: float, b: float) -> bool:
    if math.isnan(a) or math.isnan(b):
        return math.isnan(a) and math.isnan(b)
    return a == b or abs(a - b) <= 1e-9 * max(abs(a), abs(b), 1e-3)


def _write_labels(labels: Labels) -> str:
    name = dict(labels)["__name__"]
    return name + "{" + ",".join(f'{key}="{value}"' for key, value in labels if key != "__name__") + "}"


def _write_point(point: float | str | None) -> str:
    if point is None:
        return "_"
    if isinstance(point, str):
        return point
    return repr(point).replace("nan", "NaN").replace("inf", "Inf")


def _read_answer(text: str) -> Answer:
    head, found, got = text.partition("got: ")
    if not found:
        assert "err: " in head, text
        return "error"
    got = got.split("\n", 1)[0].strip()
    if got == "nil":
        return {}
    answer: dict[Labels, float] = {}
    for inside, value in re.findall(r"\{((?:[^\"}]|\"(?:\\.|[^\"])*\")*)\} (\S+?)(?:, |$)", got):
        labels = tuple(sorted((k, json.loads(v)) for k, v in re.findall(r'(\w+)=("(?:\\.|[^"])*")', inside)))
        assert labels not in answer, text
        answer[labels] = float(value)
    assert answer, text
    return answer


def make_world(rng: random.Random) -> World:
    """Gauges, counters and histograms with gaps, restarts, late starts, early ends and stale markers."""
    series: dict[Labels, Points] = {}
    for name, counter in (("alpha", False), ("beta", False), ("gamma_total", True)):
        combinations = [(a, b, c) for a in ("x", "y", "") for b in ("1", "2") for c in ("p", "q", "")]
        for a, b, c in rng.sample(combinations, rng.randint(2, 6)):
            labels = tuple(sorted((k, v) for k, v in (("__name__", name), ("a", a), ("b", b), ("c", c)) if v))
            series[labels] = _counter(rng) if counter else _gauge(rng)
    for b in ("1", "2", "3", "4"):
        series[(("__name__", "unique"), ("b", b))] = [rng.uniform(-100, 100) for _ in range(ROWS)]
    for a in ("x", "y"):
        for le, points in zip(("0.1", "1", "2.5", "+Inf"), _histogram(rng, 4), strict=True):
            series[(("__name__", "h_bucket"), ("a", a), ("le", le))] = points
    return World(series)


def _gauge(rng: random.Random) -> Points:
    odd = rng.random() < 0.15
    points: Points = [rng.choice((rng.uniform(-100, 100), float(rng.randint(-3, 3)), 85.0)) for _ in range(ROWS)]
    if odd:
        points = [math.nan if rng.random() < 0.2 else point for point in points]
    return _holed(rng, points) if rng.random() < 0.5 else points


def _counter(rng: random.Random) -> Points:
    # The releases guess differently where a counter is first seen late in a range, near zero. So a counter here begins
    # far from zero, and either restarts or has gaps.
    holed = rng.random() < 0.5
    value = 1e6
    points: Points = []
    for _ in range(ROWS):
        value = 3.0 if points and not holed and rng.random() < 0.05 else value + rng.choice((0.0, 1.0, 2.5, 7.0))
        points.append(value)
    return _holed(rng, points) if holed else points


def _holed(rng: random.Random, points: Points) -> Points:
    points = [None if (chance := rng.random()) < 0.1 else "stale" if chance < 0.13 else point for point in points]
    cut = rng.randrange(len(points))
    shape = rng.random()
    if shape < 0.2:
        return [None] * cut + points[cut:]
    if shape < 0.4:
        return points[:cut] + [None] * (len(points) - cut)
    return points


def _histogram(rng: random.Random, count: int) -> list[Points]:
    totals = [1000.0] * count
    columns: list[Points] = [[] for _ in range(count)]
    for _ in range(ROWS):
        added = 0.0
        for index, column in enumerate(columns):
            added += rng.choice((0, 0, 1, 4))
            totals[index] += added
            column.append(totals[index])
    return columns


class Grammar:
    """Random queries over `make_world`. `used` collects the functions, aggregations and operators that occurred."""

    RATES = ("rate", "irate", "increase", "delta", "idelta", "deriv", "resets", "changes")
    OVER_TIME = tuple(
        f"{name}_over_time"
        for name in ("avg", "min", "max", "sum", "count", "last", "present", "stddev", "stdvar", "absent")
    )
    ELEMENTWISE = ("abs", "ceil", "floor", "exp", "ln", "log2", "log10", "sqrt", "sgn", "round")
    CALENDAR = ("day_of_month", "days_in_month", "hour", "minute", "month", "year", "day_of_week", "day_of_year")
    ARITHMETIC = ("+", "-", "*", "/", "%", "^", "atan2")
    COMPARISONS = ("==", "!=", ">", "<", ">=", "<=")
    RANGES = ("1m", "2m", "5m", "90s", "45s", "10m")

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.used: set[str] = set()
        self._subqueries = 0

    def question(self) -> Question:
        """One query and its instant."""
        return Question(self._vector(self._rng.randint(0, 3)), self._rng.choice(INSTANTS_MS))

    def _pick(self, *options: str) -> str:
        return self._rng.choice(options)

    def _use(self, *options: str) -> str:
        name = self._rng.choice(options)
        self.used.add(name)
        return name

    def _names(self) -> str:
        return ", ".join(self._rng.sample(("a", "b", "c", "le"), self._rng.randint(0, 2)))

    def _selector(self) -> str:
        matchers = []
        for _ in range(self._rng.choice((0, 0, 0, 1, 1, 2))):
            label = self._pick("a", "b", "c", "le", "absent")
            test = self._pick('="x"', '!="x"', '=~"x|y"', '=~"x.*|1"', '!~"y|2"', '=""', '=~".+"', '!=""', '="1"')
            matchers.append(label + test)
        name = self._pick("alpha", "beta", "gamma_total", "h_bucket")
        if self._rng.random() < 0.05:
            matchers, name = ['__name__=~"alpha|beta"', *matchers], ""
        return f"{name}{{{','.join(matchers)}}}"

    def _modifiers(self) -> str:
        if self._subqueries:  # looking forward, steps would meet samples; some `@` in subqueries 2.42 gets wrong
            return " offset " + self._pick("1m", "30s") if self._rng.random() < 0.15 else ""
        text = ""
        if self._rng.random() < 0.15:
            text += " offset " + self._pick("1m", "30s", "-1m", "-45s", "2m15s")
        if self._rng.random() < 0.1:
            text += " @ " + self._pick("start()", "end()", "307", "607")
        return text

    def _vector(self, depth: int) -> str:
        chance = self._rng.random()
        if depth <= 0 or chance < 0.15:
            return self._selector() + self._modifiers()
        if chance < 0.32:
            return self._range_call(depth)
        if chance < 0.5:
            return self._aggregation(depth)
        if chance < 0.75:
            return self._binary(depth)
        if chance < 0.95:
            return self._call(depth)
        return f"-({self._vector(depth - 1)})"

    def _range_call(self, depth: int) -> str:
        subquery = self._rng.random() < 0.2
        span = f"{self._selector()}[{self._pick(*self.RANGES)}]" + self._modifiers()
        if subquery:
            self._subqueries += 1
            inner = f"clamp({self._vector(depth - 1)}, -1e9, 1e9)"
            span = f"({inner})[{self._pick('110s', '5m', '3m30s')}:61s]" + self._modifiers()
            self._subqueries -= 1
        chance = self._rng.random()
        if chance < 0.08 and not subquery:
            return f"{self._use('predict_linear')}({span}, {self._pick('60', '-30', '0', '3600')})"
        if chance < 0.16:
            return f"{self._use('quantile_over_time')}({self._pick('0', '0.5', '0.9', '1', '-1', '2')}, {span})"
        # Float noise of what a subquery computes must not look like a restart of a counter.
        names = (*self.RATES, *self.OVER_TIME) if not subquery else ("delta", *self.OVER_TIME)
        name = self._use(*names)
        if name in ("rate", "increase"):  # see `_counter`
            span = f"gamma_total[{self._pick(*self.RANGES)}]" + self._modifiers()
        return f"{name}({span})"

    def _aggregation(self, depth: int) -> str:
        grouping = self._pick("", "", f"by ({self._names()})", f"without ({self._names()})", f"by ({self._names()})")
        chance = self._rng.random()
        if chance < 0.1:  # of equal values it is not defined which is chosen
            best = f"{self._use('topk', 'bottomk')} {grouping} ({self._pick('0', '1', '2', '3')}, unique)"
            return f"sum by (b) ({best})"
        inner = self._vector(depth - 1)
        if chance < 0.18:
            q = self._pick("0", "0.5", "0.9", "1", "-0.5", "1.5")
            # Of exactly one element, 2.42 adds nought times its neighbour, which is NaN for an infinite one.
            return f"{self._use('quantile')} {grouping} ({q}, clamp({inner}, -1e9, 1e9))"
        if chance < 0.25:
            return f'{self._use("count_values")} {grouping} ("{self._pick("v", "a")}", round({self._selector()}))'
        op = self._use("sum", "avg", "min", "max", "count", "group", "stddev", "stdvar")
        if op in ("stddev", "stdvar"):  # of a single NaN, 2.42 says 0
            inner = f"gamma_total or {self._pick('h_bucket', 'clamp(gamma_total, 3, 50)')}"
        return f"{op} {grouping} ({inner})"

    def _scalar(self) -> str:
        number = self._pick("0", "1", "2", "-3.5", "1e3", "Inf", "NaN", "(1 + 2)", "(3 > bool 2)", "2 ^ -1", "(7 % 4)")
        if self._rng.random() < 0.3:
            return f"{self._use('scalar')}({self._selector()})"
        return f"{self._use('time')}()" if self._rng.random() < 0.1 else number

    def _binary(self, depth: int) -> str:
        left, right = self._vector(depth - 1), self._vector(depth - 1)
        if self._rng.random() < 0.25:
            matching = self._pick("", "", f"on({self._names()})", f"ignoring({self._names()})")
            return f"({left}) {self._use('and', 'or', 'unless')} {matching} ({right})"
        op = self._use(*self.ARITHMETIC, *self.COMPARISONS)
        text = self._operation(left, op, right)
        return f"1 * ({text})" if op == "atan2" else text  # 2.42 forgot that atan2 drops the metric name

    def _operation(self, left: str, op: str, right: str) -> str:
        if op in self.COMPARISONS and self._rng.random() < 0.4:
            op += " bool"
        chance = self._rng.random()
        if chance < 0.3:
            return f"({left}) {op} {self._scalar()}"
        if chance < 0.45:
            return f"{self._scalar()} {op} ({right})"
        matching = self._pick("", "", "on(a, b, c)", f"on({self._names()})", "ignoring(c)", "on(a)")
        if matching and self._rng.random() < 0.5:
            matching += " " + self._pick("group_left", "group_right") + self._pick("", "(le)", "(absent)", "()")
        right = self._pick(right, left, f"sum by (a) ({self._selector()})", f"max by (a, b, c) ({self._selector()})")
        return f"({left}) {op} {matching} ({right})"

    def _call(self, depth: int) -> str:
        inner = self._vector(depth - 1)
        match self._rng.randrange(12):
            case 0 | 1 | 2:
                return f"{self._use(*self.ELEMENTWISE)}({inner})"
            case 3:
                return f"round({inner}, {self._pick('5', '0.5', '10')})"
            case 4:
                low, high = self._pick("-5", "0", "90"), self._pick("10", "50")
                name = self._use("clamp", "clamp_min", "clamp_max")
                return f"{name}({inner}, {low}, {high})" if name == "clamp" else f"{name}({inner}, {self._scalar()})"
            case 5:
                return self._pick(f"absent({inner})", f"vector({self._scalar()})", 'absent(no{a="x",b=~"y"})')
            case 6:
                inner = self._pick(self._selector(), f"({inner}) + 0")  # not `@` with an offset: theirs is wrong
                return f"{self._use('timestamp')}({inner})"
            case 7 | 8:
                buckets = self._pick(f"rate(h_bucket[{self._pick(*self.RANGES)}])", "h_bucket", inner)
                return f"{self._use('histogram_quantile')}({self._pick('0', '0.5', '0.9', '1', '-1', '2')}, {buckets})"
            case 9:
                target, source = self._pick("a", "n", "b"), self._pick("a", "b", "absent")
                text, pattern = self._pick("$1", "z-$1", "", "${1}k", "$1k", "$$"), self._pick("(.*)", "(x).*", "x|y")
                return f'{self._use("label_replace")}({inner}, "{target}", "{text}", "{source}", "{pattern}")'
            case 10:
                sources = self._pick("", ', "b"', ', "c", "a"')
                return f'{self._use("label_join")}({inner}, "{self._pick("n", "a")}", "-", "a"{sources})'
            case _:
                name = self._use(*self.CALENDAR, "sort", "sort_desc", "absent", "vector")
                if name == "vector":
                    return f"vector({self._scalar()})"
                if name in self.CALENDAR:
                    return f"{name}({self._pick('', 'vector(1709251200)', 'timestamp(alpha) * 1e5', 'h_bucket * 1e4')})"
                return f"{name}({inner})"
