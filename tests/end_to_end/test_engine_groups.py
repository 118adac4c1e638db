"""An engine over two nodes (two real `engineroom run`), a training job beside it: whose every GPU second was."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from agent.demo.gpus.control import Control, SimulatedProcess, write
from tests.support.agent import RunningAgent, agent, free_port
from tests.support.components import need
from tests.support.engine_groups import GROUP, HEADLESS, LEADER, TORCHRUN, own_proc, started

GIB = 1 << 30
OVER_TWO = ("--nnodes", "2", "--master-addr", "10.0.0.1", "--master-port", "29500")


def node(stack: ExitStack, folder: Path, control: Path, proc: Path) -> RunningAgent:
    """An agent that finds its engines by itself, and sees the processes of `proc` only."""
    settings: dict[str, Any] = {
        "node": {"name": folder.name},
        "engines": {"discover": True},
        "workloads": {"interval_seconds": 1, "proc": str(proc)},
        "prices": {"currency": "USD", "file": str(Path(__file__).parents[2] / "deploy/examples/prices.yaml")},
    }
    arguments = ("--simulate-gpus", "h100x8", "--simulate-control", str(control))
    found = {"ENGINEROOM__ENGINES__DISCOVER": "true"}
    running = stack.enter_context(agent(folder / "data", *arguments, config=settings, environment=found))
    return running.ready()


def on(*pids: int) -> dict[str, list[SimulatedProcess]]:
    """One process on each GPU, from the first on."""
    return {str(n): [SimulatedProcess(pid=pid, memory_bytes=40 * GIB)] for n, pid in enumerate(pids)}


def booked(running: RunningAgent) -> set[tuple[str, str]]:
    report = running.json("/api/v1/cost/report?window=1h&aggregate=group,state")
    return {(row["group"]["group"], row["group"]["state"]) for row in report["rows"] if row["gpu_ns"]}


def slots(running: RunningAgent) -> dict[int, dict[str, Any]]:
    return {one["index"]: one for one in running.json("/api/v1/slots")}


def complete(port: str) -> None:
    """A request to the engine."""
    body = json.dumps({"model": "tiny", "prompt": "hello", "max_tokens": 20}).encode()
    request = Request(f"http://127.0.0.1:{port}/v1/completions", body, {"Content-Type": "application/json"})
    with urlopen(request, timeout=10) as answer:
        assert answer.status == 200


def reconciles(running: RunningAgent) -> bool:
    return bool(running.json("/api/v1/cost/reconcile")["reconciles"])


@pytest.mark.component("vllm-rs")
def test_both_nodes_slots_are_the_groups_and_the_training_jobs_are_not(tmp_path: Path) -> None:
    need("vllm-rs")
    pytest.importorskip("zmq", reason="pyzmq speaks to the front end of vLLM")
    port = str(free_port())
    folders = [tmp_path / name for name in ("leader", "follower")]
    controls = [tmp_path / f"{folder.name}.json" for folder in folders]
    with ExitStack() as stack:
        arguments = ("serve", "tiny", "--port", port, *OVER_TWO, "--node-rank", "0")
        server = stack.enter_context(started(folders[0], "vllm", LEADER, *arguments))
        arguments = ("serve", "tiny", "--headless", *OVER_TWO, "--node-rank", "1")
        headless = stack.enter_context(started(folders[1], "vllm", HEADLESS, *arguments))
        training = stack.enter_context(started(tmp_path / "training", "torchrun", TORCHRUN, "train.py"))
        first, second = Control(processes=on(server.pids["worker"])), on(headless.pids["worker"], training.pids["rank"])
        write(controls[0], first)
        write(controls[1], Control(processes=second, load={"0": 0.7, "1": 0.9}))
        leader = node(stack, folders[0], controls[0], own_proc(tmp_path / "proc-leader", server))
        follower = node(stack, folders[1], controls[1], own_proc(tmp_path / "proc-follower", headless, training))

        # The leader knows its requests: there are none.
        leader.until(lambda: slots(leader).get(0, {}).get("groups") == [GROUP], "the leader's GPU is the group's")
        assert slots(leader)[0]["state"] == "loaded_idle"
        complete(port)  # past the sidecar, so that its own counters tell
        # The other node knows nothing of requests, but its GPU works; so does that of the training job.
        follower.until(lambda: slots(follower).get(0, {}).get("groups") == [GROUP], "the worker's GPU is the group's")
        follower.until(lambda: (GROUP, "unattributed") in booked(follower), "work for the other node is booked")
        shown = slots(follower)
        assert [(shown[n]["state"], shown[n]["groups"]) for n in (0, 1)] == [
            ("unattributed", [GROUP]),
            ("other_workload", []),
        ]
        assert shown[0]["reason"] == "group_worker"

        write(controls[1], Control(processes=second, load={"1": 0.9}))
        follower.until(lambda: slots(follower)[0]["reason"] == "group_idle", "the group rests")
        assert slots(follower)[1]["state"] == "other_workload"
        follower.until(lambda: (GROUP, "loaded_idle") in booked(follower), "rest is booked")
        leader.until(lambda: (GROUP, "loaded_idle") in booked(leader), "the leader's GPU is booked")
        leader.until(lambda: (GROUP, "unattributed") in booked(leader), "what its counters told")

        assert {state for group, state in booked(leader) if group == ""} <= {"other_workload", "unallocated", "gap"}
        assert ("", "other_workload") in booked(follower)
        assert {group for group, _ in booked(follower)} == {"", GROUP}
        for running in (leader, follower):
            assert reconciles(running)
            assert running.stop() == 0
