"""`engineroom run`: the agent of this node."""

import argparse
import sys
from pathlib import Path

import anyio


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's arguments."""
    command = commands.add_parser(
        "run",
        help="run the agent of this node",
        description="Reads GPUs and engines, evaluates rules, keeps the ledger, serves the page and the API. "
        "Works with no configuration at all: then the page is at http://127.0.0.1:9440.",
    )
    command.add_argument(
        "--config", type=Path, help="engineroom.yaml; without it, defaults and ENGINEROOM__* variables"
    )
    command.add_argument(
        "--simulate-gpus",
        metavar="MACHINE",
        help="use simulated GPUs (h100x8, h100mig, l40s, ... or a machine file), labelled so everywhere",
    )
    command.add_argument("--simulate-control", type=Path, metavar="FILE", help="load and faults of the simulated GPUs")
    command.set_defaults(handler=run)


def run(options: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT."""
    from agent import app
    from agent.config import load

    settings = load(options.config)
    reader: list[str] | None = None
    if options.simulate_gpus:
        reader = [sys.executable, "-m", "agent.demo.gpus.reader", "--machine", options.simulate_gpus]
        if options.simulate_control:
            reader += ["--control", str(options.simulate_control)]
    anyio.run(app.run, settings, reader, backend_options={"use_uvloop": True})
    return 0
