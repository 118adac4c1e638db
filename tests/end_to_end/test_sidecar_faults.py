"""The real sidecar process under faults: memory stays small, bytes go on, and every request is accounted for."""

import os
import random
import re
import resource
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import anyio.lowlevel
import pytest
from aiohttp import web

from agent.clock import boot_ns
from agent.core.requests import RequestEnded, RequestRecord
from tests.support.agent import free_port
from tests.support.crash_oracle import OBLIGED_AFTER_NS, Node, node
from tests.support.raw_client import closed_by_peer, hear_answer, hear_request
from tests.support.sidecar import Receiver, SidecarProcess, receiver, sidecar_process
from tests.support.told_requests import told_requests
from tests.support.upstream import Wire, connect, repeat, upstream, whole

MIB = 1 << 20
PATIENCE_SECONDS = 30
POST = b"POST /v1/completions HTTP/1.1\r\nhost: e\r\ncontent-length: 2\r\n\r\n{}"
SEEDS = (1,) if not os.environ.get("ENGINEROOM_LONG") else tuple(range(1, 11))


@dataclass
class Running:
    """The process, its two ports, and the agent that takes its records."""

    process: SidecarProcess
    port: int
    admin: int
    agent: Receiver

    def memory_kib(self, which: str = "VmRSS") -> int:
        """VmRSS: now; VmHWM: the most so far."""
        found = re.search(rf"{which}:\s+(\d+)", Path(f"/proc/{self.process.process.pid}/status").read_text())
        assert found
        return int(found[1])

    async def metric(self, start: str) -> float:
        """The sum of all series on /metrics whose lines start so."""
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{self.admin}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(start))

    async def until_metric(self, start: str, value: float) -> None:
        with anyio.fail_after(PATIENCE_SECONDS):
            while await self.metric(start) != value:  # noqa: ASYNC110 - it is another process
                await anyio.sleep(0.02)

    def recorded(self) -> list[RequestRecord]:
        return [event.record for event in self.agent.accepted if isinstance(event, RequestEnded)]

    async def until_recorded(self, count: int) -> None:
        with anyio.fail_after(PATIENCE_SECONDS):
            while len(self.recorded()) < count:  # noqa: ASYNC110 - it is another process
                await anyio.sleep(0.02)


@asynccontextmanager
async def running(engine_url: str, **settings: Any) -> AsyncIterator[Running]:
    port, admin = free_port(), free_port()
    given = {
        "listen": f"127.0.0.1:{port}",
        "admin_listen": f"127.0.0.1:{admin}",
        "upstream": engine_url,
        "name": "faults",
        "ship_interval_seconds": 0.02,
    }
    async with receiver() as agent, sidecar_process(**given | {"agent_url": agent.url} | settings) as process:
        await process.until_it_says("sidecar_listening")
        yield Running(process, port, admin, agent)


