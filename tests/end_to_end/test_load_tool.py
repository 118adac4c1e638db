"""What a load tool nobody here wrote measures through the sidecar, and what the records say, are the same."""

from pathlib import Path
from statistics import median
from typing import Any

import anyio
import pytest

from agent.core.requests import RequestEnded, RequestRecord
from tests.support.agent import free_port
from tests.support.load_tool import INPUT, MODEL, OUTPUT, WARM_UP, need_load_tool, paced_engine, run_load
from tests.support.sidecar import Receiver, receiver, sidecar_process

MS = 1_000_000
AGREE_MS = 2.0
TRIES = 3  # what else a machine does can only drive two clocks' readings apart, never together


async def measured(
    folder: Path, port: int, agent: Receiver, requests: int, concurrency: int
) -> tuple[dict[str, Any], list[RequestRecord]]:
    """The tool's summary of one run, and the records of the requests that it counted."""
    agent.batches.clear()
    tool = await run_load(folder, f"http://127.0.0.1:{port}", requests=requests, concurrency=concurrency)

    def recorded() -> list[RequestRecord]:
        return [event.record for event in agent.accepted if isinstance(event, RequestEnded)]

    with anyio.fail_after(10):
        while len(recorded()) < WARM_UP + requests:  # noqa: ASYNC110 - the sidecar is another process
            await anyio.sleep(0.02)
    everything = sorted(recorded(), key=lambda one: one.started_at_ns)
    assert len(everything) == WARM_UP + requests
    return tool, everything[WARM_UP:]


@pytest.mark.long  # two clocks are compared: only where nothing else runs
@pytest.mark.component("aiperf")
@pytest.mark.parametrize(("requests", "concurrency"), [(60, 1), (500, 2)])
async def test_the_tool_and_the_records_agree(tmp_path: Path, requests: int, concurrency: int) -> None:
    need_load_tool()
    port = free_port()
    apart_ms = []
    async with (
        paced_engine() as engine_url,
        receiver() as agent,
        sidecar_process(
            listen=f"127.0.0.1:{port}",
            admin_listen="127.0.0.1:0",
            upstream=engine_url,
            agent_url=agent.url,
            name="load",
        ) as process,
    ):
        await process.until_it_says("sidecar_listening")
        for turn in range(TRIES):
            tool, seen = await measured(tmp_path / str(turn), port, agent, requests, concurrency)
            assert len(seen) == tool["request_count"]["avg"] == requests
            assert {(one.outcome, one.model, one.streamed) for one in seen} == {("ok", MODEL, True)}
            assert sum(one.usage.output_tokens or 0 for one in seen) == tool["total_osl"]["avg"] == requests * OUTPUT
            assert sum(one.usage.input_tokens or 0 for one in seen) == tool["total_isl"]["avg"] == requests * INPUT
            ours_ms = median((one.first_token_at_ns or 0) - one.started_at_ns for one in seen) / MS
            theirs_ms = tool["time_to_first_token"]["p50"]
            print(f"time to first token at the median: ours {ours_ms:.2f} ms, the tool's {theirs_ms:.2f} ms")
            apart_ms.append(abs(ours_ms - theirs_ms))
            if apart_ms[-1] <= AGREE_MS:
                break
    assert min(apart_ms) <= AGREE_MS
