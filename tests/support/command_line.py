"""The command line: what it printed, what it said on stderr, and its exit status."""

import io
import logging
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import anyio
import pytest
import structlog

from agent.cli.main import main

ROOT = Path(__file__).resolve().parents[2]


class Ended(NamedTuple):
    """A command that has ended."""

    status: int
    out: str
    err: str
    raw: bytes


def engineroom(*arguments: object, columns: int | None = None) -> Ended:
    """Run `engineroom` in this process: for commands that only read, and log nothing.

    `columns`: as in a terminal of that width.
    """
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
    handlers = logging.getLogger().handlers[:]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.delenv("COLUMNS", raising=False)
        if columns is not None:
            patch.setenv("COLUMNS", str(columns))
        try:
            status = main([str(one) for one in arguments])
        except SystemExit as end:
            status = int(end.code or 0)
        finally:
            structlog.reset_defaults()
            logging.getLogger().handlers[:] = handlers
    out.flush()
    raw = out.buffer.getvalue()  # type: ignore[attr-defined]
    return Ended(status, raw.decode(errors="replace"), err.getvalue(), raw)


def engineroom_process(*arguments: object) -> Ended:
    """Run `engineroom` as a process of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ENGINEROOM__")}
    ended = subprocess.run(
        [sys.executable, "-m", "agent", *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        timeout=60,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout.decode(errors="replace"), ended.stderr.decode(), ended.stdout)


async def engineroom_beside(*arguments: object) -> Ended:
    """The same while the test's own loop goes on."""
    return await anyio.to_thread.run_sync(lambda: engineroom_process(*arguments))
