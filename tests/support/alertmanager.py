"""A real Alertmanager on loopback, started and stopped by the test."""

import json
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio

from tests.support.agent import free_port

CONFIG = """
route: {receiver: nobody, group_wait: 0s, group_interval: 1s}
receivers: [{name: nobody}]
"""


async def eventually(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Poll until it holds; for what another process brings about."""
    with anyio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110  # another process has no event for us
            await anyio.sleep(0.02)


class Alertmanager:
    """One Alertmanager; `start` and `kill` may be called again and again, the port and the storage stay."""

    def __init__(self, program: str, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._program = program
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir()
        (folder / "config.yaml").write_text(CONFIG)

    def start(self) -> None:
        with (self._folder / "log").open("ab") as out:
            self._process = subprocess.Popen(
                [
                    self._program,
                    f"--config.file={self._folder / 'config.yaml'}",
                    f"--storage.path={self._folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                    "--cluster.listen-address=",
                ],
                stdout=out,
                stderr=out,
            )

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    async def ready(self) -> None:
        with anyio.fail_after(20):
            while not await anyio.to_thread.run_sync(self._is_ready):  # noqa: ASYNC110  # another process has no event for us
                await anyio.sleep(0.05)

    async def alerts(self) -> list[dict[str, Any]]:
        """Alerts that are not over, as the API shows them."""
        return await anyio.to_thread.run_sync(self._alerts)

    async def until(
        self, condition: Callable[[list[dict[str, Any]]], bool], seconds: float = 20
    ) -> list[dict[str, Any]]:
        """Poll until the alerts satisfy the condition."""
        with anyio.fail_after(seconds):
            while not condition(found := await self.alerts()):  # noqa: ASYNC110  # another process has no event for us
                await anyio.sleep(0.05)
        return found

    def _alerts(self) -> list[dict[str, Any]]:
        with urllib.request.urlopen(f"{self.url}/api/v2/alerts", timeout=5) as answer:
            return json.load(answer)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=2):
                return True
        except OSError:
            return False


@contextmanager
def alertmanagers(program: str, folder: Path, count: int = 1) -> Iterator[list[Alertmanager]]:
    """So many, not yet started; all of them ended afterwards."""
    members = [Alertmanager(program, folder / f"alertmanager-{i}") for i in range(count)]
    try:
        yield members
    finally:
        for member in members:
            member.kill()
