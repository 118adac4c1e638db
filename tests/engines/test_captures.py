"""Every recorded page of every engine is read as its golden says; UPDATE_GOLDENS=1 rewrites the goldens."""

import json
import os
from importlib import import_module
from pathlib import Path

import msgspec
import pytest

from agent.core.metrics.exposition import Exposition
from agent.core.metrics.scrape import Scrape
from agent.core.readings import EngineReading
from agent.engines.bodies import decode
from agent.engines.contract import About, Bodies, EngineFile, Origin, Page
from agent.engines.registry import BY_KIND, ENGINES, classify

HERE = Path(__file__).parent
CAPTURES = sorted(golden for golden in HERE.glob("*/*") if golden.is_dir() and golden.parent.name != "__pycache__")
PAGES = [folder for folder in CAPTURES if (folder / "metrics.prom").exists()]


def capture_id(folder: Path) -> str:
    return f"{folder.parent.name}-{folder.name}"


def scrape_of(page: Path) -> Scrape:
    return Exposition(add_labels=(("instance", "node:8000"), ("job", "engine"))).parse(page.read_bytes())


def bodies(engine: EngineFile, folder: Path) -> Bodies:
    types = {**engine.state_paths, **engine.fallback_paths, **engine.about_paths}
    files = {path: folder / (path.strip("/").replace("/", "-") + ".json") for path in types}
    return decode(types, {path: file.read_bytes() for path, file in files.items() if file.exists()})


def readings(engine: EngineFile, folder: Path) -> list[EngineReading]:
    told = bodies(engine, folder)
    page = folder / "metrics.prom"
    scrape = scrape_of(page) if page.exists() else None
    about = engine.about(told) if told else About()
    origin = Origin(engine="node:8000", url="http://node:8000", read_at_ns=1, about=about)
    path = engine.metrics_paths[0] if engine.metrics_paths else ""
    return engine.read(Page(scrape=scrape, path=path, bodies=told), origin)


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.kind)
def test_every_engine_file_has_a_capture(engine: EngineFile) -> None:
    assert any(folder.parent.name == engine.kind for folder in CAPTURES), (
        f"agent/engines/{engine.kind}.py has no recorded pages: start a real {engine.title} server and run `engineroom "
        f"record engine URL tests/engines/{engine.kind}/<version>`, as tests/engines/README.md says"
    )


def test_every_capture_belongs_to_an_engine_file() -> None:
    assert {folder.parent.name for folder in CAPTURES} == set(BY_KIND)


def test_names_of_engine_files_are_their_kinds() -> None:
    for kind in BY_KIND:
        assert import_module(f"agent.engines.{kind}").ENGINE is BY_KIND[kind]


@pytest.mark.parametrize("folder", CAPTURES, ids=capture_id)
def test_page_is_read_as_its_golden_says(folder: Path) -> None:
    engine = BY_KIND[folder.parent.name]
    found = json.dumps(msgspec.to_builtins(readings(engine, folder)), indent=1, ensure_ascii=False) + "\n"
    golden = folder / "expected.json"
    if os.environ.get("UPDATE_GOLDENS"):
        golden.write_text(found)
    assert golden.exists(), f"no golden for {folder}: run UPDATE_GOLDENS=1 pytest tests/engines and review it"
    assert json.loads(found) == json.loads(golden.read_text())


@pytest.mark.parametrize("folder", PAGES, ids=capture_id)
def test_page_is_classified_by_its_content(folder: Path) -> None:
    scrape = scrape_of(folder / "metrics.prom")
    engine = BY_KIND[folder.parent.name]
    assert classify(scrape, engine.metrics_paths[0]) is BY_KIND[folder.parent.name]
    assert scrape.problems == ()
    assert scrape.duplicates == 0


@pytest.mark.parametrize("folder", PAGES, ids=capture_id)
def test_token_kinds_are_disjoint_and_complete(folder: Path) -> None:
    scrape = scrape_of(folder / "metrics.prom")
    for reading in readings(BY_KIND[folder.parent.name], folder):
        tokens = reading.tokens_total or {}
        assert set(tokens) <= {"input", "input_cached", "output"}
        if reading.kind == "vllm" and "input_cached" in tokens:
            names = ("vllm:prompt_tokens_total", "ray_vllm_prompt_tokens_total")
            prompts = sum(s.value for name in names for s in scrape.named(name))
            assert tokens["input"] + tokens["input_cached"] == prompts


@pytest.mark.parametrize(
    ("name", "field", "expected"),
    [
        ("kubeai-mock-metrics", "requests_waiting", [2.0, 3.0]),
        ("issue-28792-pid-label-excerpt", "kv_cache_usage_ratio", [0.6530455880475035]),
    ],
)
def test_published_pages_that_are_not_ours_to_copy(shared: Path, name: str, field: str, expected: list[float]) -> None:
    scrape = scrape_of(shared / "captures" / "vllm" / f"{name}.prom")
    engine = classify(scrape)
    assert engine is BY_KIND["vllm"]
    found = engine.read(Page(scrape=scrape, path="/metrics"), Origin(engine="e", url="u", read_at_ns=1))
    assert [getattr(reading, field) for reading in found] == expected
