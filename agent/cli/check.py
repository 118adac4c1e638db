"""`engineroom check FILE`: is this configuration right? Says every mistake with its key; exit 2 if there is one."""

import argparse
from pathlib import Path


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's arguments."""
    command = commands.add_parser("check", help="check a configuration file", description=__doc__)
    command.add_argument("file", type=Path, help="the engineroom.yaml to check")
    command.set_defaults(handler=run)


def run(options: argparse.Namespace) -> int:
    """Load the file, its rule files and its price book, as `run` would."""
    from agent.app import check_settings
    from agent.config import load

    settings = load(options.file)
    for line in check_settings(settings):
        print(line)
    print(f"{options.file}: ok")
    return 0
