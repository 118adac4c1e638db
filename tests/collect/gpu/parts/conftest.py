"""Simulated GPUs for the parts of a reading."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.gpu_bench import GpuBench


@pytest.fixture
def gpu_bench() -> Iterator[Callable[..., GpuBench]]:
    made: list[GpuBench] = []

    def make(name: str = "h100x8", **options: Any) -> GpuBench:
        made.append(GpuBench(name, **options))
        return made[-1]

    yield make
    for bench in made:
        bench.close()


@pytest.fixture
def bench(gpu_bench: Callable[..., GpuBench]) -> GpuBench:
    return gpu_bench()
