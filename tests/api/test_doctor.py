import aiohttp

from agent.core.board import Board
from agent.core.readings import EngineReading, EngineSnapshot, EngineStatus, Histogram
from agent.core.workloads import Feature
from tests.support.api import NOW_NS, node, served
from tests.support.engine_figures import BusyQueries, history


async def test_findings_of_the_board_and_of_the_stations() -> None:
    services = node(features=lambda: [Feature(name="kernel_log", enabled=False, reason="mount /dev/kmsg")])
    async with (
        served(services) as address,
        aiohttp.ClientSession(address) as session,
        session.get("/api/v1/doctor") as answer,
    ):
        assert answer.status == 200
        found = await answer.json()
        assert {"severity": "missing", "subject": "kernel log", "text": "mount /dev/kmsg"} in found
        assert services.board.gpus is not None
        lost = [gpu for gpu in services.board.gpus.gpus if gpu.state != "ok"]
        assert len([finding for finding in found if finding["severity"] == "broken"]) >= len(lost)


async def test_what_discovery_refused_and_what_the_sidecar_measures() -> None:
    coarse = Histogram(bounds=(1.5, 2.5), counts=(0.0, 0.0, 0.0))
    reading = EngineReading(
        engine="chat", kind="vllm", url="u", model="m", read_at_ns=NOW_NS, request_duration_seconds=coarse
    )
    status = EngineStatus(engine="chat", kind="vllm", url="http://h:1", state="ready", gpus=("0",))
    board = Board("n", None, {"chat": EngineSnapshot(status=status, readings=(reading,))})
    for source, expected in (("engine", True), ("sidecar", False)):
        queries = BusyQueries(history([("chat", "m")], source), ["chat"])
        services = node(board=board, queries=queries, refused=lambda: {"port 9999": "no engine"})
        async with (
            served(services) as address,
            aiohttp.ClientSession(address) as session,
            session.get("/api/v1/doctor") as answer,
        ):
            found = await answer.json()
        assert {"severity": "note", "subject": "not asked: port 9999", "text": "no engine"} in found
        assert any("no bound at 2 s" in finding["text"] for finding in found) is expected
