"""Options of command lines, as argument parsers take them."""

import pytest

from agent.engines.arguments import given, number, option

ARGV = ("vllm", "serve", "m", "--port=8001", "--data_parallel_size", "4", "--headless", "--port", "8002", "--host")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("--port",), "8002"),  # the last one counts
        (("--data-parallel-size",), "4"),
        (("-dp", "--data_parallel_size"), "4"),
        (("--host",), None),  # its value is missing
        (("--absent",), None),
        (("serve",), None),
    ],
)
def test_option(names: tuple[str, ...], expected: str | None) -> None:
    assert option(ARGV, *names) == expected


def test_number() -> None:
    assert number(ARGV, "--port") == 8002
    assert number(("--port", "http"), "--port") is None
    assert number(("--port", "-1"), "--port") is None


def test_given() -> None:
    assert given(ARGV, "--headless")
    assert given(ARGV, "--data-parallel-size")
    assert not given(ARGV, "headless")
