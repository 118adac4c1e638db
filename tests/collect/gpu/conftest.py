"""The C library of tests/support/nvml, built once for all tests of this folder."""

from collections.abc import Callable
from pathlib import Path

import pytest

from agent.demo.gpus import machine
from tests.support.components import need
from tests.support.nvml.library import CLibrary


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nvml")


@pytest.fixture
def c_library(built: Path, tmp_path: Path) -> Callable[..., CLibrary]:
    def make(name: str = "h100x8", missing: tuple[str, ...] = ()) -> CLibrary:
        return CLibrary(machine.load(name), built, tmp_path / "table", need("cc"), missing)

    return make
