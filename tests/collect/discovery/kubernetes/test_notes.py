"""What is said about our own annotations when they are wrong."""

import pytest

from agent.collect.discovery.kubernetes.notes import pod_notes
from agent.collect.discovery.kubernetes.objects import decode_page
from tests.support.kubernetes_api import container, dumped, pod
from tests.support.made_up_engines import MADE_UP


@pytest.mark.parametrize(
    ("annotations", "words"),
    [
        ({}, ""),
        ({"engineroom.io/engine": "alpha", "engineroom.io/container": "two", "engineroom.io/port": "8000"}, ""),
        ({"engineroom.io/engine": "gamma"}, "expected one of alpha, beta, got 'gamma'"),
        ({"engineroom.io/engine": "alpha"}, "name one of one, two in engineroom.io/container"),
        ({"engineroom.io/engine": "alpha", "engineroom.io/container": "three"}, "name one of one, two"),
        ({"engineroom.io/port": "http"}, "expected a port such as 8000, got 'http'"),
        ({"engineroom.io/port": "0"}, "expected a port"),
    ],
)
def test_words(annotations: dict[str, str], words: str) -> None:
    shown = pod("a", container("one", "mine/one"), container("two", "mine/two"), annotations=annotations)
    notes = pod_notes(decode_page(dumped({"items": [shown]}))[0], MADE_UP)
    assert list(notes) == (["pod serving/a"] if words else [])
    assert words in notes.get("pod serving/a", "")
