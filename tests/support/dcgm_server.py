"""The DCGM port on loopback, and a real Prometheus that scrapes it."""

import json
import subprocess
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import anyio

from agent.api.dcgm import build_dcgm
from agent.api.doors import Doors
from agent.doors.tls import ServerTls
from tests.support.agent import free_port
from tests.support.api import open_doors, served_app


@asynccontextmanager
async def served_dcgm(
    render: Callable[[], bytes],
    health: Callable[[], tuple[bool, str]] = lambda: (True, "ok gpu 0\n"),
    doors: Doors | None = None,
    tls: ServerTls | None = None,
) -> AsyncIterator[str]:
    """Its address, on a random port. The doors are open unless told otherwise."""
    doors = doors or open_doors()
    app = build_dcgm(render, health, doors, frozenset({"gpu-node"}))
    async with served_app(app, doors, tls) as address:
        yield address


Vector = list[tuple[dict[str, str], float]]


class Prometheus:
    """A running Prometheus."""

    def __init__(self, url: str, log: Path) -> None:
        self.url = url
        self.log = log

    def ask(self, promql: str) -> Vector:
        """The vector; empty while nobody answers."""
        query = urllib.parse.urlencode({"query": promql})
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/query?{query}", timeout=5) as answer:
                result = json.load(answer)["data"]["result"]
        except OSError:
            return []
        return [(one["metric"], float(one["value"][1])) for one in result]

    async def vector(self, promql: str) -> Vector:
        return await anyio.to_thread.run_sync(self.ask, promql)

    async def until(self, promql: str, condition: Callable[[Vector], bool], seconds: float = 30) -> Vector:
        with anyio.fail_after(seconds):
            while not condition(found := await self.vector(promql)):  # noqa: ASYNC110  # another process has no event
                await anyio.sleep(0.1)
        return found

    def complaints(self) -> list[str]:
        lines = self.log.read_text().splitlines()
        return [line for line in lines if "level=warn" in line or "level=error" in line]


@contextmanager
def prometheus(program: str, folder: Path, target: str, rules: dict[str, str]) -> Iterator[Prometheus]:
    """Scrapes `target` (host:port) each second and evaluates the recording rules: name -> expression."""
    recording = [{"record": name, "expr": expression} for name, expression in rules.items()]
    groups = {"groups": [{"name": "gpus", "interval": "1s", "rules": recording}]}
    (folder / "rules.yml").write_text(json.dumps(groups))
    scrape = {"job_name": "gpus", "honor_labels": True, "static_configs": [{"targets": [target]}]}
    config = {"global": {"scrape_interval": "1s"}, "scrape_configs": [scrape], "rule_files": ["rules.yml"]}
    (folder / "prometheus.yml").write_text(json.dumps(config))
    port, log = free_port(), folder / "prometheus.log"
    command = [
        program,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            yield Prometheus(f"http://127.0.0.1:{port}", log)
        finally:
            process.terminate()
