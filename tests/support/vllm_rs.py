"""The real `vllm-rs` front end of vLLM 0.33 with an engine core of our own behind it, which writes known tokens.

The binary lies in vLLM's wheel (`vllm/vllm-rs`); a test finds it as `vllm-rs` on the path. The core speaks vLLM's own
protocol: ZeroMQ sockets, msgpack arrays. It needs the package `pyzmq`.
"""

import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import msgspec
import pytest

from agent.clock import boot_ns
from tests.support.components import need
from tests.support.vllm_model import END, write_model

MODEL = "tiny"
TOKENS = 8
PATIENCE_SECONDS = 30
_ADD, _ABORT = b"\x00", b"\x01"
_QUEUED, _SCHEDULED = 1, 2
_encode, _decode = msgspec.msgpack.encode, msgspec.msgpack.decode
_READY: dict[str, Any] = {
    "max_model_len": 2048,
    "num_gpu_blocks": 1000,
    "block_size": 16,
    "dp_stats_address": None,
    "dtype": "bfloat16",
    "vllm_version": "0.33.0",
    "world_size": 1,
    "data_parallel_size": 1,
    "tensor_parallel_size": 1,
    "pipeline_parallel_size": 1,
    "decode_context_parallel_size": 1,
    "data_parallel_rank": 0,
    "max_num_seqs": 256,
    "max_num_batched_tokens": 8192,
    "instance_id": "test",
    "supports_lora": False,
    "max_loras": 0,
    "mamba_block_size": None,
    "kv_cache_size_tokens": 16000,
    "kv_cache_max_concurrency": 10.0,
    "kv_events_config": None,
    "weight_transfer_backend": None,
    "enable_sleep_mode": False,
    "supports_draft_weight_updates": False,
    "effective_attention_block_size": 16,
    "coord_store_port": 0,
    "coordinator_input_address": None,
    "coordinator_output_address": None,
}
_QUIET: dict[str, Any] = {
    "num_skipped_waiting_reqs": 0,
    "num_kv_fetch_reqs_by_stage": {},
    "step_counter": 0,
    "current_wave": 0,
    "iteration_details": None,
    "connector_prefix_cache_stats": None,
    "kv_cache_eviction_events": [],
    "spec_decoding_stats": None,
    "kv_connector_stats": None,
    "ec_connector_stats": None,
    "waiting_lora_adapters": {},
    "running_lora_adapters": {},
    "cudagraph_stats": None,
    "perf_stats": None,
}


@dataclass
class VllmRs:
    """A running front end. `aborted`: ids of requests that it told the core to give up.

    `first_seconds` is how long the core takes for the first token. With `caches` it finds again what it has read: all
    but the last token of a prompt that came before; `cached` counts those tokens.
    """

    url: str
    first_seconds: float = 0.0
    caches: bool = False
    cached: int = 0
    held: threading.Event = field(default_factory=threading.Event)  # clear: the core stops before the last token
    aborted: set[str] = field(default_factory=set)
    news: threading.Condition = field(default_factory=threading.Condition)

    def metrics(self) -> bytes:
        """Its metrics page."""
        with urlopen(f"{self.url}/metrics", timeout=10) as answer:
            page: bytes = answer.read()
            return page

    def until_aborted(self, count: int) -> None:
        """Wait until so many requests were given up. Raises `TimeoutError`."""
        with self.news:
            if not self.news.wait_for(lambda: len(self.aborted) >= count, PATIENCE_SECONDS):
                raise TimeoutError(f"{self.aborted} of {count}")