async def test_thousands_of_idle_clients_cost_little_and_delay_nobody() -> None:
    """5,000 of them, as far as the limit of open files allows, which both ends need."""
    count = min(5000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2 - 500)
    async with (
        upstream(repeat(whole(b"{}"))) as engine,
        running(engine.url, limits__idle_seconds=600, limits__crowded_idle_seconds=600) as here,
        AsyncExitStack() as stack,
    ):
        async with connect(here.port) as warm:
            await warm.send(POST)
            await hear_answer(warm.reader)
        before = here.memory_kib()
        for _ in range(count // 100):
            for _ in range(100):
                await stack.enter_async_context(connect(here.port))
        await here.until_metric("engineroom_sidecar_client_connections ", count // 100 * 100)
        each_kib = (here.memory_kib() - before) / count
        async with connect(here.port) as client:
            with anyio.fail_after(2):
                for _ in range(50):
                    await client.send(POST)
                    assert (await hear_answer(client.reader)).status == 200
        await stack.aclose()
        await here.until_metric("engineroom_sidecar_client_connections ", 0)
    print(f"{count} idle clients, {each_kib:.1f} KiB each")
    assert each_kib < 20


async def test_clients_that_read_one_byte_now_and_then_are_paused_for() -> None:
    """Twenty answers of 32 MiB, hardly read: the engine waits, the sidecar's memory stays."""
    clients, size = 20, 32 * MIB

    async def script(wire: Wire) -> None:
        assert await hear_request(wire.reader) is not None
        await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        for _ in range(size // 65536):
            wire.writer.write(bytes(65536))
            await wire.writer.drain()

    async def slow(port: int) -> None:
        async with connect(port) as client:
            client.writer.transport.pause_reading()  # type: ignore[attr-defined] # the kernel's buffers must fill up
            client.writer.write(POST)
            for _ in range(15):
                await anyio.sleep(0.1)  # what is tested is slowness
                client.writer.transport.resume_reading()  # type: ignore[attr-defined] # as above
                assert await client.reader.read(1)
                client.writer.transport.pause_reading()  # type: ignore[attr-defined] # as above

    async with upstream(script) as engine, running(engine.url) as here:
        before = here.memory_kib()
        async with anyio.create_task_group() as group:
            for _ in range(clients):
                group.start_soon(slow, here.port)
        most = here.memory_kib("VmHWM") - before
        await here.until_recorded(clients)
        assert {seen.outcome for seen in here.recorded()} == {"client_abort"}
    print(f"{most} KiB for {clients} slow clients")
    assert most < clients * 1024


@pytest.mark.parametrize("mebibytes", [40, pytest.param(200, marks=pytest.mark.long)])
async def test_a_large_upload_is_streamed_not_gathered(mebibytes: int) -> None:
    got = 0

    async def script(wire: Wire) -> None:
        nonlocal got
        await wire.reader.readuntil(b"\r\n\r\n")
        while got < mebibytes * MIB:
            got += len(await wire.reader.read(MIB))
        await wire.send(whole(b"{}"))
        await closed_by_peer(wire)

    async with upstream(script) as engine, running(engine.url) as here, connect(here.port) as client:
        before = here.memory_kib()
        head = b"POST /v1/audio/transcriptions HTTP/1.1\r\nhost: e\r\ncontent-length: %d\r\n\r\n"
        await client.send(head % (mebibytes * MIB))
        for _ in range(mebibytes):
            await client.send(bytes(MIB))
        assert (await hear_answer(client.reader)).status == 200
        most = here.memory_kib("VmHWM") - before
        await here.until_recorded(1)
        assert here.recorded()[0].request_bytes == got == mebibytes * MIB
    print(f"{most} KiB for {mebibytes} MiB")
    assert most < 12 * 1024


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    disk = folder / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("a small file system can be mounted by root only")
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


async def test_a_full_disk_costs_records_that_are_counted_and_no_request(tmp_path: Path) -> None:
    sent = 0

    async def ask(here: Running, count: int) -> None:
        nonlocal sent
        async with connect(here.port) as client:
            for _ in range(count):
                await client.send(POST)
                answer = await hear_answer(client.reader)
                assert (answer.status, bytes(answer.body)) == (200, b"{}")
                sent += 1

    with small_disk(tmp_path) as disk:
        settings = {"spool_dir": disk / "spool", "spool__max_bytes": MIB, "spool__segment_bytes": 65536}
        async with upstream(repeat(whole(b"{}"))) as engine, running(engine.url, **settings) as here:
            await ask(here, 20)
            here.agent.refuse = lambda _: 503  # nothing leaves the disk
            filler = fill(disk)
            await ask(here, 1500)
            assert await here.metric("engineroom_sidecar_requests_total") == sent
            filler.unlink()
            here.agent.refuse = lambda _: None
            await ask(here, 20)
            await here.until_metric('engineroom_delivery_waiting_items{stream="records"}', 0)
            dropped = await here.metric('engineroom_sidecar_events_dropped_total{event="end"}')
            await here.until_recorded(sent - int(dropped))
            assert len(here.recorded()) == len({seen.id for seen in here.recorded()}) == sent - dropped
            here.process.process.send_signal(signal.SIGTERM)
            assert await here.process.ended() == 0
    print(f"{sent} requests, {dropped:.0f} ends dropped")


def fill(disk: Path) -> Path:
    """Use up all that is left; the file that does it."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return filler


SECRETS = {
    "authorization": "Bearer sk-secret-one",
    "x-api-key": "secret-two",
    "api-key": "secret-three",
    "proxy-authorization": "Basic c2VjcmV0OnNlY3JldA==secret-four",
    "cookie": "session=secret-five",
    "helicone-auth": "Bearer secret-six",
    "x-goog-api-key": "secret-seven",
    "x-litellm-api-key": "secret-eight",
}


async def test_keys_and_prompts_are_written_nowhere(tmp_path: Path) -> None:
    """Not to the log, not to the spool, not to the records, not to /metrics: on good requests, errors and nonsense."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in SECRETS.items()).encode()
    body = b'{"model":"m","prompt":"secret-prompt","user":"somebody","messages":[{"content":"secret-words"}]}'
    deep = b'{"model":"m","prompt":"secret-deep","x":' + b"[" * 150_000
    bad = whole(b'{"error":{"message":"no secret-echo here","type":"BadRequestError"}}', status="400 Bad Request")

    async def script(wire: Wire) -> None:
        while (heard := await hear_request(wire.reader)) is not None:
            assert heard.one(b"authorization") == SECRETS["authorization"].encode()
            target = heard.target.partition(b"?")[0]
            if target == b"/v1/completions":
                await wire.send(whole(b'{"choices":[{"text":"secret-answer"}]}'))
            elif target == b"/v1/chat/completions":
                await wire.send(bad)
            elif target == b"/v1/messages":
                return
            else:
                await wire.send(b"secret-nonsense\r\n\r\n")

    async with upstream(script) as engine, running(engine.url, spool_dir=tmp_path / "spool") as here:
        here.agent.refuse = lambda _: 503
        for path in (b"/v1/completions?key=secret-query", b"/v1/chat/completions", b"/v1/messages", b"/v1/other"):
            for content in (body, deep):
                async with connect(here.port) as client:
                    head = b"POST %b HTTP/1.1\r\nhost: e\r\n%bcontent-length: %d\r\n\r\n" % (path, lines, len(content))
                    await client.send(head + content)
                    assert (await hear_answer(client.reader)).start
        for nonsense in (b"POST /a path\r\n" + lines, b"POST / HTTP/1.1\r\nx y: z\r\n" + lines + b"\r\n"):
            async with connect(here.port) as client:
                await client.send(nonsense + b"\r\n")
                await hear_answer(client.reader)
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{here.admin}/metrics") as answer:
            metrics = await answer.text()
        here.process.process.send_signal(signal.SIGTERM)
        await here.process.ended()
        written = b"".join(file.read_bytes() for file in (tmp_path / "spool").rglob("*") if file.is_file())
    assert b"/v1/completions" in written, "the spool has the records: they are looked at in the right place"
    assert "sidecar_listening" in here.process.said
    for where, text in (("log", here.process.said), ("metrics", metrics), ("spool", written.decode("latin-1"))):
        found = set(re.findall(r"secret-[a-z]+|c2VjcmV0", text))
        assert not found, f"{where}: {found}"


# killed under load


@dataclass
class Load:
    """Clients that ask and ask; the engine answers most at once, and hangs on every fifth until it is left."""

    sent: int = 0
    heard: set[int] = field(default_factory=set)
    answered: dict[int, int] = field(default_factory=dict)  # number -> boot clock
    stopped: bool = False

    async def engine(self, request: web.Request) -> web.StreamResponse:
        number = int((await request.json())["n"])
        assert number not in self.heard, "the engine was asked twice"
        self.heard.add(number)
        if number % 5 == 0:
            stream = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await stream.prepare(request)
            await stream.write(b'data: {"choices":[{"text":"a"}]}\n\n')
            await anyio.sleep_forever()
        return web.json_response({"usage": {"prompt_tokens": number, "completion_tokens": 1}, "choices": []})

    async def ask(self, port: int) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.5)) as session:
            while not self.stopped:
                self.sent += 1
                number = self.sent
                try:
                    async with session.post(f"http://127.0.0.1:{port}/v1/completions", json={"n": number}) as answer:
                        await answer.read()
                        self.answered[number] = boot_ns()
                except (aiohttp.ClientError, TimeoutError):
                    await anyio.sleep(0.02)


@asynccontextmanager
async def loaded_engine(load: Load) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/v1/completions", load.engine)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def outcomes(here: Node) -> tuple[Counter[str], int]:
    """Rows of the ledger by outcome, and how many have none."""
    found = [one.outcome for one in told_requests(here.folder / "data" / "ledger.sqlite")]
    return Counter(outcome for outcome in found if outcome is not None), found.count(None)


KILLS = 2 if not os.environ.get("ENGINEROOM_LONG") else 8


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_sidecar_killed_under_load_accounts_for_every_request(tmp_path: Path, seed: int) -> None:
    """sent = recorded + rejected + lost_record: what the engine was asked is in the ledger, once, with an outcome."""
    load, chance = Load(), random.Random(seed)
    async with loaded_engine(load) as url, node(tmp_path, url) as here:
        async with anyio.create_task_group() as clients:
            for _ in range(8):
                clients.start_soon(load.ask, here.port)
            for _ in range(KILLS):
                goal = len(load.answered) + chance.randrange(20, 80)

                async def answered(goal: int = goal) -> bool:
                    return len(load.answered) >= goal

                await here.until(answered)
                await here.sidecar.kill()
                await here.sidecar.start()
            goal = len(load.answered) + 20
            await here.until(answered)
            load.stopped = True
        await here.until_delivered()
        assert await here.sidecar.stop() == 0
        assert await here.agent.stop() == 0
        counted, without = outcomes(here)
    print(f"seed {seed}: {load.sent} sent, {len(load.heard)} heard by the engine, {dict(counted)}, {without} open")
    assert without == 0
    assert len(load.heard) <= counted.total() <= load.sent
    assert not counted.keys() - {"ok", "client_abort", "error", "lost_record"}
    assert counted["ok"] <= len(load.answered) + 8 * len(here.sidecar.kills)  # answers that died on their way
    obliged = [at for at in load.answered.values() if not here.sidecar.was_down(at, OBLIGED_AFTER_NS)]
    assert counted["ok"] >= len(obliged)
