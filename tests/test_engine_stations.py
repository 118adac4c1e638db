"""The engine stations wired together: a configured engine, a found worker, and processes that become known later."""

from pathlib import Path

from agent.collect.engines.settings import EngineSettings, EnginesSettings
from agent.core.board import Board
from agent.core.catalogue import BY_NAME
from agent.core.metrics.series import History
from agent.core.traffic import Traffic
from agent.core.workloads import Attribution, SlotUser, Workload
from agent.engine_stations import EngineStations
from agent.ledger.ledger import Ledger
from agent.lifecycle import Health, running
from agent.runners.publish import Publisher
from agent.runners.settlement import Settlement
from tests.support.alertmanager import eventually
from tests.support.http import answer, told_server
from tests.support.made_up_engines import line
from tests.support.proc_tree import ProcTree

VLLM_PAGE = (Path(__file__).parent / "engines/vllm/0.33.0/metrics.prom").read_bytes()
CONTAINER = "c" * 64
GROUP = "10.0.0.1:29500"


async def test_engines_are_watched_joined_with_processes_and_told_to_everybody(tmp_path: Path) -> None:
    tree = ProcTree(tmp_path / "proc")
    headless = ("vllm", "serve", "m", "--headless", "--nnodes", "2", "--node-rank", "1", "--master-addr", "10.0.0.1")
    tree.network("host", [], ["10.0.0.2"], ours=True)
    tree.process(70, f"0::/docker/{CONTAINER}\n", network="host", cmdline=line(*headless, "--master-port", "29500"))
    board, history, health = Board("n"), History(), Health()
    async with told_server({"/metrics": answer(VLLM_PAGE), "/health": answer(b"")}) as server:
        ledger = await Ledger.open(tmp_path / "ledger", "n")
        settlement = Settlement(ledger, None, "n", ledger.clock)
        publisher = Publisher(
            node="n",
            version="1",
            board=board,
            history=history,
            traffic=Traffic(),
            health=health,
            clock=ledger.clock,
            in_flight=settlement.in_flight,
        )
        settings = EnginesSettings(targets=(EngineSettings(name="chat", url=server.url, interval_seconds=0.5),))
        engines = EngineStations(settings, board, publisher, settlement, health, (), tree.root)
        async with running() as group:
            engines.start(group)
            await eventually(lambda: set(board.engines) == {"chat", f"vllm {GROUP}"}, 10)
            await eventually(lambda: board.engines["chat"].status.state == "ready", 10)
            worker = board.engines[f"vllm {GROUP}"].status
            assert (worker.part, worker.group, worker.pids) == ("worker", GROUP, (70,))

            place = Workload(container_id=CONTAINER)
            users = (SlotUser(slot="GPU-0", pid=71, name="VLLM::Worker", workload=place),)
            engines.on_workloads(Attribution(read_at_ns=1, users=users, users_known=True))
            assert board.engines[f"vllm {GROUP}"].status.pids == (70, 71)  # at once, without another scrape

            series = {sample.key.name for sample in (*publisher.samples(), *engines.samples())}
            engines.watch.gone(f"vllm {GROUP}")
            assert set(board.engines) == {"chat"}
        ledger.close()
    named = {name for name in series if name.startswith(("engineroom_llm_", "engineroom_engine"))}
    assert {"engineroom_llm_live", "engineroom_llm_requests_running", "engineroom_engine_scrapes_total"} <= named
    assert all(any(name.removesuffix(end) in BY_NAME for end in ("_bucket", "_sum", "_count", "")) for name in named)
    assert engines.refused() == {}
    assert {feature.name for feature in engines.features()} >= {"engine_processes", "engine_sockets"}
