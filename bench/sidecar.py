"""The sidecar beside nginx: same backend, same load, each pinned to the same one core, rounds alternating.

The sidecar does its whole work: every request is metered and its records are shipped to a sink that accepts them. nginx
forwards only. Backend, load generator and sink share the other core.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median

import msgspec

from agent.core.requests import RecordBatch, RecordReceipt, RequestEnded
from bench.figures import Figure

ROUNDS = 5
SECONDS = 4
CONNECTIONS = 16
REQUEST = '{"model":"tiny","stream":true,"messages":[{"role":"user","content":"hello there"}]}'

NGINX = """
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.err;
events {{ worker_connections 1024; }}
http {{
    access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    keepalive_requests 100000000;
    upstream engine {{ server 127.0.0.1:{backend}; keepalive 64; keepalive_requests 100000000; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
        }}
    }}
}}
"""
LUA = """
wrk.method = "POST"
wrk.body = '{body}'
wrk.headers["content-type"] = "application/json"
"""
SIDECAR = """
import json, sys
import anyio, structlog
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
from agent.sidecar.app import serve
from agent.sidecar.settings import SidecarSettings
anyio.run(serve, SidecarSettings(**json.loads(sys.argv[1])), backend_options={"use_uvloop": True})
"""


@dataclass(slots=True)
class Round:
    """One run of the load generator through one proxy."""

    requests_per_second: float
    p50_seconds: float
    p99_seconds: float
    cpu_seconds_per_request: float


class Sink:
    """Takes record batches as the agent would; counts the requests that ended."""

    def __init__(self) -> None:
        self.ended = 0
        self.outcomes: set[str] = set()
        sink = self
        decoder = msgspec.msgpack.Decoder(RecordBatch)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                batch = decoder.decode(self.rfile.read(int(self.headers["content-length"])))
                for event in batch.events:
                    if isinstance(event, RequestEnded):
                        sink.ended += 1
                        usage = event.record.usage
                        sink.outcomes.add(f"{event.record.outcome} {usage.input_tokens} {usage.output_tokens}")
                body = msgspec.msgpack.encode(
                    RecordReceipt(accepted_through=max([e.sequence for e in batch.events], default=0))
                )
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    import socket

    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(s.getsockname()[1]) for s in sockets]
    for each in sockets:
        each.close()
    return ports


@contextmanager
def process(command: list[str], core: int, port: int) -> Iterator[int]:
    """A child pinned to one core, from the moment it accepts connections on `port`; its pid."""
    import socket

    pinned = ["taskset", "-c", str(core), *command]  # from its first instruction on, so that nginx's worker inherits it
    child = subprocess.Popen(pinned, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if child.poll() is not None:
                    assert child.stderr is not None
                    raise RuntimeError(f"{command[0]} ended: {child.stderr.read().decode()}") from None
                threading.Event().wait(0.05)
        yield child.pid
    finally:
        child.terminate()
        child.wait(20)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its children that still live."""
    total = 0
    for each in (pid, *children(pid)):
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """Direct children of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def resident_bytes(pid: int) -> float:
    """Resident memory of a process."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return float(found[1]) * 1024 if found else 0.0


def seconds_of(text: str) -> float:
    """`1.25ms` -> 0.00125."""
    value, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]
    return float(value) * {"us": 1e-6, "ms": 1e-3, "s": 1.0}[unit]


def load(wrk: str, script: Path, port: int, pid: int | None, core: int, seconds: float = SECONDS) -> Round:
    """Run wrk against a port; `pid` is the proxy whose CPU time is taken."""
    before = cpu_seconds(pid) if pid else 0.0
    command = [
        wrk,
        "-t1",
        f"-c{CONNECTIONS}",
        f"-d{seconds}s",
        "--latency",
        "-s",
        str(script),
        f"http://127.0.0.1:{port}/v1/chat/completions",
    ]
    out = subprocess.run(
        ["taskset", "-c", str(core), *command], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    if "Non-2xx" in out or "Socket errors" in out:
        raise RuntimeError(f"requests failed:\n{out}")
    used = cpu_seconds(pid) - before if pid else 0.0
    requests = int(re.search(r"(\d+) requests in", out)[1])  # type: ignore[index]
    quantiles = dict(re.findall(r"(\d+)%\s+([\d.]+(?:us|ms|s))", out))
    return Round(
        float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1]),  # type: ignore[index]
        seconds_of(quantiles["50"]),
        seconds_of(quantiles["99"]),
        used / requests,
    )


