"""`engineroom run` as a process, for end-to-end tests."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 30


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class RunningAgent:
    """An agent under test, and its two ports."""

    process: "subprocess.Popen[str]"
    api: int
    probes: int

    def get(self, path: str, *, port: int | None = None) -> tuple[int, str]:
        """Status and body; (0, reason) while nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port or self.api}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def json(self, path: str) -> Any:
        status, body = self.get(path)
        assert status == 200, body
        return json.loads(body)

    def until(self, right: Callable[[], Any], what: str) -> Any:
        """The first true answer of `right`; bounded polling, since the agent is another process."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            if found := right():
                return found
            if self.process.poll() is not None:
                break
            self.pause()
        raise AssertionError(f"not within {PATIENCE_SECONDS} s: {what}; {self.get('/readyz', port=self.probes)}")

    def pause(self) -> None:
        """A short wait that ends early with the process."""
        try:
            self.process.wait(0.05)
        except subprocess.TimeoutExpired:
            pass

    def ready(self) -> "RunningAgent":
        self.until(lambda: self.get("/readyz", port=self.probes)[0] == 200, "readyz")
        return self

    def metric(self, start: str) -> float | None:
        """Value of the first series on /metrics whose line starts so."""
        for line in self.get("/metrics")[1].splitlines():
            if line.startswith(start):
                return float(line.rsplit(" ", 1)[1])
        return None

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_SECONDS)


@contextmanager
def agent(
    data: Path, *arguments: str, config: dict[str, Any] | None = None, environment: dict[str, str] | None = None
) -> Iterator[RunningAgent]:
    """An agent on free ports with its data in `data`; killed at the end if it still runs."""
    api, probes = free_port(), free_port()
    given = {
        "ENGINEROOM__API__LISTEN": f"127.0.0.1:{api}",
        "ENGINEROOM__API__PROBES_LISTEN": f"127.0.0.1:{probes}",
        "ENGINEROOM__STORAGE__DATA_DIR": str(data),
        "ENGINEROOM__ENGINES__DISCOVER": "false",
    }
    command = [sys.executable, "-m", "agent", "run", *arguments]
    if config is not None:
        file = data.with_name(f"{data.name}-{api}.yaml")
        file.write_text(json.dumps(config))
        command += ["--config", str(file)]
    with (
        tempfile.TemporaryFile("w+") as output,  # not beside the data: a test may fill that disk
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | given | (environment or {}),
            stdout=output,
            stderr=output,
            text=True,
        ) as process,
    ):
        running = RunningAgent(process, api, probes)
        try:
            yield running
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            output.seek(0)
            print(output.read())  # shown by pytest when the test fails
