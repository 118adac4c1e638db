"""How long the real /metrics page of `engineroom run` takes on a node of 16 GPUs with 7 MIG devices each."""

import http.client
import json
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
from msgspec.structs import replace

from agent.demo.gpus import machine
from agent.demo.gpus.machine import MigPlace

ROOT = Path(__file__).resolve().parents[1]
GPUS, SLICES = 16, 7
REQUESTS = 40


def _machine_file(folder: Path) -> Path:
    """Our MIG machine, 16 times and cut into the smallest slices."""
    one = machine.load("h100mig")
    facts = one.gpus[0]
    if facts.mig is None:
        raise RuntimeError("the machine file has no MIG facts")
    layout = tuple(MigPlace(profile="1g.10gb", gpu_instance=7 + place) for place in range(SLICES))
    cut = replace(facts, count=GPUS, pci_buses=(), mig=replace(facts.mig, layout=layout))
    file = folder / "mig.json"
    file.write_bytes(msgspec.json.encode(replace(one, name="mig", gpus=(cut,))))
    return file


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _fetch(connection: http.client.HTTPConnection) -> tuple[float, bytes]:
    began = time.perf_counter()
    connection.request("GET", "/metrics")
    body = connection.getresponse().read()
    return (time.perf_counter() - began) * 1000, body


def _connected(port: int) -> http.client.HTTPConnection:
    """A connection to the agent once its page shows all MIG devices."""
    began = time.monotonic()
    while time.monotonic() - began < 40:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            _, body = _fetch(connection)
        except OSError:
            time.sleep(0.05)
            continue
        if body.count(b"\nengineroom_gpu_mig_memory_total_bytes{") == GPUS * SLICES:
            return connection
        connection.close()
        time.sleep(0.2)
    raise RuntimeError("the agent's page did not show the MIG devices")


def page_milliseconds() -> float:
    """Median time of one GET over a kept connection, from the first byte sent to the last received."""
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), _port()
        config = {
            "node": {"name": "bench"},
            "storage": {"data_dir": str(folder / "data")},
            "engines": {"discover": False},
            "api": {"listen": f"127.0.0.1:{port}", "probes_listen": f"127.0.0.1:{_port()}"},
        }
        file = folder / "engineroom.yaml"
        file.write_text(json.dumps(config))
        command = [sys.executable, "-m", "agent", "--log-level", "warning", "run", "--config", str(file)]
        process = subprocess.Popen([*command, "--simulate-gpus", str(_machine_file(folder))], cwd=ROOT)
        try:
            connection = _connected(port)
            times = []
            for _ in range(REQUESTS):
                taken, body = _fetch(connection)
                times.append(taken)
                time.sleep(0.07)  # over some seconds, so that every phase of the agent's tick is met
            connection.close()
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)
    print(f"# /metrics with {GPUS * SLICES} MIG devices: {len(body)} bytes, {body.count(b'{')} series", flush=True)
    return statistics.median(times)
