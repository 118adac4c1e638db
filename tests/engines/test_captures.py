"""Every recorded page of every engine is read as its golden says; UPDATE_GOLDENS=1 rewrites the goldens."""

import json
import os
from pathlib import Path

import msgspec
import pytest

from agent.core.metrics.exposition import Exposition
from agent.core.metrics.scrape import Scrape
from agent.core.readings import EngineReading
from agent.engines.contract import About, EngineFile, Origin
from agent.engines.registry import BY_KIND, ENGINES, classify

HERE = Path(__file__).parent
CAPTURES = sorted(page.parent for page in HERE.glob("*/*/metrics.prom"))


def capture_id(folder: Path) -> str:
    return f"{folder.parent.name}-{folder.name}"


def scrape_of(page: Path) -> Scrape:
    return Exposition(add_labels=(("instance", "node:8000"), ("job", "engine"))).parse(page.read_bytes())


def about(engine: EngineFile, folder: Path) -> About:
    files = {path: folder / (path.strip("/").replace("/", "-") + ".json") for path in engine.ABOUT_PATHS}
    return engine.about({path: file.read_bytes() for path, file in files.items() if file.exists()})


def readings(engine: EngineFile, folder: Path) -> list[EngineReading]:
    origin = Origin(engine="node:8000", url="http://node:8000", read_at_ns=1, about=about(engine, folder))
    return engine.read(scrape_of(folder / "metrics.prom"), origin)


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.KIND)
def test_every_engine_file_has_a_capture(engine: EngineFile) -> None:
    assert any(folder.parent.name == engine.KIND for folder in CAPTURES), (
        f"agent/engines/{engine.KIND}.py has no recorded page: start a real {engine.KIND} server, GET "
        f"{engine.METRICS_PATH} (and {', '.join(engine.ABOUT_PATHS)}), and save the answers under "
        f"tests/engines/{engine.KIND}/<version>/ as tests/engines/README.md says"
    )


def test_every_capture_belongs_to_an_engine_file() -> None:
    assert {folder.parent.name for folder in CAPTURES} == set(BY_KIND)


def test_names_of_engine_files_are_their_kinds() -> None:
    assert {getattr(engine, "__name__", "") for engine in ENGINES} == {f"agent.engines.{kind}" for kind in BY_KIND}


@pytest.mark.parametrize("folder", CAPTURES, ids=capture_id)
def test_page_is_read_as_its_golden_says(folder: Path) -> None:
    engine = BY_KIND[folder.parent.name]
    found = json.dumps(msgspec.to_builtins(readings(engine, folder)), indent=1, ensure_ascii=False) + "\n"
    golden = folder / "expected.json"
    if os.environ.get("UPDATE_GOLDENS"):
        golden.write_text(found)
    assert golden.exists(), f"no golden for {folder}: run UPDATE_GOLDENS=1 pytest tests/engines and review it"
    assert json.loads(found) == json.loads(golden.read_text())


@pytest.mark.parametrize("folder", CAPTURES, ids=capture_id)
def test_page_is_classified_by_its_content(folder: Path) -> None:
    scrape = scrape_of(folder / "metrics.prom")
    assert classify(scrape) is BY_KIND[folder.parent.name]
    assert scrape.problems == ()
    assert scrape.duplicates == 0


@pytest.mark.parametrize("folder", CAPTURES, ids=capture_id)
def test_token_kinds_are_disjoint_and_complete(folder: Path) -> None:
    scrape = scrape_of(folder / "metrics.prom")
    for reading in readings(BY_KIND[folder.parent.name], folder):
        tokens = reading.tokens_total or {}
        assert set(tokens) <= {"input", "input_cached", "output"}
        if reading.kind == "vllm" and "input_cached" in tokens:
            prompts = sum(s.value for s in scrape.named("vllm:prompt_tokens_total"))
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
    found = engine.read(scrape, Origin(engine="e", url="u", read_at_ns=1))
    assert [getattr(reading, field) for reading in found] == expected


@pytest.mark.parametrize("kind", ["sglang", "tgi", "triton", "trtllm"])
def test_pages_of_engines_we_do_not_know_are_not_taken_for_ours(shared: Path, kind: str) -> None:
    pages = list((shared / "captures" / kind).glob("*.prom"))
    assert pages
    assert [page.name for page in pages if classify(scrape_of(page))] == []
