"""One admin address for several workers: their metrics as one page, who is ready, dead letters of every folder."""

import json
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.core.ports import ConfigError
from agent.lifecycle import Health
from agent.sidecar.settings import SidecarSettings
from agent.sidecar.workers.admin import serve_common_admin
from agent.sidecar.workers.orphans import Orphans
from agent.sidecar.workers.workers import Workers, running_workers
from tests.support.upstream import until
from tests.support.worker_child import ROOT, alive, command


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="er-") as path:
        yield Path(path)


@dataclass(slots=True)
class Common:
    workers: Workers
    health: Health
    port: int
    session: aiohttp.ClientSession

    async def get(self, path: str, **more: Any) -> tuple[int, str]:
        async with self.session.get(f"http://127.0.0.1:{self.port}{path}", **more) as answer:
            return answer.status, await answer.text()

    async def post(self, path: str, body: object, **more: Any) -> tuple[int, Any]:
        async with self.session.post(f"http://127.0.0.1:{self.port}{path}", json=body, **more) as answer:
            return answer.status, await answer.json(content_type=None)

    async def values(self) -> dict[str, float]:
        status, text = await self.get("/metrics")
        assert status == 200
        return {
            " ".join((sample.name, *sample.labels.values())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    async def ask(self) -> None:
        async with self.session.post(f"http://{self.workers.address}/", headers={"connection": "close"}) as answer:
            assert answer.status == 200


@asynccontextmanager
async def common(folder: Path, behaviour: str = "good", count: int = 2, **more: Any) -> AsyncIterator[Common]:
    given = {"listen": "127.0.0.1:0", "admin_listen": "127.0.0.1:0", "spool_dir": folder, "name": "s"}
    settings = SidecarSettings(**given | {"drain_seconds": 1, "ship_drain_seconds": 0} | more)
    health = Health()
    async with (
        running_workers(settings, count, command(folder, behaviour)) as workers,
        serve_common_admin(settings, workers, Orphans(settings, []), health) as port,
        aiohttp.ClientSession() as session,
    ):
        yield Common(workers, health, port, session)


async def ready(one: Common) -> None:
    await until(lambda: all(worker.served for worker in one.workers.places))


async def test_the_metrics_of_all_are_one_page_that_does_not_go_back(folder: Path) -> None:
    async with common(folder) as one:
        await ready(one)
        for _ in range(10):
            await one.ask()
        values = await one.values()
        assert values["engineroom_sidecar_forwarded_total"] == 10
        assert values["engineroom_sidecar_requests_in_flight"] == 1  # 0 of worker 0 and 1 of worker 1
        assert values["engineroom_sidecar_workers running"] == 2
        assert values["engineroom_sidecar_worker_restarts_total"] == 0
        assert {name for name in values if name.startswith("process_open_fds")} == {
            f"process_open_fds {worker}" for worker in ("0", "1", "parent")
        }
        place = one.workers.places[0]
        dead = place.process
        assert dead is not None
        dead.kill()
        await until(lambda: place.process is not dead)
        values = await one.values()
        assert values["engineroom_sidecar_forwarded_total"] == 10
        assert values["engineroom_sidecar_worker_restarts_total"] == 1
        assert values["engineroom_sidecar_workers running"] + values["engineroom_sidecar_workers silent"] == 2


async def test_one_ready_worker_is_enough_and_the_others_are_named(folder: Path) -> None:
    async with common(folder) as one:
        await ready(one)
        assert await one.get("/livez") == (200, "ok\n")
        status, text = await one.get("/readyz")
        assert status == 200
        assert text.splitlines() == [
            "ready: 2 of 2 workers",
            "worker 0: ready; upstream: no failure seen",
            "worker 1: ready; upstream: no failure seen",
        ]
        one.health.draining = True
        status, text = await one.get("/readyz")
        assert (status, text.splitlines()[0]) == (503, "not ready: draining")


async def test_none_ready_is_not_ready(folder: Path) -> None:
    async with common(folder, "unready", 1) as one:
        with anyio.fail_after(10):
            while (await one.workers.places[0].ask("/readyz", 1)) is None:
                pass
        status, text = await one.get("/readyz")
        assert (status, text) == (503, "not ready: 0 of 1 workers\nworker 0: not ready: mood\n")


async def test_workers_that_are_down_are_told(folder: Path) -> None:
    async with common(folder, "die", 1) as one:
        place = one.workers.places[0]
        await until(lambda: place.restarts >= 1 and not place.runs)
        status, text = await one.get("/readyz")
        assert status == 503
        assert "worker 0: d" in text  # down, or does not answer: it is being started again and again
        values = await one.values()
        assert values["engineroom_sidecar_workers down"] + values["engineroom_sidecar_workers silent"] == 1


async def test_dead_letters_go_back_everywhere_or_in_one_folder(folder: Path) -> None:
    async with common(folder) as one:
        await ready(one)
        path = "/admin/v1/dlq/replay"
        assert await one.post(path, {"all": True}) == (
            200,
            {"replayed": 20, "folders": {"worker-0": 10, "worker-1": 10}},
        )
        assert await one.post(path, {"numbers": [4, 5], "folder": "worker-1"}) == (
            200,
            {"replayed": 2, "folders": {"worker-1": 2}},
        )
        assert (await one.post("/admin/v1/dlq/discard", {"all": True, "folder": "worker-0"}))[1]["discarded"] == 10
        lines = [json.loads(line) for line in (folder / "audit.jsonl").read_text().splitlines()]
        assert {(line["action"], line["target"]) for line in lines} == {
            ("dlq replay", "every folder: all"),
            ("dlq replay", "worker-1: 4,5"),
            ("dlq discard", "worker-0: all"),
        }


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"numbers": [1]}, 400, "Each worker numbers its own letters"),
        ({}, 400, "Either numbers or all"),
        ({"numbers": [1], "all": True}, 400, "Either numbers or all"),
        ({"numbers": "x"}, 400, "Expected `array`"),
        ({"all": True, "folder": "worker-9"}, 404, "there are worker-0"),
    ],
)
async def test_unclear_wishes_are_refused(folder: Path, body: object, status: int, says: str) -> None:
    async with common(folder, count=1) as one:
        found, problem = await one.post("/admin/v1/dlq/replay", body)
        assert found == status
        assert says in problem["detail"]