def run() -> list[Figure]:
    """The figures; RuntimeError says what is missing on this machine."""
    nginx, wrk = shutil.which("nginx"), shutil.which("wrk")
    if nginx is None or wrk is None:
        raise RuntimeError("the sidecar benchmark needs nginx and wrk (apt-get install nginx-light wrk)")
    cores = sorted(os.sched_getaffinity(0))
    proxy_core, other_core = cores[0], cores[-1]
    os.sched_setaffinity(0, {other_core})
    backend_port, nginx_port, sidecar_port, admin_port = free_ports(4)
    sink = Sink()
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            script = folder / "post.lua"
            script.write_text(LUA.format(body=REQUEST))
            config = folder / "nginx.conf"
            config.write_text(NGINX.format(folder=folder, backend=backend_port, port=nginx_port))
            settings = {
                "listen": f"127.0.0.1:{sidecar_port}",
                "admin_listen": f"127.0.0.1:{admin_port}",
                "upstream": f"http://127.0.0.1:{backend_port}",
                "agent_url": f"http://127.0.0.1:{sink.port}",
                "name": "bench",
                "spool_dir": str(folder / "spool"),
            }
            backend = [sys.executable, "-m", "bench.sidecar_backend", str(backend_port)]
            sidecar = [sys.executable, "-c", SIDECAR, msgspec.json.encode(settings).decode()]
            peer = [nginx, "-p", name, "-c", str(config), "-e", str(folder / "nginx.err")]
            with (
                process(backend, other_core, backend_port),
                process(peer, proxy_core, nginx_port) as nginx_pid,
                process(sidecar, proxy_core, sidecar_port) as sidecar_pid,
            ):
                return compare(wrk, script, other_core, (nginx_port, nginx_pid), (sidecar_port, sidecar_pid), sink)
    finally:
        os.sched_setaffinity(0, set(cores))
        sink.server.shutdown()


def compare(
    wrk: str, script: Path, core: int, nginx: tuple[int, int], sidecar: tuple[int, int], sink: Sink
) -> list[Figure]:
    """Alternating rounds, the order turned round each time; medians."""
    theirs: list[Round] = []
    ours: list[Round] = []
    for port, pid in (nginx, sidecar):
        load(wrk, script, port, pid, core, seconds=1)
    for number in range(ROUNDS):
        turns = [(theirs, nginx), (ours, sidecar)]
        for rounds, (port, pid) in turns if number % 2 == 0 else reversed(turns):
            rounds.append(load(wrk, script, port, pid, core))
    if not {"ok 9 20"} <= sink.outcomes <= {"ok 9 20", "client_abort None None"}:  # wrk leaves at its deadline
        raise RuntimeError(f"the records are wrong: {sink.outcomes}")
    ratio = {
        name: median(getattr(r, name) for r in ours) / median(getattr(r, name) for r in theirs)
        for name in Round.__slots__  # type: ignore[attr-defined]
    }
    cpu = median(r.cpu_seconds_per_request for r in ours)
    for name, rounds in (("nginx", theirs), ("sidecar", ours)):
        speeds = " ".join(f"{r.requests_per_second:.0f}" for r in rounds)
        print(f"# {name}: {speeds} requests/s; p50 {median(r.p50_seconds for r in rounds) * 1e3:.2f} ms")
    return [
        Figure(
            name="sidecar_throughput_vs_nginx",
            value=ratio["requests_per_second"],
            unit="ratio",
            bar=0.7,
            better="higher",
        ),
        Figure(name="sidecar_p50_vs_nginx", value=ratio["p50_seconds"], unit="ratio", bar=1.5, better="lower"),
        Figure(name="sidecar_p99_vs_nginx", value=ratio["p99_seconds"], unit="ratio", bar=3.0, better="lower"),
        Figure(name="sidecar_cpu_per_request", value=cpu * 1e6, unit="us", bar=120, better="lower"),
        Figure(name="sidecar_memory", value=resident_bytes(sidecar[1]) / 2**20, unit="MiB", bar=128, better="lower"),
    ]
