from agent.api.charts import Frame
from agent.api.engine_charts import engine_charts
from agent.api.history_view import QUERIES

FRAME = Frame(0, 600_000, 5_000)
NO_CHARTS = {name: {} for name in QUERIES}


def test_a_chart_without_points_says_so() -> None:
    charts = engine_charts("e", {**NO_CHARTS, "requests": {("e",): [(600_000, 2.0)]}}, FRAME)
    assert [chart.note for chart in charts] == ["", *["no data yet"] * 3]


def test_failures_are_drawn_only_when_there_are_any() -> None:
    both = {"requests": {("e",): [(600_000, 2.0)]}, "failures": {("e",): [(600_000, 0.0)]}}
    assert len(engine_charts("e", {**NO_CHARTS, **both}, FRAME)[0].legend) == 1
    both["failures"]["e",] = [(600_000, 1.0)]
    assert len(engine_charts("e", {**NO_CHARTS, **both}, FRAME)[0].legend) == 2