class _Core:
    """Answers each request with TOKENS tokens, one at a time, the same for the same request.

    How many requests run, wait and what the cache gave it says with each token, as a scheduler does.
    """

    def __init__(self, server: VllmRs, into: int, out: int) -> None:
        import zmq

        self._server = server
        self._context = zmq.Context()
        self._asked = self._context.socket(zmq.DEALER)
        self._asked.setsockopt(zmq.IDENTITY, (0).to_bytes(2, "little"))
        self._asked.connect(f"tcp://127.0.0.1:{into}")
        self._said = self._context.socket(zmq.PUSH)
        self._said.connect(f"tcp://127.0.0.1:{out}")
        self._asked.send(_encode(_READY))
        self._due: list[tuple[int, list[Any]]] = []  # when its first token is ready, and the request
        self._waiting: list[list[Any]] = []  # for their last token
        self._prompts: set[tuple[int, ...]] = set()
        self._stopped = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._stopped = True
        self._thread.join()
        for one in (self._asked, self._said):
            one.close(linger=0)
        self._context.term()

    def _run(self) -> None:
        while not self._stopped:
            if self._asked.poll(5 if not self._due else 1):
                kind, *frames = self._asked.recv_multipart()
                if kind == _ADD:
                    self._due.append((boot_ns() + int(self._server.first_seconds * 1e9), _decode(frames[0])))
                elif kind == _ABORT:
                    self._give_up(set(map(str, _decode(frames[0]))))
            ready = [request for due, request in self._due if due <= boot_ns()]
            self._due = [one for one in self._due if one[1] not in ready]
            for request in ready:
                self._begin(request)
            if self._server.held.is_set():
                while self._waiting:
                    self._token(self._waiting.pop(0)[0], END, finish=0)

    def _give_up(self, names: set[str]) -> None:
        self._due = [one for one in self._due if one[1][0] not in names]
        self._waiting = [request for request in self._waiting if request[0] not in names]
        self._say([], None)
        with self._server.news:
            self._server.aborted |= names
            self._server.news.notify_all()

    def _begin(self, request: list[Any]) -> None:
        name, prompt = request[0], tuple(request[1])
        cached = len(prompt) - 1 if self._server.caches and prompt in self._prompts else 0
        self._prompts.add(prompt)
        self._server.cached += cached
        told = {
            "num_prompt_tokens": len(prompt),
            "num_computed_tokens": len(prompt) - cached,
            "num_cached_tokens": cached,
            "num_local_cached_tokens": cached,
            "num_external_cached_tokens": 0,
            "num_cache_creation_tokens": 0,
        }
        self._waiting.append(request)
        for number in range(TOKENS - 1):
            word = 6 + number % 3
            self._token(name, word, told=told if number == 0 else None)

    def _token(self, name: str, token: int, *, finish: int | None = None, told: dict[str, int] | None = None) -> None:
        output: list[Any] = [name, [token], None, None, None, finish]
        if told is not None:
            now = boot_ns() / 1e9
            events = [{"type": kind, "timestamp": now} for kind in (_QUEUED, _SCHEDULED)]
            output += [None, events, None, None, None, told]
        self._say([output], told)

    def _say(self, outputs: list[Any], told: dict[str, int] | None) -> None:
        self._said.send(_encode([0, outputs, self._state(told), boot_ns() / 1e9]))

    def _state(self, told: dict[str, int] | None) -> dict[str, Any]:
        """What a scheduler says with each step; `told` of a prompt that was read in this one."""
        running = len(self._waiting)
        queries, hits = (told["num_prompt_tokens"], told["num_cached_tokens"]) if told else (0, 0)
        prefixes = {"reset": False, "requests": int(told is not None), "queries": queries, "hits": hits}
        preempted = {"preempted_requests": 0, "preempted_queries": 0, "preempted_hits": 0, "hits_by_source": {}}
        return _QUIET | {
            "num_running_reqs": running,
            "num_waiting_reqs": len(self._due),
            "kv_cache_usage": running / 256,
            "prefix_cache_stats": prefixes | preempted,
        }


def _listener(stack: ExitStack) -> socket.socket:
    server = stack.enter_context(socket.socket())
    server.bind(("127.0.0.1", 0))
    server.listen(64)
    server.set_inheritable(True)
    return server


@contextmanager
def vllm_rs(folder: Path) -> Iterator[VllmRs]:
    """Start the front end and the core; it is ready when this yields, and gone when the body ends."""
    binary = need("vllm-rs")
    pytest.importorskip("zmq", reason="pyzmq speaks to the front end of vLLM")
    arguments = {
        "model_tag": str(write_model(folder / "model")),
        "served_model_name": [MODEL],
        "engine_ready_timeout_secs": PATIENCE_SECONDS,
        "http_timeout_keep_alive": 5,
        "enable_request_id_headers": True,
    }
    with ExitStack() as stack:
        http, into, out = (_listener(stack) for _ in range(3))
        ports = [one.getsockname()[1] for one in (http, into, out)]
        log = stack.enter_context((folder / "vllm-rs.log").open("wb"))
        command = [
            binary, "frontend", "--listen-fd", http.fileno(), "--input-listener-fd", into.fileno(),
            "--output-listener-fd", out.fileno(), "--engine-start-index", 0, "--engine-count", 1,
            "--data-parallel-size", 1, "--args-json", json.dumps(arguments),
        ]  # fmt: skip
        child = subprocess.Popen(
            [str(word) for word in command],
            pass_fds=[one.fileno() for one in (http, into, out)],
            stdout=log,
            stderr=log,
            env=os.environ | {"NO_COLOR": "1"},
        )
        server = VllmRs(f"http://127.0.0.1:{ports[0]}")
        server.held.set()
        for one in (http, into, out):
            one.close()
        core = _Core(server, ports[1], ports[2])
        try:
            _until_healthy(server.url, child, folder / "vllm-rs.log")
            yield server
        finally:
            child.terminate()
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            core.stop()


def _until_healthy(url: str, child: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = boot_ns() + PATIENCE_SECONDS * 1_000_000_000
    while boot_ns() < deadline and child.poll() is None:
        try:
            with urlopen(f"{url}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except (URLError, OSError):
            try:
                child.wait(0.1)
            except subprocess.TimeoutExpired:
                pass
    raise AssertionError(f"vllm-rs did not become ready:\n{log.read_text()[-3000:]}")
