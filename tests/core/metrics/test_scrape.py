"""A page that was read: looking things up in it."""

import pytest

from agent.core.metrics.scrape import Family, Scrape, family_of

FAMILIES = {"a": Family("counter"), "b_total": Family("gauge"), "h": Family("histogram", "seconds", "Help")}


@pytest.mark.parametrize(
    ("name", "type_"),
    [("a", "counter"), ("a_total", "counter"), ("b_total", "gauge"), ("h_bucket", "histogram"), ("x", "unknown")],
)
def test_type_of_a_sample_name(name: str, type_: str) -> None:
    assert Scrape(families=FAMILIES).type_of(name) == type_
    assert family_of(FAMILIES, name).type == type_


def test_nothing_read() -> None:
    assert Scrape().named("a") == []
    assert list(Scrape().names()) == []
