"""gRPC through the sidecar beside nginx (`grpc_pass`): same engine, same load, each pinned to the same one core.

The sidecar does its whole work: every call is metered, its records are made durable and shipped to a sink that accepts
them. nginx forwards only. Engine, load and sink share the other core.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import msgspec

from bench.figures import Figure
from bench.grpc_wire import BURST, PACED, TOKENS, UNARY
from bench.sidecar import SIDECAR, Sink, cpu_seconds, free_ports, process

ROUNDS = 3
SECONDS = 3.0
AT_ONCE = 16
STREAMS = 200  # paced ones at once
ROOT = Path(__file__).resolve().parent.parent
BARS = {UNARY: 4.0, BURST: 20.0, PACED: 3.0}  # times nginx's CPU

NGINX = """
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.err;
events {{ worker_connections 2048; }}
http {{
    access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    keepalive_requests 100000000;
    upstream engine {{ server 127.0.0.1:{engine}; keepalive 256; keepalive_requests 100000000; }}
    server {{ listen 127.0.0.1:{port} http2; location / {{ grpc_pass grpc://engine; }} }}
}}
"""

Seen = tuple[float, float, float]  # calls a second (0: paced), median latency in seconds, CPU seconds for each call
Way = tuple[str, int, int | None]  # its name, its port, the process whose CPU is taken


def wire(*arguments: object) -> list[str]:
    """A command of `bench.grpc_wire`."""
    return [sys.executable, "-m", "bench.grpc_wire", *map(str, arguments)]


def once(port: int, kind: str, pid: int | None, core: int, seconds: float = SECONDS) -> Seen:
    """One run of the load."""
    before = cpu_seconds(pid) if pid is not None else 0.0
    what = wire("streams", port, STREAMS) if kind == PACED else wire("load", port, AT_ONCE, seconds, kind)
    command = ["taskset", "-c", str(core), *what]
    seen = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=90, cwd=ROOT).stdout)
    if kind == PACED and seen["calls"] != STREAMS:
        raise RuntimeError(f"{seen['calls']} of {STREAMS} streams ended well")
    used = cpu_seconds(pid) - before if pid is not None else 0.0
    return seen.get("per_second", 0.0), seen["p50"], used / seen["calls"]


@contextmanager
def all_ways(kind: str, nginx: str, cores: tuple[int, int], sink: Sink) -> Iterator[list[Way]]:
    """Engine, nginx and sidecar, running."""
    proxy_core, other_core = cores
    engine_port, nginx_port, sidecar_port, admin_port = free_ports(4)
    with tempfile.TemporaryDirectory() as name:
        config = Path(name) / "nginx.conf"
        config.write_text(NGINX.format(folder=name, engine=engine_port, port=nginx_port))
        peer = [nginx, "-p", name, "-c", str(config), "-e", f"{name}/nginx.err"]
        settings = {
            "listen": f"127.0.0.1:{sidecar_port}",
            "admin_listen": f"127.0.0.1:{admin_port}",
            "grpc": {"upstream": f"http://127.0.0.1:{engine_port}"},
            "agent_url": f"http://127.0.0.1:{sink.port}",
            "name": "bench",
            "spool_dir": f"{name}/spool",
        }
        sidecar = [sys.executable, "-c", SIDECAR, msgspec.json.encode(settings).decode()]
        with (
            process(wire("engine", engine_port, kind), other_core, engine_port),
            process(peer, proxy_core, nginx_port) as nginx_pid,
            process(sidecar, proxy_core, sidecar_port) as sidecar_pid,
        ):
            yield [
                ("direct", engine_port, None),
                ("nginx", nginx_port, nginx_pid),
                ("sidecar", sidecar_port, sidecar_pid),
            ]


def rounds_of(kind: str, nginx: str, cores: tuple[int, int], sink: Sink) -> dict[str, list[Seen]]:
    """Alternating rounds."""
    found: dict[str, list[Seen]] = {"direct": [], "nginx": [], "sidecar": []}
    with all_ways(kind, nginx, cores, sink) as ways:
        for _, port, _ in ways:
            once(port, kind, None, cores[1], 0.5)
        for number in range(ROUNDS):
            for way, port, pid in ways if number % 2 == 0 else reversed(ways):
                found[way].append(once(port, kind, pid, cores[1]))
    return found


def figures_of(kind: str, found: dict[str, list[Seen]]) -> list[Figure]:
    """What is reported of one kind of call."""
    middle: Callable[[str, int], float] = lambda way, index: median(each[index] for each in found[way])  # noqa: E731
    for way in found:
        rate, p50, cpu = (middle(way, index) for index in range(3))
        print(f"# gRPC {kind}, {way}: {rate:.0f} calls/s, p50 {p50 * 1e3:.2f} ms, {cpu * 1e6:.0f} us CPU a call")
    ours, theirs = middle("sidecar", 2), middle("nginx", 2)
    figures = [_figure(f"grpc_{kind}_cpu_vs_nginx", ours / theirs, "ratio", BARS[kind])]
    if kind == UNARY:
        figures.append(_figure("grpc_unary_cpu_per_call", ours * 1e6, "us", 600.0))
    elif kind == BURST:
        figures.append(_figure("grpc_burst_cpu_per_message", ours / TOKENS[kind] * 1e6, "us", 40.0))
    else:
        late = middle("sidecar", 1) - middle("direct", 1)
        figures.append(_figure("grpc_paced_cpu_per_message", ours / TOKENS[kind] * 1e6, "us", 60.0))
        figures.append(_figure("grpc_paced_added_to_2.56_s", late * 1e3, "ms", 50.0))
    return figures


def _figure(name: str, value: float, unit: str, bar: float) -> Figure:
    return Figure(name=name, value=value, unit=unit, bar=bar, better="lower")


def run() -> list[Figure]:
    """The figures; RuntimeError says what is missing on this machine."""
    nginx = shutil.which("nginx")
    if nginx is None:
        raise RuntimeError("the gRPC benchmark needs nginx (apt-get install nginx-light)")
    available = sorted(os.sched_getaffinity(0))
    cores = available[0], available[-1]
    os.sched_setaffinity(0, {cores[1]})
    sink = Sink()
    try:
        figures = [
            figure for kind in (UNARY, BURST, PACED) for figure in figures_of(kind, rounds_of(kind, nginx, cores, sink))
        ]
    finally:
        os.sched_setaffinity(0, set(available))
        sink.server.shutdown()
    if sink.outcomes != {"ok None None", "ok None 100", "ok None 128"}:
        raise RuntimeError(f"the records are wrong: {sink.outcomes}")
    return figures
