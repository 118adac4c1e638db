"""How long clients are without the sidecar: SIGTERM to an idle one → an answer through its successor.

The successor is started when the old one has ended, as systemd and the kubelet do it. An answer counts, not an accepted
connection: connections are accepted while the successor is still being loaded.
"""

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from bench.figures import Figure

ROOT = Path(__file__).resolve().parents[1]
RESTARTS = 5
BAR_SECONDS = 1.0
PATIENCE_SECONDS = 30
LOOK_SECONDS = 0.002


class _Engine(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        """Nothing: the benchmark prints figures only."""


@contextmanager
def _engine() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Engine) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answered(port: int) -> bool:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    try:
        client.request("GET", "/v1/models")
        return client.getresponse().read() == b"ok"
    except OSError:
        return False
    finally:
        client.close()


def _start(environment: dict[str, str], port: int) -> "subprocess.Popen[bytes]":
    """A sidecar that has answered."""
    process = subprocess.Popen(
        [sys.executable, "-m", "agent", "--log-level", "error", "sidecar"], cwd=ROOT, env=environment
    )
    until = time.monotonic() + PATIENCE_SECONDS
    while not _answered(port):
        if process.poll() is not None or time.monotonic() > until:
            process.kill()
            raise RuntimeError(f"the sidecar did not come up; exit status {process.wait()}")
        time.sleep(LOOK_SECONDS)
    return process


def figures() -> list[Figure]:
    """The best of some restarts: what else runs on the machine makes them longer, never shorter."""
    seconds = []
    with tempfile.TemporaryDirectory(prefix="engineroom-restart-") as folder, _engine() as engine:
        port = _free_port()
        given = {
            "listen": f"127.0.0.1:{port}",
            "admin_listen": "127.0.0.1:0",
            "upstream": f"http://127.0.0.1:{engine}",
            "agent_url": "http://127.0.0.1:9",
            "spool_dir": folder,
            "spool__min_free_bytes": "0",
        }
        # As it runs where it is installed: with the bytecode of its modules kept.
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        environment |= {f"ENGINEROOM__SIDECAR__{key.upper()}": value for key, value in given.items()}
        process = _start(environment, port)
        try:
            for _ in range(RESTARTS):
                began = time.monotonic()
                process.send_signal(signal.SIGTERM)
                process.wait(PATIENCE_SECONDS)
                process = _start(environment, port)
                seconds.append(time.monotonic() - began)
        finally:
            process.kill()
            process.wait()
    return [
        Figure(name="sidecar_restart_seconds", value=min(seconds), unit="s", bar=BAR_SECONDS, better="lower"),
    ]


run = figures  # the name that `./dev bench` calls
