"""Eight engines of 2,000 series each beside an agent without engines: CPU, and memory with 30 minutes of history."""

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.figures import Figure
from bench.footprint import agent_with, family, first_page, pss_mib

ENGINES, SERIES = 8, 2000
SETTLE_SECONDS, WATCH_SECONDS = 15, 60
SCRAPES = 360  # 30 minutes at 5 s
FAST_SECONDS = 0.5  # the shortest interval: so many scrapes in 3 minutes, kept for 3 minutes
CPU_BAR = 0.04
MEMORY_BAR_MIB = 80
_ONE_RULE = """groups:
- name: bench
  rules:
  - {alert: Never, expr: vector(1) > 2}
"""


@contextmanager
def engine_servers(count: int, series: int) -> Iterator[list[int]]:
    """So many servers in a process of their own; gives their ports."""
    command = [sys.executable, "-m", "bench.engines_server", str(count), str(series)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield [int(process.stdout.readline()) for _ in range(count)]
        process.stdin.close()


def targets(ports: list[int], interval_seconds: float = 5.0) -> list[dict[str, object]]:
    """As in the configuration file."""
    return [
        {"name": f"engine-{n}", "url": f"http://127.0.0.1:{port}", "interval_seconds": interval_seconds}
        for n, port in enumerate(ports)
    ]


def _cpu_seconds(pids: list[int]) -> float:
    """Of all threads of these processes, as exact as the scheduler counts."""
    tasks = [task for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def _until_all_are_read(port: int, count: int) -> str:
    return first_page(port, lambda page: len(re.findall(r"^engineroom_llm_up\{.* 1", page, re.MULTILINE)) == count)


def _cores_above(ports: list[int]) -> tuple[float, float]:
    """Cores of the agent with the engines, and of the one without, both in the same minute."""
    with ExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(2)]
        without, _ = stack.enter_context(agent_with(folders[0], []))
        pid, port = stack.enter_context(agent_with(folders[1], targets(ports)))
        _until_all_are_read(port, len(ports))
        time.sleep(SETTLE_SECONDS)
        families = [family(pid), family(without)]
        before, began = [_cpu_seconds(pids) for pids in families], time.monotonic()
        time.sleep(WATCH_SECONDS)
        passed = time.monotonic() - began
        with_engines, plain = (
            (_cpu_seconds(pids) - spent) / passed for pids, spent in zip(families, before, strict=True)
        )
    return with_engines, plain


def _mib_above(ports: list[int]) -> tuple[float, float, int]:
    """PSS of the agent with the engines and of the one without, when the history is full; and how many rows that is.

    The history keeps SCRAPES scrapes, as many as in 30 minutes at 5 s, only that they come faster.
    """
    with ExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(2)]
        rules = folders[0] / "rules.yaml"
        rules.write_text(_ONE_RULE)  # the shipped ones look back further than this short history
        more: dict[str, dict[str, object]] = {
            "storage": {"history_seconds": SCRAPES * FAST_SECONDS},
            "rules": {"files": [str(rules)]},
        }
        without, _ = stack.enter_context(agent_with(folders[0], [], more))
        pid, port = stack.enter_context(agent_with(folders[1], targets(ports, FAST_SECONDS), more))
        _until_all_are_read(port, len(ports))
        time.sleep((SCRAPES + 10) * FAST_SECONDS)
        page = _until_all_are_read(port, len(ports))
        dropped = re.findall(r"^engineroom_history_dropped_samples_total\{.*$", page, re.MULTILINE)
        if dropped:
            print(f"# the history dropped samples: {dropped}", flush=True)
        held = re.findall(r"^engineroom_history_(?:series|bytes)\{.*$", page, re.MULTILINE)
        print(f"# {held}", flush=True)
        return pss_mib(family(pid)), pss_mib(family(without)), len(dropped)


def run() -> list[Figure]:
    """About six minutes."""
    with engine_servers(ENGINES, SERIES) as ports:
        with_engines, plain = _cores_above(ports)
        print(f"# cores: {with_engines:.4f} with {ENGINES} engines, {plain:.4f} without", flush=True)
        full, empty, dropped = _mib_above(ports)
        print(f"# PSS: {full:.1f} MiB with a full history, {empty:.1f} MiB without engines", flush=True)
    return [
        Figure(name="engines_cpu", value=with_engines - plain, unit="cores", bar=CPU_BAR, better="lower"),
        Figure(name="engines_memory", value=full - empty, unit="MiB", bar=MEMORY_BAR_MIB, better="lower"),
        Figure(name="engines_history_dropped", value=dropped, unit="kinds", bar=0, better="lower"),
    ]
