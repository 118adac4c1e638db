"""`engineroom run` as a process: nothing configured, wrong settings, faults below it, and a real Prometheus on top."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from agent.demo.gpus import machine
from agent.demo.gpus.control import Control, write
from tests.support.agent import ROOT, agent, free_port
from tests.support.alertmanager import Alertmanager
from tests.support.components import need
from tests.support.nvml.library import CLibrary

SIMULATED = ("--simulate-gpus", "h100x8")


def engineroom(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "agent", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_with_nothing_configured_and_no_gpu_it_works_and_says_so(tmp_path: Path) -> None:
    with agent(tmp_path / "data", environment={"LD_LIBRARY_PATH": str(tmp_path)}) as running:
        running.ready()
        status, page = running.get("/")
        assert status == 200
        assert "libnvidia-ml.so.1" in page
        assert running.json("/api/v1/cost/reconcile")["reconciles"]
        assert running.metric("engineroom_gpu_up") is None
        assert running.stop() == 0


def test_a_wrong_configuration_ends_with_status_2_and_names_the_key(tmp_path: Path) -> None:
    file = tmp_path / "engineroom.yaml"
    file.write_text("gpus: {intervall_seconds: 1}\n")
    for command in (["check", str(file)], ["run", "--config", str(file)]):
        done = engineroom(*command)
        assert done.returncode == 2
        assert "gpus.intervall_seconds: no such key; known here: call_deadline_seconds" in done.stderr
        assert "Traceback" not in done.stderr


def test_check_reads_what_the_file_names(tmp_path: Path) -> None:
    done = engineroom("check", str(ROOT / "deploy/examples/engineroom.yaml"))
    assert done.returncode == 0, done.stderr
    assert "rules: " in done.stdout
    file = tmp_path / "engineroom.yaml"
    file.write_text("prices: {file: nowhere.yaml}\n")
    done = engineroom("check", str(file))
    assert done.returncode == 2
    assert "prices.file" in done.stderr
    assert "nowhere.yaml cannot be read" in done.stderr


def test_a_taken_port_and_a_taken_folder_are_named(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with agent(data, *SIMULATED) as first:
        first.ready()
        any_port = {"ENGINEROOM__API__LISTEN": "127.0.0.1:0"}
        ports = {"ENGINEROOM__API__PROBES_LISTEN": f"127.0.0.1:{free_port()}"}
        done = engineroom(
            "run", ENGINEROOM__STORAGE__DATA_DIR=str(data), ENGINEROOM__API__LISTEN="127.0.0.1:0", **ports
        )
        assert done.returncode == 2
        assert f"in use by another agent (process {first.process.pid})" in done.stderr
        other = str(tmp_path / "other")
        taken = f"127.0.0.1:{first.api}"
        done = engineroom("run", ENGINEROOM__STORAGE__DATA_DIR=other, ENGINEROOM__API__LISTEN=taken, **ports)
        assert done.returncode == 2
        assert "api.listen: cannot listen on" in done.stderr
        done = engineroom(
            "run",
            ENGINEROOM__STORAGE__DATA_DIR=other,
            **any_port,
            ENGINEROOM__API__PROBES_LISTEN=f"127.0.0.1:{first.probes}",
        )
        assert done.returncode == 2
        assert "api.probes_listen: cannot listen on" in done.stderr
        assert "Traceback" not in done.stderr


def test_sigterm_books_everything_and_a_restart_goes_on_with_a_gap(tmp_path: Path) -> None:
    data, prices = tmp_path / "data", {"prices": {"file": str(ROOT / "deploy/examples/prices.yaml"), "currency": "USD"}}
    with agent(data, *SIMULATED, config=prices) as running:
        running.ready()
        running.until(lambda: running.metric("engineroom_cost_total{"), "the first booked money")
        assert running.stop() == 0
    with agent(data, *SIMULATED, config=prices) as running:
        running.ready()
        gap = running.until(lambda: running.json("/api/v1/cost/reconcile")["parts_nano"].get("gap"), "the gap")
        proof = running.json("/api/v1/cost/reconcile")
        assert gap > 0
        assert proof["reconciles"]
        assert sum(proof["parts_nano"].values()) == proof["bill_nano"]


@pytest.mark.component("cc")
def test_a_gpu_call_that_hangs_for_ever_costs_that_gpu_and_nothing_else(tmp_path: Path) -> None:
    library = CLibrary(machine.load("rtx4080sx2"), tmp_path, tmp_path / "table", need("cc"))
    environment = library.environment
    config = {"gpus": {"call_deadline_seconds": 1}, "rules": {"interval_seconds": 1, "hold_scale": 0.01}}
    data = tmp_path / "data"
    with agent(data, config=config, environment=environment) as running:
        running.ready()
        running.until(lambda: running.metric('engineroom_gpu_up{gpu="0"') == 1, "GPU 0 is up")
        library.wants(hang=[0])
        running.until(lambda: running.metric('engineroom_gpu_up{gpu="0"') == 0, "GPU 0 is hung")
        running.until(lambda: running.metric('engineroom_gpu_power_watts{gpu="1"') is not None, "GPU 1 is read")
        assert running.get("/livez", port=running.probes)[0] == 200
        running.until(
            lambda: [a for a in running.json("/api/v1/alerts")["data"]["alerts"] if a["state"] == "firing"], "the alert"
        )
        os.kill(running.process.pid, signal.SIGKILL)
    with agent(data, config=config, environment=environment) as replacement:
        replacement.ready()
        replacement.until(lambda: replacement.metric('engineroom_gpu_up{gpu="1"') == 1, "the other GPU in a new agent")
        assert replacement.stop() == 0


@pytest.mark.component("cc")
@pytest.mark.parametrize("stops", [True, False])
def test_a_container_that_has_lost_its_gpus_stops_where_that_is_asked_for(tmp_path: Path, stops: bool) -> None:
    library = CLibrary(machine.load("rtx4080sx2"), tmp_path, tmp_path / "table", need("cc"))
    config = {"gpus": {"interval_seconds": 0.2, "stop_when_access_is_lost": stops}}
    with agent(tmp_path / "data", config=config, environment=library.environment) as running:
        running.ready()
        running.until(lambda: running.metric('engineroom_gpu_up{gpu="0"') == 1, "GPU 0 is up")
        library.wants(returns={"*": {"0": 999, "1": 999}})
        if stops:
            assert running.process.wait(30) == 0
        else:
            running.until(lambda: "every GPU answers" in running.get("/api/v1/doctor")[1], "it is said")
            assert running.process.poll() is None


def test_a_full_disk_stops_the_booking_and_loses_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", disk], check=False).returncode
    ):
        pytest.skip("a small file system can be mounted by root only")
    try:
        with agent(disk / "data", *SIMULATED, config={}) as running:
            running.ready()
            running.until(lambda: running.metric("engineroom_gpu_slot_seconds_total"), "booked time")
            filler = fill(disk)
            failing = 'engineroom_cycle_up{cycle="settlement"'
            running.until(lambda: running.metric(failing) == 0, "the settlement says that it fails")
            assert running.get("/livez", port=running.probes)[0] == 200
            assert "cannot be written" in running.get("/")[1]
            filler.unlink()
            running.until(lambda: running.metric(failing) == 1, "the settlement goes on by itself")
            proof = running.json("/api/v1/cost/reconcile")
            assert proof["reconciles"]
            assert not any("gap" in slot["parts_ns"] for slot in proof["slots"])
            fill(disk)
            running.until(lambda: running.metric(failing) == 0, "the disk is full again")
            assert running.stop() == 0
    finally:
        subprocess.run(["umount", disk], check=True)


def fill(disk: Path) -> Path:
    """Use up all that is left on a small file system; the file that does it."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return filler


