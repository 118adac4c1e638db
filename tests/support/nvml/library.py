"""The C library for one test: its folder, the file it looks answers up in, and a way to say what they are."""

from pathlib import Path
from typing import Any

from agent.demo.gpus.control import Control
from agent.demo.gpus.machine import Machine
from tests.support.nvml.build import build
from tests.support.nvml.writer import Writer


class CLibrary:
    """`environment` makes a process load it. The clock of its GPUs stands still unless `writer.advance` moves it."""

    def __init__(
        self, machine: Machine, built: Path, table: Path, compiler: str, missing: tuple[str, ...] = ()
    ) -> None:
        folder = build(machine, built, compiler, missing)
        self.environment = {"LD_LIBRARY_PATH": str(folder), "ENGINEROOM_NVML_TABLE": str(table)}
        self.writer = Writer(machine, table)

    def wants(self, **wishes: Any) -> None:
        """From now on as a `Control` with these members; none: all is well and nothing runs."""
        self.writer.apply(Control(**wishes), settle=True)
