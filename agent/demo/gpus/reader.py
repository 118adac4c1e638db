"""The genuine GPU reader over simulated GPUs: `python -m agent.demo.gpus.reader --machine h100x8 --fd N`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from agent.collect.gpu.frames import Tick
from agent.collect.gpu.reader import parser, start
from agent.demo.gpus import machine, nvml
from agent.demo.gpus.control import ControlFile
from agent.demo.gpus.model import NodeSim


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of the simulated reader; returns its exit status."""
    options = parser()
    options.add_argument("--machine", required=True, help=f"one of {', '.join(machine.names())}, or a machine file")
    options.add_argument("--control", type=Path, help="JSON file with load and faults; read again when it changes")
    chosen = options.parse_args(arguments)
    try:
        recorded = machine.load(chosen.machine)
    except ValueError as error:
        options.error(f"--machine: {error}")
    control = ControlFile(chosen.control)
    node: NodeSim | None = None

    def before_tick(tick: Tick) -> None:
        nonlocal node
        if node is None:
            node = NodeSim(recorded, tick.boot_ns)
            nvml.install(node)
        node.unix_ahead_ns = tick.unix_ns - tick.boot_ns
        node.advance(tick.boot_ns)
        if (fresh := control.changed()) is not None:
            node.apply(fresh)

    return start(chosen, before_tick, simulated=True)


if __name__ == "__main__":
    sys.exit(main())
