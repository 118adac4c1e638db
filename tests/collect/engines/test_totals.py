"""Signs of a restart on the page itself."""

import math

from msgspec.structs import replace

from agent.collect.engines.totals import Totals, process_start_ns
from agent.core.metrics.exposition import Exposition
from agent.core.readings import EngineReading

READING = EngineReading(engine="e", kind="k", url="u", model="m", read_at_ns=1, tokens_total={"output": 10.0})


def test_totals_that_fall() -> None:
    totals = Totals()
    assert totals.fell([]) is None
    assert totals.fell([READING]) is False
    assert totals.fell([replace(READING, tokens_total={"output": 10.0, "input": 1.0})]) is False
    assert totals.fell([replace(READING, tokens_total={"output": 9.0})]) is True
    assert totals.fell([replace(READING, tokens_total=None, requests_total={"ok": 5.0})]) is False
    assert totals.fell([replace(READING, tokens_total=None, requests_total={"ok": 4.0})]) is True
    assert totals.fell([replace(READING, requests_total={"ok": math.nan})]) is False


def test_a_series_that_is_gone_or_renamed_is_no_fall() -> None:
    totals = Totals()
    totals.fell([READING])
    assert totals.fell([replace(READING, model="n", tokens_total={"output": 1.0})]) is False
    totals.forget()
    assert totals.fell([replace(READING, model="n", tokens_total={"output": 0.0})]) is False


def test_models_that_change() -> None:
    totals = Totals()
    assert not totals.models_changed([READING])
    assert not totals.models_changed([READING])
    assert totals.models_changed([READING, replace(READING, model="lora")])


def test_start_of_the_process_that_made_the_page() -> None:
    def told(page: bytes) -> int | None:
        return process_start_ns(Exposition().parse(page))

    assert told(b"process_start_time_seconds 1.7e9\n") == 1_700_000_000 * 10**9
    assert told(b"a 1\n") is None
    assert told(b"process_start_time_seconds NaN\n") is None
    assert told(b"process_start_time_seconds 0\n") is None
    assert told(b'process_start_time_seconds{a="1"} 5\nprocess_start_time_seconds{a="2"} 6\n') is None
