"""The C library of tests/support/nvml, built once for all tests of this folder."""

from collections.abc import Callable
from pathlib import Path

import pytest

from agent.demo.gpus import machine
from tests.support.components import need
from tests.support.nvml.build import build


class CLibrary:
    """A folder with our libnvidia-ml.so.1, and the control file that makes it misbehave."""

    def __init__(self, folder: Path, control: Path) -> None:
        self.environment = {"LD_LIBRARY_PATH": str(folder), "ENGINEROOM_NVML_CONTROL": str(control)}
        self._control = control

    def wants(self, *lines: str) -> None:
        fresh = self._control.with_suffix(".new")
        fresh.write_text("".join(f"{line}\n" for line in lines))
        fresh.replace(self._control)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nvml")


@pytest.fixture
def c_library(built: Path, tmp_path: Path) -> Callable[..., CLibrary]:
    def make(name: str = "h100x8", missing: tuple[str, ...] = ()) -> CLibrary:
        folder = build(machine.load(name), built, need("cc"), missing)
        return CLibrary(folder, tmp_path / "control")

    return make
