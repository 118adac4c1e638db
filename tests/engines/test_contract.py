"""The shape that every engine file has, held against all of them."""

import re

import pytest

from agent.engines.contract import EngineFile
from agent.engines.registry import ENGINES

# What ends, loads, unloads, drains or resets something, in any server.
HARMFUL = re.compile(
    r"terminate|shutdown|abort|flush|reset|sleep|wake|pause|resume|load_lora|unload|/pull|/delete|/create|generate"
    r"|perf_metrics|kv_cache_events|profile"
)


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.kind)
def test_no_path_harms(engine: EngineFile) -> None:
    asked = engine.paths - {engine.health.generating}
    assert [path for path in asked if HARMFUL.search(path)] == []
    assert all(path.startswith("/") and "?" not in path for path in engine.paths)


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.kind)
def test_patterns_of_images_can_be_searched(engine: EngineFile) -> None:
    assert all(re.compile(pattern) for pattern in engine.images)


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.kind)
def test_an_engine_with_a_page_says_how_to_get_it_shown(engine: EngineFile) -> None:
    assert engine.title
    assert bool(engine.metrics_hint) == bool(engine.metrics_paths)
