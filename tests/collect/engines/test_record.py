"""Captures of engines: what is asked, that nothing secret survives, and that real engines can be recorded and read."""

import json
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from agent.collect.engines.diagnosis import Unread
from agent.collect.engines.record import Recorded, names_everything, record_engine
from agent.collect.engines.targets import EngineTarget
from agent.core.metrics.exposition import Exposition
from agent.core.metrics.redacted import Redactor
from agent.engines.contract import EngineFile
from agent.engines.registry import BY_KIND, ENGINES
from tests.engines.test_captures import PAGES, capture_id, readings
from tests.support.http import answer, told_server
from tests.support.llamacpp import llama_server
from tests.support.vllm_rs import MODEL, vllm_rs

SECRET = "sk-5ecr3t-prompt"
JSON = {"content_type": "application/json"}
VLLM_PAGE = f"""# HELP vllm:num_requests_running {SECRET}
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{engine="0",model_name="m",user="{SECRET}"}} 3
# TYPE vllm:request_success_total counter
vllm:request_success_total{{engine="0",model_name="m",finished_reason="stop",key="{SECRET}"}} 5 # {{id="{SECRET}"}} 1
# {SECRET}
http_requests_total{{handler="/v1/{SECRET}",method="GET"}} 1
"""


def body(value: Any) -> Any:
    return answer(json.dumps(value).encode(), **JSON)


def vllm_replies() -> dict[str, Any]:
    model = {"id": "m", "owned_by": "vllm", "root": f"/home/{SECRET}", "permission": [{"id": SECRET}]}
    return {
        "/v1/models": body({"object": "list", "data": [model], "note": SECRET}),
        "/metrics": answer(VLLM_PAGE.encode()),
        "/version": body({"version": "0.33.0", "rust_frontend_version": SECRET, "env": {"KEY": SECRET}}),
    }


async def recorded(url: str, **changes: Any) -> Recorded:
    hide = changes.pop("hide_names", False)
    return await record_engine(EngineTarget(url=url, timeout_seconds=10, **changes), hide_names=hide)


async def test_no_secret_survives_and_only_documented_paths_are_asked() -> None:
    async with told_server(vllm_replies()) as server:
        found = await recorded(server.url)
        asked = set(server.asked)
    assert (found.engine.kind, found.version, found.models) == ("vllm", "0.33.0", ("m",))
    assert "metrics.prom" in found.files
    assert b"5ecr3t" not in b"".join(found.files.values())
    assert not any("5ecr3t" in text for text in (*found.models, *found.notes, *found.redacted))
    assert found.redacted == ("handler", "key", "method", "user")
    assert json.loads(found.files["version.json"]) == {"version": "0.33.0"}
    assert b"# HELP" not in found.files["metrics.prom"]
    assert asked <= BY_KIND["vllm"].paths | {"/v1/models"}
    assert not asked & {BY_KIND["vllm"].health.generating}
    assert found.notes == ()


async def test_names_of_models_can_be_hidden() -> None:
    async with told_server(vllm_replies()) as server:
        found = await recorded(server.url, hide_names=True)
    assert all(name.startswith("redacted-") for name in found.models)
    assert b'model_name="m"' not in found.files["metrics.prom"]
    assert b'"m"' not in b"".join(found.files.values())


async def test_a_draining_path_is_asked_only_where_there_is_no_page() -> None:
    page = answer(b'# TYPE trtllm_num_requests_running gauge\ntrtllm_num_requests_running{model_name="m"} 1\n')
    iterations = body([{"iter": 1, "numActiveRequests": 2, "note": SECRET, "kvCacheStats": {"usedNumBlocks": 1}}])
    async with told_server({"/prometheus/metrics": page, "/metrics": iterations}) as server:
        found = await recorded(server.url, kind="trtllm")
        assert "/metrics" not in server.asked
        assert "metrics.prom" in found.files
        del server.replies["/prometheus/metrics"]
        without = await recorded(server.url, kind="trtllm")
    assert "metrics.prom" not in without.files
    assert "metrics.json" in without.files
    assert b"5ecr3t" not in without.files["metrics.json"]
    assert any("no metrics page" in note for note in without.notes)