async def test_letters_of_workers_that_are_all_away_cannot_be_given_back(folder: Path) -> None:
    async with common(folder, "die", 1) as one:
        status, problem = await one.post("/admin/v1/dlq/replay", {"all": True})
        assert (status, problem["detail"]) == (503, "worker-0: no answer")


async def test_the_doors_are_those_of_the_settings(folder: Path) -> None:
    token = folder / "token"
    token.write_text("a-token-of-some-length\n")
    auth = {"tokens": [{"name": "scraper", "file": token, "scopes": ["metrics"]}]}
    async with common(folder, count=1, admin_auth=auth) as one:
        await ready(one)
        assert (await one.get("/metrics"))[0] == 401
        sent = {"authorization": "Bearer a-token-of-some-length"}
        assert (await one.get("/metrics", headers=sent))[0] == 200
        assert (await one.post("/admin/v1/dlq/replay", {"all": True}, headers=sent))[0] == 403
        assert (await one.get("/readyz"))[0] == 200


async def test_an_open_address_needs_credentials(folder: Path) -> None:
    settings = SidecarSettings(admin_listen="0.0.0.0:0", spool_dir=folder)
    with pytest.raises(ConfigError, match=r"sidecar\.admin_listen"):
        async with serve_common_admin(settings, None, None, Health()):  # type: ignore[arg-type]
            pass


PARENT = """
import sys, anyio
from pathlib import Path
from agent.cli.logs import set_up_logs
from agent.sidecar.settings import SidecarSettings
from agent.sidecar.workers.admin import serve_workers
from tests.support.worker_child import ROOT, alive, command
set_up_logs("text", "info")
folder, admin = Path(sys.argv[1]), sys.argv[2]
given = {"listen": "127.0.0.1:0", "admin_listen": admin, "spool_dir": folder, "name": "s", "drain_seconds": 30}
anyio.run(serve_workers, SidecarSettings(**given), 2, command(folder), backend_options={"use_uvloop": True})
"""


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
async def test_the_parent_as_a_process_ends_with_all_its_workers(folder: Path, sent: signal.Signals) -> None:
    arguments = [sys.executable, "-c", PARENT, str(folder), "127.0.0.1:0"]
    async with await anyio.open_process(arguments, cwd=ROOT, stdin=subprocess.DEVNULL) as process:
        assert process.stderr is not None
        said = ""
        with anyio.fail_after(30):
            while said.count("worker_ready") < 2 or "workers_started" not in said:
                said += (await process.stderr.receive()).decode()
        numbers = [int(number) for number in re.findall(r"process=(\d+)", said)]
        assert len(numbers) == 2
        process.send_signal(sent)
        with anyio.fail_after(20):
            async for part in process.stderr:
                said += part.decode()
            assert await process.wait() == 0
    assert not any(alive(number) for number in numbers)
    assert "Traceback" not in said
    assert "worker_died" not in said
