"""`engineroom record gpu FILE`: this node's GPUs as a machine file; `record engine`: see `record_engine`."""

import argparse
import json
import sys
from pathlib import Path

from agent.cli import record_engine
from agent.core.ports import ConfigError


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's arguments."""
    command = commands.add_parser(
        "record",
        help="record this node's GPUs, or one engine, for the simulator and the tests",
        description="Asks this node's GPUs or one engine everything the agent could ask, and writes the answers down.",
    )
    what = command.add_subparsers(dest="what", required=True, metavar="WHAT")
    gpu = what.add_parser(
        "gpu",
        help="every NVML call: return code, kind of value and latency",
        description="Calls every NVML function a few times for every GPU and writes facts, return codes, kinds of "
        "values and latencies as a machine file, which `--simulate-gpus FILE` replays. Serial numbers, UUIDs and PCI "
        "buses are left out. It only asks: nothing is set. A GPU at work may feel it for some milliseconds.",
    )
    gpu.add_argument("file", type=Path, help="file to write; its name without ending is the machine's name")
    gpu.set_defaults(handler=run)
    record_engine.add_to(what)


def run(options: argparse.Namespace) -> int:
    """Record; `ConfigError` when there is no driver."""
    from agent.collect.gpu.record import record_machine

    machine = record_machine(options.file.stem, _progress if sys.stderr.isatty() else _silent)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    try:
        options.file.write_text(json.dumps(machine, indent=2) + "\n")
    except OSError as error:
        raise ConfigError("FILE", f"{options.file} cannot be written: {error.strerror}") from error
    asked = sum(len(gpu["calls"]) for gpu in machine["gpus"])
    print(f"{options.file}: {len(machine['gpus'])} GPUs, {asked} kinds of calls, each a few times", file=sys.stderr)
    return 0


def _progress(gpu: int, gpus: int, function: str) -> None:
    print(f"\r\033[KGPU {gpu + 1} of {gpus}: {function}", end="", file=sys.stderr, flush=True)


def _silent(_gpu: int, _gpus: int, _function: str) -> None:
    """Nobody looks."""
