import aiohttp
import pytest

from agent.api.services import Answer, QueryRefused
from agent.core.board import Board
from agent.core.cost.present import PresentSlot
from agent.core.readings import Advice, EngineReading, EngineSnapshot, EngineStatus
from agent.core.workloads import Workload
from tests.support.api import NOW_NS, NS, WaveQueries, node, served
from tests.support.engine_figures import BusyQueries, history

ADVICE = Advice(signal="timeout", text="vLLM has no timeouts of its own: put the sidecar in front")
STATUS = EngineStatus(
    engine="chat",
    kind="vllm",
    url="http://10.0.0.5:8000",
    state="ready",
    version="0.33.0",
    scraped_at_ns=NOW_NS,
    scrape_seconds=0.004,
    pids=(41, 42),
    live=True,
    ready=True,
    started=True,
    process_started_at_ns=NOW_NS - 3600 * NS,
    ready_after_seconds=94.5,
    restarts=1,
    found_by="process",
    workload=Workload(namespace="llm", pod="chat-0", container="vllm"),
    group="10.0.0.5:29500",
    nodes=2,
    node_rank=0,
    role="prefill",
    service="chat",
    advice=(ADVICE,),
)
READING = EngineReading(engine="chat", kind="vllm", url="u", model="m", read_at_ns=NOW_NS, role="prefill")
SLOT = PresentSlot(
    gpu="GPU-1", index=3, slot="GPU-1", kind="gpu", profile="", weight=1, weights=1, state="request",
    reason="engine", engines=("chat",),
)  # fmt: skip


def busy() -> dict[str, object]:
    engines = {"chat": EngineSnapshot(status=STATUS, readings=(READING,))}
    queries = BusyQueries(history([("chat", "m"), ("seen", "x")]), ["chat"])
    return {"board": Board("n", None, engines), "queries": queries, "slots": lambda: [SLOT]}


async def asked(query: str = "", **services: object) -> tuple[int, object]:
    async with (
        served(node(**(busy() | services))) as address,
        aiohttp.ClientSession(address) as session,
        session.get("/api/v1/engines" + query) as answer,
    ):
        return answer.status, await answer.json(content_type=None)


async def test_everything_known_of_an_engine() -> None:
    status, found = await asked()
    assert status == 200
    chat, seen = found  # type: ignore[misc]
    (model,) = chat.pop("models")
    assert chat == {
        "engine": "chat",
        "kind": "vllm",
        "url": "http://10.0.0.5:8000",
        "state": "ready",
        "reason": "",
        "version": "0.33.0",
        "live": True,
        "ready": True,
        "started": True,
        "scraped_at": "2025-11-23T10:40:00.25Z",
        "scrape_seconds": 0.004,
        "process_started_at": "2025-11-23T09:40:00.25Z",
        "ready_after_seconds": 94.5,
        "restarts": 1,
        "crash_looping": False,
        "found_by": "process",
        "workload": {"namespace": "llm", "pod": "chat-0", "container": "vllm", "job": ""},
        "part": "server",
        "group": "10.0.0.5:29500",
        "nodes": 2,
        "node_rank": 0,
        "role": "prefill",
        "service": "chat",
        "pids": [41, 42],
        "gpus": [],
        "slots": [{"gpu": "GPU-1", "index": 3, "slot": "GPU-1", "kind": "gpu", "profile": "", "state": "request"}],
        "advice": [{"signal": "timeout", "text": ADVICE.text}],
    }
    assert (model["model"], model["role"], model["model_memory_bytes"]) == ("m", "prefill", 8e9)
    assert model["requests_running"] == 14
    assert model["requests_waiting"] is None
    assert model["requests_per_second"] == pytest.approx({"ok": 1.66, "error": 0.02})
    duration = model["request_duration_seconds"]
    assert (duration["source"], round(duration["observations"])) == ("engine", 498)
    assert (duration["p99"]["lower"], duration["p99"]["upper"]) == (1.5, 2.5)
    assert model["sources"]["model_memory_bytes"] == model["sources"]["queue_seconds"] == "engine"
    assert (seen["engine"], seen["state"], seen["kind"]) == ("seen", None, None)
    assert "engines.targets" in seen["reason"]


async def test_an_engine_that_is_down_has_no_models_and_a_reason() -> None:
    down = EngineStatus(engine="chat", kind=None, url="http://h:1", state="down", reason="nobody listens")
    board = Board("n", None, {"chat": EngineSnapshot(status=down)})
    _, found = await asked(board=board, queries=BusyQueries(history([]), []), slots=list)
    (one,) = found  # type: ignore[misc]
    assert (one["state"], one["reason"], one["models"], one["scraped_at"]) == ("down", "nobody listens", [], None)


async def test_the_window_is_a_duration_within_reason() -> None:
    for text in ("30s", "1h", "90"):
        assert (await asked(f"?window={text}"))[0] == 200
    for text, said in (("today", "not a duration"), ("5s", "outside of 10s"), ("2d", "outside of"), ("nan", "finite")):
        status, problem = await asked(f"?window={text}")
        assert status == 400
        assert said in problem["detail"]  # type: ignore[index]
    status, problem = await asked("?windw=5m")
    assert (status, "Allowed are: window" in problem["remedy"]) == (400, True)  # type: ignore[index]


async def test_a_history_that_cannot_be_asked_is_said() -> None:
    class Refusing(WaveQueries):
        def instant(self, query: str, at_ms: int) -> Answer:
            raise QueryRefused("too much")

    status, problem = await asked(queries=Refusing())
    assert status == 503
    assert "too much" in problem["detail"]  # type: ignore[index]
