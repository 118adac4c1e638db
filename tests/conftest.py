"""Settings of every test: one async backend, long ones only when asked for, recorded data from beside the checkout.

Properties are tried on the same examples in every run, so that a change is judged by what it changes; the long run
tries new ones each time.
"""

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("same", derandomize=True)
settings.register_profile("new", derandomize=False, print_blob=True)
settings.load_profile("new" if os.environ.get("ENGINEROOM_LONG") else "same")

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked `long`, unless ./dev test --long asked for the full counts."""
    if os.environ.get("ENGINEROOM_LONG"):
        return
    long = [item for item in items if item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The loop that runs in production."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
def shared() -> Path:
    """Folder of recorded data that is not ours to copy; the test is skipped where it is absent."""
    path = ROOT.parent / "shared"
    if not path.is_dir():
        pytest.skip("the shared folder with recorded captures is not beside this checkout")
    return path
