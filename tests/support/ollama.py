"""A real Ollama for tests: on a free port of loopback, with a store of its own, knowing one tiny random model."""

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

from agent.demo.model import write_model
from tests.support.components import need

MODEL = "tiny-random:latest"
_START_SECONDS = 30.0


@dataclass(frozen=True)
class Ollama:
    """A running server. `url` has no trailing slash."""

    url: str
    pid: int
    log: Path

    def get(self, path: str) -> bytes:
        with urlopen(self.url + path, timeout=10) as answer:
            body: bytes = answer.read()
            return body

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        request = Request(self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urlopen(request, timeout=60) as answer:
            reply: dict[str, Any] = json.load(answer)
            return reply

    def load(self) -> None:
        """Load the model and let it stay."""
        self.post("/api/generate", {"model": MODEL, "stream": False, "keep_alive": -1})

    def unload(self) -> None:
        self.post("/api/generate", {"model": MODEL, "stream": False, "keep_alive": 0})


@contextmanager
def ollama(folder: Path) -> Iterator[Ollama]:
    """Start Ollama; it answers when this yields, and is gone with its children when the body ends."""
    program = need("ollama")
    pytest.importorskip("gguf", reason="the gguf package makes the tiny model (extra `demo`)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{probe.getsockname()[1]}"
    environment = {
        **os.environ,
        "HOME": str(folder),
        "OLLAMA_HOST": place,
        "OLLAMA_MODELS": str(folder / "models"),
        "OLLAMA_NUM_PARALLEL": "1",
        "OLLAMA_NO_CLOUD": "1",
    }
    log = folder / "ollama.log"
    with log.open("wb") as output:
        child = subprocess.Popen([program, "serve"], env=environment, stdout=output, stderr=output)
        try:
            server = Ollama(f"http://{place}", child.pid, log)
            _wait(server, child)
            write_model(folder / "tiny.gguf")
            (folder / "Modelfile").write_text(f"FROM {folder / 'tiny.gguf'}\nPARAMETER num_ctx 512\n")
            create = [program, "create", MODEL, "--file", str(folder / "Modelfile")]
            subprocess.run(create, env=environment, check=True, capture_output=True, timeout=60)
            yield server
        finally:
            child.terminate()  # it ends its children
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _wait(server: Ollama, child: "subprocess.Popen[bytes]") -> None:
    """Each try blocks until the connection is refused or answered."""
    end = monotonic() + _START_SECONDS
    while True:
        assert child.poll() is None, f"Ollama ended:\n{server.log.read_text()[-2000:]}"
        try:
            server.get("/api/version")
        except (URLError, ConnectionError):
            assert monotonic() < end, f"Ollama does not answer:\n{server.log.read_text()[-2000:]}"
        else:
            return