async def test_labels_that_matter_and_are_not_named_are_told() -> None:
    page = b'# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{model_name="' + b"x" * 300 + b'"} 1\n'
    async with told_server({"/metrics": answer(page)}) as server:
        found = await recorded(server.url, kind="vllm")
    assert any("label_values of agent/engines/vllm.py" in note for note in found.notes)
    assert any("/version is not there: it answers 404" in note for note in found.notes)


async def test_what_is_no_engine_is_refused_with_words() -> None:
    async with told_server({"/metrics": answer(b"up 1\n")}) as server:
        with pytest.raises(Unread, match="metrics"):
            await recorded(server.url)
        with pytest.raises(Unread):
            await recorded(server.url, kind="vllm")
        server.replies.clear()
        with pytest.raises(Unread, match="404"):
            await recorded(server.url, kind="sglang")
        url = server.url
    with pytest.raises(Unread, match="nothing listens"):
        await recorded(url)


async def test_a_token_is_sent_and_not_written(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(SECRET)
    async with told_server(vllm_replies()) as server:
        found = await recorded(server.url, token_file=file)
        assert f"Bearer {SECRET}" in server.heads[0]
    assert b"5ecr3t" not in b"".join(found.files.values())


class _Free(msgspec.Struct):
    inner: dict[str, str] = {}


class _Tree(msgspec.Struct):
    children: "list[_Tree]" = []
    pair: tuple[int, str] | None = None


def test_types_that_let_anything_through_are_known() -> None:
    assert names_everything(_Tree)
    assert names_everything(list[_Tree])
    for kind in (_Free, Any, list[Any], dict[str, int], msgspec.Raw, tuple[_Free, ...], _Free | None, tuple[int, Any]):
        assert not names_everything(kind)


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.kind)
def test_every_engine_file_names_all_that_it_reads(engine: EngineFile) -> None:
    types = {**engine.state_paths, **engine.fallback_paths, **engine.about_paths}
    assert [path for path, kind in types.items() if not names_everything(kind)] == []


@pytest.mark.parametrize("folder", PAGES, ids=capture_id)
def test_every_recorded_page_means_the_same_after_it_was_redacted(tmp_path: Path, folder: Path) -> None:
    """Else a label's values matter: they belong into `label_values` of the engine's file."""
    engine = BY_KIND[folder.parent.name]
    for file in folder.iterdir():
        if file.name != "expected.json":
            content = file.read_bytes()
            again = Redactor(engine.label_values).page(content) if file.name == "metrics.prom" else content
            (tmp_path / file.name).write_bytes(again)
    assert readings(engine, tmp_path) == readings(engine, folder)


def write(folder: Path, found: Recorded) -> Path:
    """The files where `tests/engines` would have them."""
    place = folder / found.engine.kind / (found.version or "0")
    place.mkdir(parents=True)
    for name, content in found.files.items():
        (place / name).write_bytes(content)
    return place


async def test_the_real_llama_cpp_is_recorded_and_read(tmp_path: Path) -> None:
    with llama_server(tmp_path) as server:
        server.complete(SECRET, 6)
        found = await recorded(server.url)
    assert (found.engine.kind, found.models) == ("llamacpp", ("tiny-random",))
    assert b"5ecr3t" not in b"".join(found.files.values())
    (reading,) = readings(found.engine, write(tmp_path, found))
    assert reading.model == "tiny-random"
    assert (reading.tokens_total or {})["output"] == 6
    assert found.notes == ()


@pytest.mark.component("vllm-rs")
async def test_the_real_front_end_of_vllm_is_recorded_and_read(tmp_path: Path) -> None:
    with vllm_rs(tmp_path) as server:
        question = {"model": MODEL, "messages": [{"role": "user", "content": "hello there"}]}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{server.url}/v1/chat/completions", json=question) as reply,
        ):
            assert reply.status == 200
        found = await recorded(server.url)
    assert found.engine.kind == "vllm"
    (reading,) = readings(found.engine, write(tmp_path, found))
    assert (reading.model, (reading.requests_total or {})["ok"]) == ("tiny", 1)
    assert reading.time_to_first_token_seconds is not None
    page = found.files["metrics.prom"]
    assert page.endswith(b"# EOF\n")
    assert Exposition().parse(page).problems == ()
    assert found.notes == ()
