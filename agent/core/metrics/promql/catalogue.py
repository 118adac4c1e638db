"""Which functions and aggregations we answer, and what they take; everything else is refused by name."""

from dataclasses import dataclass

from agent.core.metrics.promql.tree import Kind

AGGREGATIONS = frozenset(
    ("sum", "avg", "min", "max", "count", "group", "stddev", "stdvar", "topk", "bottomk", "quantile", "count_values")
)
PARAMETERS: dict[str, Kind] = {"topk": "scalar", "bottomk": "scalar", "quantile": "scalar", "count_values": "string"}
_ANY_NUMBER = 1000


@dataclass(frozen=True, slots=True)
class Signature:
    """Kinds of the arguments; the last kind repeats up to `most`."""

    kinds: tuple[Kind, ...]
    least: int
    most: int
    result: Kind

    def kind_of(self, index: int) -> Kind:
        """Kind of the argument at `index`."""
        return self.kinds[min(index, len(self.kinds) - 1)]


def _fixed(*kinds: Kind, result: Kind = "vector") -> Signature:
    return Signature(kinds, len(kinds), len(kinds), result)


OVER_TIME = ("avg", "min", "max", "sum", "count", "last", "present", "stddev", "stdvar", "absent")
RATES = ("rate", "irate", "increase", "delta", "idelta", "deriv", "resets", "changes")
ELEMENTWISE = ("abs", "ceil", "floor", "exp", "ln", "log2", "log10", "sqrt", "sgn")
CALENDAR = ("day_of_month", "day_of_week", "day_of_year", "days_in_month", "hour", "minute", "month", "year")

FUNCTIONS: dict[str, Signature] = {
    **{name: _fixed("matrix") for name in RATES},
    **{f"{name}_over_time": _fixed("matrix") for name in OVER_TIME},
    **{name: _fixed("vector") for name in ELEMENTWISE},
    **{name: Signature(("vector",), 0, 1, "vector") for name in CALENDAR},
    "predict_linear": _fixed("matrix", "scalar"),
    "quantile_over_time": _fixed("scalar", "matrix"),
    "histogram_quantile": _fixed("scalar", "vector"),
    "round": Signature(("vector", "scalar"), 1, 2, "vector"),
    "clamp": _fixed("vector", "scalar", "scalar"),
    "clamp_min": _fixed("vector", "scalar"),
    "clamp_max": _fixed("vector", "scalar"),
    "absent": _fixed("vector"),
    "scalar": _fixed("vector", result="scalar"),
    "vector": _fixed("scalar"),
    "time": Signature(("scalar",), 0, 0, "scalar"),
    "timestamp": _fixed("vector"),
    "label_replace": _fixed("vector", "string", "string", "string", "string"),
    "label_join": Signature(("vector", "string", "string", "string"), 3, _ANY_NUMBER, "vector"),
    "sort": _fixed("vector"),
    "sort_desc": _fixed("vector"),
}
