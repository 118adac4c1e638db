"""The sidecar beside nginx: same backend, same load, each pinned to the same one core, rounds alternating.

The sidecar does its whole work: every request is metered, its records are made durable and shipped to a sink that
accepts them. nginx forwards only. Backend, load generator and sink share the other core.
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
STREAM_ROUNDS = 3
STREAMS = 200  # at once, for the CPU of slow streams
SPACING_SECONDS = 0.001
MANY_STREAMS = 2000  # at once, for the memory of each
CONNECTIONS = 16
REQUEST = '{"model":"tiny","stream":true,"messages":[{"role":"user","content":"hello there"}]}'

NGINX = """
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.err;
events {{ worker_connections 8192; }}
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
                if self.path != "/ingest/v1/records":
                    self.rfile.read(int(self.headers["content-length"]))
                    self.send_error(404)
                    return
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


def load(
    wrk: str, script: Path, port: int, pid: int | None, core: int, seconds: float = SECONDS, query: str = ""
) -> Round:
    """Run wrk against a port; `pid` is the proxy whose CPU time is taken."""
    before = cpu_seconds(pid) if pid else 0.0
    url = f"http://127.0.0.1:{port}/v1/chat/completions{query}"
    command = [wrk, "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", "-s", str(script), url]
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


def streams(port: int, pid: int, core: int, count: int) -> tuple[float, float]:
    """That many slow streams at once: CPU seconds of the proxy for each, and its memory while all are open."""
    command = [sys.executable, "-m", "bench.sidecar_streams", str(port), str(count), str(SPACING_SECONDS)]
    before = cpu_seconds(pid)
    with subprocess.Popen(["taskset", "-c", str(core), *command], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        if child.stdout.readline() != "open\n":
            raise RuntimeError("the streams could not be opened")
        memory = resident_bytes(pid)
        if child.stdout.readline() != f"done {count}\n":
            raise RuntimeError("not every stream ended well")
    return (cpu_seconds(pid) - before) / count, memory


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
    """All figures; the order of the two is turned round in each round."""
    idle = resident_bytes(sidecar[1])
    slow = _streams(core, nginx, sidecar)
    _, memory = streams(*sidecar, core, MANY_STREAMS)
    apart = _loads(wrk, script, core, nginx, sidecar, "?apart")
    at_once = _loads(wrk, script, core, nginx, sidecar, "")
    known = {"ok 9 20", "ok 9 128", "client_abort None None"}  # wrk leaves at its deadline
    if not {"ok 9 20"} <= sink.outcomes <= known | {f"client_abort None {n}" for n in range(21)}:
        raise RuntimeError(f"the records are wrong: {sink.outcomes}")
    mib = resident_bytes(sidecar[1]) / 2**20
    each = (memory - idle) / MANY_STREAMS / 1024
    return [
        _figure("sidecar_throughput_vs_nginx", apart["requests_per_second"], "ratio", 0.6, better="higher"),
        _figure("sidecar_p50_vs_nginx", apart["p50_seconds"], "ratio", 2.0),
        _figure("sidecar_p99_vs_nginx", apart["p99_seconds"], "ratio", 2.0),
        # The whole stream in one write, which no engine does: what is left is the cost of a request, not of its chunks.
        _figure("sidecar_throughput_at_once_vs_nginx", at_once["requests_per_second"], "ratio", 0.6, better="higher"),
        _figure("sidecar_p50_at_once_vs_nginx", at_once["p50_seconds"], "ratio", 2.0),
        _figure("sidecar_p99_at_once_vs_nginx", at_once["p99_seconds"], "ratio", 2.0),
        _figure("sidecar_cpu_128_chunk_stream_vs_nginx", slow, "ratio", 1.5),
        _figure("sidecar_memory_per_stream", each, "KiB", 20),
        _figure("sidecar_memory", mib, "MiB", 128),
    ]


def _figure(name: str, value: float, unit: str, bar: float, better: str = "lower") -> Figure:
    return Figure(name=name, value=value, unit=unit, bar=bar, better=better)  # type: ignore[arg-type] # two words


def _loads(
    wrk: str, script: Path, core: int, nginx: tuple[int, int], sidecar: tuple[int, int], query: str
) -> dict[str, float]:
    """Ratios of medians, ours to nginx's."""
    theirs: list[Round] = []
    ours: list[Round] = []
    for port, pid in (nginx, sidecar):
        load(wrk, script, port, pid, core, seconds=1, query=query)
    for number in range(ROUNDS):
        turns = [(theirs, nginx), (ours, sidecar)]
        for rounds, (port, pid) in turns if number % 2 == 0 else reversed(turns):
            rounds.append(load(wrk, script, port, pid, core, query=query))
    for name, rounds in (("nginx", theirs), ("sidecar", ours)):
        speeds = " ".join(f"{r.requests_per_second:.0f}" for r in rounds)
        p50, cpu = median(r.p50_seconds for r in rounds), median(r.cpu_seconds_per_request for r in rounds)
        print(f"# {name}{query}: {speeds} requests/s; p50 {p50 * 1e3:.2f} ms; CPU {cpu * 1e6:.0f} us a request")
    return {
        name: median(getattr(r, name) for r in ours) / median(getattr(r, name) for r in theirs)
        for name in Round.__slots__  # type: ignore[attr-defined]
    }


def _streams(core: int, nginx: tuple[int, int], sidecar: tuple[int, int]) -> float:
    """CPU of one slow stream, ours to nginx's."""
    used: dict[int, list[float]] = {nginx[0]: [], sidecar[0]: []}
    for number in range(STREAM_ROUNDS):
        for port, pid in (nginx, sidecar) if number % 2 == 0 else (sidecar, nginx):
            used[port].append(streams(port, pid, core, STREAMS)[0])
    theirs, ours = median(used[nginx[0]]), median(used[sidecar[0]])
    print(f"# CPU of a stream of 128 chunks: nginx {theirs * 1e3:.2f} ms, sidecar {ours * 1e3:.2f} ms")
    return ours / theirs
