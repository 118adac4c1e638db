"""Keeps the C library's file about a simulated machine fresh, until it is ended.

python -m bench.gpus_writer --machine h100x8 --table FILE --control FILE
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from agent.demo.gpus import machine
from agent.demo.gpus.control import ControlFile
from tests.support.nvml.writer import Writer


def main(arguments: Sequence[str] | None = None) -> int:
    """Write until killed."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--machine", required=True)
    options.add_argument("--table", type=Path, required=True)
    options.add_argument("--control", type=Path)
    options.add_argument("--every", type=float, default=0.2, help="seconds between two writings")
    chosen = options.parse_args(arguments)
    writer = Writer(machine.load(chosen.machine), chosen.table)
    control = ControlFile(chosen.control)
    print("ready", flush=True)
    while True:
        if (fresh := control.changed()) is not None:
            writer.apply(fresh)
        writer.advance(time.monotonic_ns())
        time.sleep(chosen.every)


if __name__ == "__main__":
    sys.exit(main())
