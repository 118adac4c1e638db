"""Framing of newline-delimited JSON."""

from agent.core.requests import Usage
from agent.sidecar.meter.lines import LinesMeter
from agent.sidecar.meter.ollama import OllamaReading
from agent.sidecar.meter.reading import Reading

LINE = b'{"response":"a","done":false}'
END = b'{"response":"","done":true,"eval_count":2}'


def test_a_line_counts_when_its_line_feed_is_there() -> None:
    meter = LinesMeter(OllamaReading())
    meter.feed(LINE, 1)
    assert meter.output_tokens() == 0
    meter.feed(b"\n", 2)
    assert (meter.output_tokens(), meter.first) == (1, 2)
    meter.feed(LINE + b"\r\n\r\n\n" + LINE[:5], 3)
    meter.feed(LINE[5:] + b"\n" + END, 4)
    assert meter.output_tokens() == 3
    result = meter.finish(5)  # the last line lacks its line feed
    assert (result.usage, result.first_token_at_ns, result.complete) == (
        Usage(output_tokens=2, source="reported"),
        2,
        True,
    )


def test_lines_that_are_no_objects_are_passed_over() -> None:
    meter = LinesMeter(OllamaReading())
    meter.feed(b"nonsense\n[1]\n\xff\n" + LINE + b"\n", 1)
    assert meter.finish(2).usage == Usage(output_tokens=1, source="counted")


def test_an_endless_line_is_given_up() -> None:
    meter = LinesMeter(OllamaReading())
    for _ in range(40):
        meter.feed(b"x" * 65536, 1)
    meter.feed(b"\n" + LINE + b"\n", 2)
    result = meter.finish(3)
    assert (result.usage, result.complete) == (Usage(), False)
    assert not meter._held


def test_nothing_at_all() -> None:
    result = LinesMeter(OllamaReading()).finish(1)
    assert (result.complete, result.first_token_at_ns) == (False, None)


def test_lines_of_an_api_without_an_end_mark_for_lines_are_not_called_cut() -> None:
    meter = LinesMeter(Reading())
    meter.feed(b'{"choices":[{"delta":{"content":"a"}}]}\n', 1)
    result = meter.finish(2)
    assert (result.usage, result.complete) == (Usage(output_tokens=1, source="counted"), True)
