"""`engineroom record`: this node's GPUs as a machine file for the simulator and the tests."""

import argparse
import json
import sys
from pathlib import Path

from agent.core.ports import ConfigError


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's arguments."""
    command = commands.add_parser(
        "record",
        help="record this node's GPUs for the test suite",
        description="Asks every GPU of this node everything the agent reads and writes the answers, return codes "
        "included, as a machine file.",
    )
    command.add_argument("file", type=Path, help="file to write")
    command.set_defaults(handler=run)


def run(options: argparse.Namespace) -> int:
    """Record; `ConfigError` when there is no driver."""
    from agent.collect.gpu.record import record_machine

    machine = record_machine()
    try:
        options.file.write_text(json.dumps(machine, indent=2) + "\n")
    except OSError as error:
        raise ConfigError("FILE", f"{options.file} cannot be written: {error.strerror}") from error
    print(f"{options.file}: {len(machine['gpus'])} GPUs", file=sys.stderr)
    return 0
