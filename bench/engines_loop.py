"""Fifty engines scraped by one agent: how late its event loop gets to what is due, asked from outside.

The delay is how long a question to the agent's own probe port (`/livez`) takes while the engines are scraped every
5 s: whatever keeps the loop busy keeps this answer waiting. The answer itself takes well under a millisecond.
"""

import http.client
import re
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles

from bench.engines import engine_servers, targets
from bench.figures import Figure
from bench.footprint import agent_with, first_page, free_port

ENGINES, SERIES = 50, 766  # as many as vLLM 0.33 shows with two ranks
SETTLE_SECONDS, WATCH_SECONDS = 12, 40  # eight rounds of scrapes
EVERY_SECONDS = 0.012  # the port takes 100 questions a second
DELAY_BAR_MILLISECONDS = 50  # ours: the page's stream, the leases of quotas and the GPU reader's ticks share the loop


def _delays(port: int) -> list[float]:
    """Milliseconds from when each question was due to its answer: one that had to wait for the one before counts so."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    found = []
    due = time.perf_counter()
    for _ in range(int(WATCH_SECONDS / EVERY_SECONDS)):
        due += EVERY_SECONDS
        time.sleep(max(0.0, due - time.perf_counter()))
        connection.request("GET", "/livez")
        connection.getresponse().read()
        found.append((time.perf_counter() - due) * 1e3)
    connection.close()
    return found


def _all_are_up(page: str) -> bool:
    return len(re.findall(r"^engineroom_llm_up\{.* 1", page, re.MULTILINE)) == ENGINES


def _missed(page: str) -> float:
    found = re.findall(r'^engineroom_cycle_missed_total\{.*cycle="engine .* (\S+)$', page, re.MULTILINE)
    return sum(map(float, found))


def run() -> list[Figure]:
    """About a minute."""
    probes = free_port()
    more: dict[str, dict[str, object]] = {"api": {"probes_listen": f"127.0.0.1:{probes}"}}
    with (
        engine_servers(ENGINES, SERIES) as ports,
        tempfile.TemporaryDirectory() as folder,
        agent_with(Path(folder), targets(ports), more) as (_, port),
    ):
        missed = _missed(first_page(port, _all_are_up))
        time.sleep(SETTLE_SECONDS)
        delays = _delays(probes)
        missed = _missed(first_page(port, _all_are_up)) - missed
    last = quantiles(delays, n=1000)
    shown = f"median {median(delays):.2f}, p99 {last[989]:.1f}, p99.9 {last[998]:.1f}, longest {max(delays):.1f}"
    print(f"# milliseconds of {len(delays)} questions: {shown}", flush=True)
    return [
        Figure(name="loop_delay_50_engines", value=last[989], unit="ms", bar=DELAY_BAR_MILLISECONDS, better="lower"),
        Figure(name="scrapes_missed_50_engines", value=missed, unit="scrapes", bar=0, better="lower"),
    ]