@pytest.mark.component("prometheus")
def test_a_real_prometheus_scrapes_it_without_a_warning(tmp_path: Path) -> None:
    prometheus, promtool = need("prometheus"), need("promtool")
    with agent(tmp_path / "data", *SIMULATED) as running:
        running.ready()
        page = running.get("/metrics")[1]
        checked = subprocess.run(
            [promtool, "check", "metrics"], input=page, capture_output=True, text=True, check=False
        )
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
        scrape = {"job_name": "engineroom", "static_configs": [{"targets": [f"127.0.0.1:{running.api}"]}]}
        rules = [
            str(ROOT / "alert-rules" / name) for name in ("node.yaml", "engines.yaml", "gpu.yaml", "delivery.yaml")
        ]
        file = tmp_path / "prometheus.yml"
        file.write_text(
            json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": [scrape], "rule_files": rules})
        )
        port, log = free_port(), tmp_path / "prometheus.log"
        command = [prometheus, f"--config.file={file}", f"--storage.tsdb.path={tmp_path / 'tsdb'}"]
        with (
            log.open("w") as output,
            subprocess.Popen(
                [*command, f"--web.listen-address=127.0.0.1:{port}"], stderr=output, stdout=output
            ) as server,
        ):
            try:
                query = f"http://127.0.0.1:{port}/api/v1/query?query="

                def value(promql: str) -> str | None:
                    try:
                        with urllib.request.urlopen(query + promql, timeout=5) as answer:
                            result = json.load(answer)["data"]["result"]
                    except OSError:
                        return None
                    return result[0]["value"][1] if result else None

                running.until(lambda: value("count(engineroom_gpu_power_watts)") == "8", "all GPUs in Prometheus")
                assert value("up") == "1"
                assert value("scrape_samples_post_metric_relabeling") == value("scrape_samples_scraped")
            finally:
                server.terminate()
        complaints = [line for line in log.read_text().splitlines() if "level=warn" in line or "level=error" in line]
        assert [line for line in complaints if "Received SIGTERM" not in line] == []


