"""The words of an engine's status: each names what was seen and what to do."""

import pytest

from agent.collect.engines.diagnosis import Unread, check_status, verdict, why_unknown
from agent.collect.engines.fetch import Answer
from agent.core.metrics.exposition import Exposition
from agent.engines.registry import BY_KIND, ENGINES


@pytest.mark.parametrize(
    ("status", "state", "words"),
    [
        (302, "unknown_format", "put the final address into the config"),
        (401, "unknown_format", "set token_file"),
        (404, "unknown_format", "say which"),
        (418, "unknown_format", "HTTP status 418"),
        (500, "down", "look into the engine's log"),
        (503, "not_ready", "loading its model"),
    ],
)
def test_status(status: int, state: str, words: str) -> None:
    with pytest.raises(Unread, match=words) as raised:
        check_status(Answer(status=status, body=b""), "http://e/metrics", ENGINES)
    assert raised.value.state == state
    assert "http://e/metrics" in raised.value.reason


def test_good_status_passes() -> None:
    check_status(Answer(status=200, body=b""), "http://e/metrics", ENGINES)


def test_advice_is_that_of_the_engine_when_it_is_known() -> None:
    with pytest.raises(Unread) as raised:
        check_status(Answer(status=404, body=b""), "http://e/metrics", (BY_KIND["vllm"],))
    assert "--disable-log-stats" in raised.value.reason
    assert "llama" not in raised.value.reason


@pytest.mark.parametrize(
    ("page", "words"),
    [
        (b"<html>", "this is HTML"),
        (b"# TYPE a gauge\n", "the page holds no samples"),
        (b"llamacpp:requests_processing 1\n", "is llamacpp, and the config says kind: vllm"),
        (b'http_requests_total{status="2xx"} 1\n', "1 series, and none of an engine we know ("),
    ],
)
def test_unknown_page(page: bytes, words: str) -> None:
    assert words in why_unknown(Exposition().parse(page), "http://e/metrics", "vllm", ENGINES)


def test_verdict() -> None:
    assert verdict(Exposition().parse(b"a 1\n")) == ("ready", "")
    state, reason = verdict(Exposition().parse(b"a 1\na 2\nb\n"))
    assert state == "ready"
    assert "lines that could not be read: 1, series given twice: 1" in reason
    assert "# EOF" in verdict(Exposition().parse(b"a 1\n# EOF\nb 1\n"))[1]
    assert "only a part was read" in verdict(Exposition(max_samples=1).parse(b"a 1\nb 1\n"))[1]
