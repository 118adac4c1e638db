"""The agent at rest: 8 simulated GPUs at 1 s, two engines at 5 s, rules at 5 s, no traffic. CPU, memory, start-up.

The engines are two loopback servers that answer with recorded vLLM pages, a few values changed at every scrape.
"""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from bench.figures import Figure

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("0.33.0", "0.26.0")
SETTLE_SECONDS = 10
WATCH_SECONDS = 60
CPU_BAR = 0.025
MEMORY_BAR_MIB = 170
START_BAR_SECONDS = 2.0
PATIENCE_SECONDS = 30


def _engine(version: str) -> ThreadingHTTPServer:
    page = (ROOT / "tests/engines/vllm" / version / "metrics.prom").read_text()
    scrapes = 0

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            nonlocal scrapes
            if self.path == "/metrics":
                scrapes += 1
                body = re.sub(r"(tokens_total\{.*\}) .*", rf"\1 {1000 + scrapes * 10}.0", page).encode()
            elif self.path == "/v1/models":
                body = json.dumps({"data": [{"id": "m", "owned_by": "vllm"}]}).encode()
            else:
                body = b'{"version":"%s"}' % version.encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """The benchmark's own output stays readable."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def free_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def agent_with(
    folder: Path, targets: list[dict[str, object]], more: dict[str, dict[str, object]] | None = None
) -> Iterator[tuple[int, int]]:
    """`engineroom run` with 8 simulated GPUs and these engines, its data in `folder`; gives its pid and API port.

    `more` are settings by section, beside those that every benchmark needs.
    """
    port = free_port()
    config: dict[str, dict[str, object]] = {
        "node": {"name": "bench"},
        "storage": {"data_dir": str(folder / "data")},
        "engines": {"discover": False, "targets": targets},
        "prices": {"file": str(ROOT / "deploy/examples/prices.yaml"), "currency": "USD"},
        "api": {"listen": f"127.0.0.1:{port}", "probes_listen": f"127.0.0.1:{free_port()}"},
    }
    for section, settings in (more or {}).items():
        config.setdefault(section, {}).update(settings)
    file = folder / "engineroom.yaml"
    file.write_text(json.dumps(config))
    command = [sys.executable, "-m", "agent", "--log-level", "warning", "run", "--config", str(file)]
    process = subprocess.Popen([*command, "--simulate-gpus", "h100x8"], cwd=ROOT)
    try:
        yield process.pid, port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def first_page(port: int, is_complete: Callable[[str], bool]) -> str:
    """The agent's first /metrics page that is complete; asked for again and again."""
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE_SECONDS:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/metrics")
            page = connection.getresponse().read().decode()
        except OSError:
            time.sleep(0.01)
            continue
        if is_complete(page):
            return page
        time.sleep(0.02)
    raise RuntimeError("the agent showed no complete /metrics page")


def _shows_all(page: str) -> bool:
    gpus = len(re.findall(r"^engineroom_gpu_power_watts\{", page, re.MULTILINE))
    return gpus == 8 and page.count("engineroom_llm_up{") == len(PAGES)


def _seconds_to_first_page(port: int) -> float:
    began = time.monotonic()
    first_page(port, _shows_all)
    return time.monotonic() - began


def family(pid: int) -> list[int]:
    """A process, its children and theirs."""
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        children += [int(child) for child in (task / "children").read_text().split()]
    return [pid, *(grandchild for child in children for grandchild in family(child))]


def _cpu_seconds(pids: list[int]) -> float:
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def pss_mib(pids: list[int]) -> float:
    """Memory of these processes, what they share divided among all who share it."""
    total = 0
    for pid in pids:
        found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
        total += int(found.group(1)) if found else 0
    return total / 1024


def run() -> list[Figure]:
    """Start-up (median of three), then one minute at rest."""
    engines = [_engine(version) for version in PAGES]
    targets: list[dict[str, object]] = [
        {"name": f"engine-{n}", "url": f"http://127.0.0.1:{e.server_port}"} for n, e in enumerate(engines)
    ]
    starts = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder, agent_with(Path(folder), targets) as (pid, port):
            starts.append(_seconds_to_first_page(port))
    with tempfile.TemporaryDirectory() as folder, agent_with(Path(folder), targets) as (pid, port):
        _seconds_to_first_page(port)
        time.sleep(SETTLE_SECONDS)
        pids = family(pid)
        before, began = _cpu_seconds(pids), time.monotonic()
        time.sleep(WATCH_SECONDS)
        share = (_cpu_seconds(pids) - before) / (time.monotonic() - began)
        memory = pss_mib(family(pid))
    for engine in engines:
        engine.shutdown()
    return [
        Figure(
            name="agent_start_to_complete_metrics",
            value=sorted(starts)[1],
            unit="s",
            bar=START_BAR_SECONDS,
            better="lower",
        ),
        Figure(name="agent_cpu_at_rest", value=share, unit="cores", bar=CPU_BAR, better="lower"),
        Figure(name="agent_memory_pss", value=memory, unit="MiB", bar=MEMORY_BAR_MIB, better="lower"),
    ]