@pytest.mark.component("prometheus-alertmanager")
async def test_a_real_alertmanager_shows_the_alert_and_later_its_resolution(tmp_path: Path) -> None:
    control = tmp_path / "gpus.json"
    write(control, Control(temperature={"0": 93.0}))
    manager = Alertmanager(need("prometheus-alertmanager"), tmp_path / "alertmanager")
    manager.start()
    config = {
        "rules": {"interval_seconds": 0.5, "hold_scale": 0.01},
        "exporters": {"alertmanagers": [manager.url]},
    }
    try:
        await manager.ready()
        with agent(tmp_path / "data", *SIMULATED, "--simulate-control", str(control), config=config) as running:
            (alert,) = await manager.until(bool)
            assert alert["labels"]["alertname"] == "GPUTemperatureHigh"
            assert alert["labels"]["gpu"] == "0"
            assert alert["labels"]["evaluator"] == "node"
            assert alert["labels"]["simulated"] == "true"
            write(control, Control())
            await manager.until(lambda alerts: alerts == [])
            assert running.metric("engineroom_alerts_delivered_total") is not None
    finally:
        manager.kill()


@pytest.mark.component("faketime")
def test_steps_of_the_wall_clock_reach_neither_the_bill_nor_the_rules(tmp_path: Path) -> None:
    need("faketime")
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    wall = tmp_path / "wall"
    wall.write_text("+0")
    environment = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(wall),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    prices = {"file": str(ROOT / "deploy/examples/prices.yaml"), "currency": "CNY"}
    config = {"prices": prices, "rules": {"interval_seconds": 0.5}}
    with agent(tmp_path / "data", *SIMULATED, config=config, environment=environment) as running:
        running.ready()
        step = "engineroom_clock_step_seconds{node="
        for offset in (3600, -7200):
            wall.write_text(f"{offset:+d}")
            running.until(lambda: abs((running.metric(step) or 0) - offset) < 60, "the step is seen")  # noqa: B023 - run at once
            ticks = "count_over_time(engineroom_gpu_up[5s])"
            before = running.metric('engineroom_cycle_runs_total{cycle="rules"') or 0
            running.until(
                lambda: (running.metric('engineroom_cycle_runs_total{cycle="rules"') or 0) > before + 5,  # noqa: B023
                "the rules go on",
            )
            answer = running.json(f"/api/v1/query?query={ticks}")["data"]["result"]
            assert all(float(series["value"][1]) >= 2 for series in answer)
            assert running.json("/api/v1/alerts")["data"]["alerts"] == []
            assert running.get("/livez", port=running.probes)[0] == 200
        running.until(lambda: running.metric("engineroom_cost_total{"), "booked money")
        proof = running.json("/api/v1/cost/reconcile")
        assert proof["reconciles"]
        assert "gap" not in proof["parts_nano"]
        assert all(slot["wall_ns"] < 120 * 10**9 for slot in proof["slots"])
        assert running.stop() == 0
