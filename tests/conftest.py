"""Settings of every test: one async backend, one place for the recorded data that is not in this repository."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


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
