"""A real llama.cpp server for tests: a tiny random model made on the spot, served by a child process on a free port."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

MODEL = "tiny-random"
_CONTEXT = 2048


@dataclass(frozen=True)
class LlamaServer:
    """A running server. `url` has no trailing slash."""

    url: str
    pid: int

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def get(self, path: str) -> bytes:
        with urlopen(self.url + path, timeout=10) as answer:
            body: bytes = answer.read()
            return body

    def complete(self, prompt: str, tokens: int) -> dict[str, object]:
        """One completion of up to `tokens` tokens, not streamed."""
        question = {"model": MODEL, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        request = Request(
            self.url + "/v1/completions", json.dumps(question).encode(), {"Content-Type": "application/json"}
        )
        with urlopen(request, timeout=30) as answer:
            reply: dict[str, object] = json.load(answer)
            return reply


@contextmanager
def llama_server(folder: Path, *, metrics: bool = True) -> Iterator[LlamaServer]:
    """Start the real server with the tiny model; it is ready when this yields, and gone when the body ends."""
    pytest.importorskip("xllamacpp", reason="xllamacpp is the real llama.cpp server (extra `demo`)")
    pytest.importorskip("gguf", reason="the gguf package makes the tiny model (extra `demo`)")
    from agent.demo.model import write_model  # here, because the child below runs this file without the project

    model = folder / "tiny.gguf"
    write_model(model)
    command = [sys.executable, "-P", __file__, str(model), "metrics" if metrics else "no-metrics"]
    with (folder / "llama.log").open("wb") as errors:
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            url = next((line[4:].decode().strip() for line in child.stdout if line.startswith(b"url ")), None)
            assert url, f"the llama.cpp server did not start:\n{(folder / 'llama.log').read_text()[-2000:]}"
            yield LlamaServer(url, child.pid)
        finally:
            child.stdin.close()  # the child ends at the end of its input, also when this process is killed
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            child.stdout.close()


def _serve(model: str, metrics: bool) -> None:
    import xllamacpp

    # Its command line is Python's: by this name, which everybody may read, it is recognised as what it is.
    Path("/proc/self/comm").write_text("llama-server")
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.model_alias = {MODEL} if isinstance(params.model_alias, set) else MODEL
    params.hostnames = ["127.0.0.1"] if isinstance(params.hostnames, list) else params.hostnames
    params.port = 0
    params.endpoint_metrics = metrics
    params.n_parallel = 2
    params.n_ctx = _CONTEXT
    params.n_gpu_layers = 0
    server = xllamacpp.Server(params)
    print("url", server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2] == "metrics")
