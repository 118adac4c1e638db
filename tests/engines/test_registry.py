"""The list of engines is whole, and tells their pages apart."""

from pathlib import Path

import agent.engines
from agent.core.metrics.exposition import Exposition
from agent.engines.registry import BY_KIND, ENGINES, classify


def test_every_file_with_an_engine_is_found() -> None:
    files = {file.stem for file in Path(agent.engines.__path__[0]).glob("*.py") if "\nENGINE = " in file.read_text()}
    assert files == set(BY_KIND) == {engine.kind for engine in ENGINES}


def test_files_whose_names_others_share_are_asked_last() -> None:
    order = [engine.generic for engine in ENGINES]
    assert order == sorted(order)


def test_unknown_page() -> None:
    assert classify(Exposition().parse(b"up 1\n")) is None


def test_known_pages() -> None:
    assert classify(Exposition().parse(b"vllm:num_requests_running 1\n")) is BY_KIND["vllm"]
    assert classify(Exposition().parse(b"llamacpp:requests_deferred 1\n")) is BY_KIND["llamacpp"]
