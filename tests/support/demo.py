"""The demo as a process, for end-to-end tests."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class RunningDemo:
    """A demo that is under way; `lines` are what it printed so far."""

    process: "subprocess.Popen[str]"
    json_file: Path
    lines: list[str] = field(default_factory=list)

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Read its output until a line matches; fails with all of it when it ends before."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"the demo ended without {pattern!r}:\n" + "\n".join(self.lines))

    def finish(self) -> tuple[int, dict[str, Any]]:
        """Its exit status and its JSON."""
        assert self.process.stdout is not None
        self.lines += [line.rstrip() for line in self.process.stdout]
        status = self.process.wait(60)
        return status, json.loads(self.json_file.read_text()) if self.json_file.exists() else {}


@contextmanager
def demo(folder: Path, *arguments: str) -> Iterator[RunningDemo]:
    """`engineroom demo ARGUMENTS`, its files under `folder`; ended by SIGTERM if the test leaves it running."""
    json_file = folder / "out.json"
    command = [sys.executable, "-m", "agent", "demo", "--json", str(json_file), "--keep", str(folder / "kept")]
    with subprocess.Popen(
        [*command, "--port", "0", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield RunningDemo(process, json_file)
        finally:
            if process.poll() is None:
                process.terminate()
