"""A node with MIG devices and a kubelet: what is said of each slot, on every surface of a real `engineroom run`."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from agent.demo.gpus.control import Control, SimulatedEvent, write
from tests.support.agent import RunningAgent, agent, free_port
from tests.support.kubelet import kubelet, pod


def config(folder: Path, dcgm: int) -> dict[str, Any]:
    return {
        "node": {"name": "n"},
        "gpus": {"slow_interval_seconds": 1, "kernel_log": {"path": str(folder / "kmsg")}},
        "workloads": {"interval_seconds": 1, "kubelet_sockets": [str(folder / "kubelet.sock")]},
        "exporters": {"dcgm": {"enabled": True, "listen": f"127.0.0.1:{dcgm}"}},
        "prices": {"currency": "USD", "file": "deploy/examples/prices.yaml"},
    }


def labels(page: str, metric: str) -> list[dict[str, str]]:
    """Labels of each series of a metric."""
    lines = [line for line in page.splitlines() if line.startswith(metric + "{")]
    return [dict(re.findall(r'(\w+)="([^"]*)"', line)) for line in lines]


def devices(running: RunningAgent) -> dict[str, str]:
    """GPU instance -> uuid of its MIG device."""
    found = labels(running.get("/metrics")[1], "engineroom_gpu_mig_info")
    return {one["gpu_instance"]: one["mig_uuid"] for one in found}


def pods(page: str, metric: str, label: str = "workload_pod", **wanted: str) -> set[str]:
    """Pods that a metric names."""
    return {one[label] for one in labels(page, metric) if label in one and wanted.items() <= one.items()}


def test_mig_devices_pods_xids_and_money_agree_on_every_surface(tmp_path: Path) -> None:
    (tmp_path / "kmsg").touch()
    control, dcgm = tmp_path / "control.json", free_port()
    arguments = ("--simulate-gpus", "h100mig", "--simulate-control", str(control))
    root = Path(__file__).resolve().parents[2]
    settings = config(tmp_path, dcgm)
    settings["prices"]["file"] = str(root / settings["prices"]["file"])
    with kubelet(tmp_path / "kubelet.sock") as there, agent(tmp_path / "data", *arguments, config=settings) as running:
        running.ready()
        slices = running.until(lambda: devices(running), "MIG devices")
        first, second = slices["2"], slices["3"]
        there.pods = [
            pod("prod", "chat-0", "vllm", {"nvidia.com/mig-3g.40gb": [first]}),
            pod("lab", "notebook-0", "jupyter", {"nvidia.com/mig-2g.20gb": [second]}),
        ]

        def slots() -> dict[str, Any]:
            return {one["slot"]: one for one in running.json("/api/v1/slots")}

        idle = running.until(
            lambda: (found := slots()) and found[second]["state"] == "allocated_idle" and found, "held and idle"
        )
        assert idle[second]["reason"] == "held_no_process"
        assert idle[second]["holders"][0]["pod"] == "notebook-0"
        assert sum(one["share_ratio"] for one in idle.values()) == pytest.approx(1)
        running.until(
            lambda: pods(running.get("/metrics")[1], "engineroom_gpu_allocation_ratio") == {"chat-0", "notebook-0"},
            "who was given what",
        )
        theirs = running.until(
            lambda: (
                "chat-0" in pods(text := running.get("/metrics", port=dcgm)[1], "DCGM_FI_DEV_FB_USED", "pod") and text
            ),
            "pods on the page of DCGM",
        )
        assert 'container="vllm",namespace="prod",pod="chat-0"' in theirs
        assert "notebook-0" in running.get("/")[1]

        write(control, Control(events=[SimulatedEvent(number=1, xid=79)]))
        running.until(
            lambda: pods(running.get("/metrics")[1], "engineroom_gpu_xid_info", xid="79") == {"chat-0", "notebook-0"},
            "the Xid, and who was hit",
        )
        running.until(
            lambda: labels(running.get("/metrics", port=dcgm)[1], "DCGM_FI_DEV_XID_ERRORS"), "the Xid under DCGM's name"
        )

        query = "/api/v1/cost/report?window=1h&aggregate=slot,state"
        report = running.until(
            lambda: "allocated_idle" in (text := running.get(query)[1]) and json.loads(text), "it is booked"
        )
        booked = {(row["group"]["slot"], row["group"]["state"]) for row in report["rows"]}
        assert (second, "allocated_idle") in booked
        assert running.json("/api/v1/cost/reconcile")["reconciles"]
        assert running.stop() == 0
