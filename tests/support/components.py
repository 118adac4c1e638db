"""Finds the real programs that tests run against; says which is missing."""

import os
import shutil

import pytest


def need(program: str) -> str:
    """Path of `program`. Skips the test, naming what is missing; fails where CI demands all."""
    path = shutil.which(program)
    if path is None:
        message = f"{program} is not installed (CONTRIBUTING.md lists the real components that tests use)"
        if os.environ.get("ENGINEROOM_NEED_ALL_COMPONENTS"):
            pytest.fail(message)
        pytest.skip(message)
    return path
