"""The parent of several workers, with real processes on one address."""

import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import anyio
import pytest

from agent.core.ports import ConfigError
from agent.sidecar.settings import SidecarSettings
from agent.sidecar.sockets.settings import ListenSettings
from agent.sidecar.workers.workers import Workers, reserved, running_workers, worker_folder, worker_settings
from tests.support.upstream import until
from tests.support.worker_child import ROOT, alive, command


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for a unix socket."""
    with tempfile.TemporaryDirectory(prefix="er-") as path:
        yield Path(path)


def settings(folder: Path, **more: object) -> SidecarSettings:
    given = {"listen": "127.0.0.1:0", "admin_listen": "127.0.0.1:0", "spool_dir": folder, "name": "s"}
    return SidecarSettings(**given | {"drain_seconds": 1, "ship_drain_seconds": 0} | more)  # type: ignore[arg-type]


@asynccontextmanager
async def pair(folder: Path, **more: object) -> AsyncIterator[Workers]:
    """Two workers that serve."""
    async with running_workers(settings(folder, **more), 2, command(folder)) as workers:
        await until(lambda: all(worker.served for worker in workers.places))
        yield workers


async def ask(workers: Workers) -> str:
    async with aiohttp.ClientSession() as session, session.get(f"http://{workers.address}/") as answer:
        return await answer.text()


async def test_both_serve_the_same_address_and_both_end(folder: Path) -> None:
    async with pair(folder) as workers:
        seen = {await ask(workers) for _ in range(60)}
        processes = {worker.process.pid for worker in workers.places if worker.process}
        assert seen == {f"{worker.index} {worker.process.pid}" for worker in workers.places if worker.process}
    assert not any(alive(number) for number in processes)
    with pytest.raises(aiohttp.ClientConnectorError):
        await ask(workers)


async def test_a_worker_that_dies_is_replaced_and_the_other_serves_on(folder: Path) -> None:
    async with pair(folder) as workers:
        replaced = []
        workers.on_replaced = lambda worker: replaced.append(worker.index)
        before = {worker.index: worker.process for worker in workers.places}
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientError):
                await session.post(f"http://{workers.address}/die")  # a GET would be sent again, to the other one
        await until(lambda: bool(replaced))
        (dead,) = replaced
        await ask(workers)
        await until(lambda: workers.places[dead].process is not before[dead] and workers.places[dead].runs)
        other = workers.places[1 - dead]
        assert other.process is before[1 - dead]
        assert [worker.restarts for worker in workers.places] == [int(index == dead) for index in range(2)]
        with anyio.fail_after(10):
            while await workers.places[dead].ask("/readyz", 1) is None:  # a new process on the old socket's path
                pass


async def test_a_worker_that_cannot_stay_alive_is_tried_less_and_less_often(folder: Path) -> None:
    async with running_workers(settings(folder), 1, command(folder, "die")) as workers:
        worker = workers.places[0]
        await until(lambda: worker.restarts >= 3)
        with anyio.fail_after(5):
            await workers.end()  # also while it waits


async def test_settings_that_a_worker_refuses_end_the_parent(folder: Path) -> None:
    with pytest.raises(ExceptionGroup) as raised:
        async with running_workers(settings(folder), 2, command(folder, "refuse")):
            await anyio.sleep_forever()
    assert raised.group_contains(ConfigError, match=r"sidecar\.workers: worker \d cannot start")


async def test_what_does_not_end_in_time_is_killed(folder: Path) -> None:
    async with running_workers(settings(folder), 1, command(folder, "stubborn")) as workers:
        assert workers.end_seconds == 6  # drain_seconds, ship_drain_seconds and some
        workers.end_seconds = 0.2
        await until(lambda: workers.places[0].served)
        process = workers.places[0].process
    assert process is not None
    assert process.returncode == -signal.SIGKILL


PARENT = """
import sys, anyio
from pathlib import Path
from agent.sidecar.settings import SidecarSettings
from agent.sidecar.sockets.settings import ListenSettings
from agent.sidecar.workers.workers import running_workers
from tests.support.worker_child import command
async def main():
    folder = Path(sys.argv[1])
    given = SidecarSettings(listen="127.0.0.1:0", spool_dir=folder, name="s")
    async with running_workers(given, 2, command(folder)) as workers:
        while not all(worker.served for worker in workers.places):
            await anyio.sleep(0.01)
        print("processes", *(worker.process.pid for worker in workers.places), flush=True)
        await anyio.sleep_forever()
anyio.run(main)
"""


async def test_workers_end_when_the_parent_is_killed(folder: Path) -> None:
    arguments = [sys.executable, "-c", PARENT, str(folder)]
    async with await anyio.open_process(arguments, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=None) as parent:
        assert parent.stdout is not None
        said = ""
        with anyio.fail_after(20):
            while not (found := re.search(r"^processes (.*)\n", said, re.MULTILINE)):
                said += (await parent.stdout.receive()).decode()
        numbers = [int(number) for number in found[1].split()]
        assert len(numbers) == 2
        parent.kill()
        await until(lambda: not any(alive(number) for number in numbers))


ALONE, SHARED = ListenSettings(), ListenSettings(reuse_port=True)


def test_the_address_is_held_and_a_successor_may_have_it_too() -> None:
    with reserved("127.0.0.1:0", ALONE) as address:
        with reserved(address, SHARED) as same:  # a successor that starts before we end
            assert same == address
        host, port = address.split(":")
        with pytest.raises(ConnectionRefusedError), socket.create_connection((host, int(port))):
            pass  # held is not listened on
    with reserved(address, ALONE):
        pass


def test_an_address_that_another_program_listens_on_is_refused() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(ConfigError, match=r"sidecar\.listen"), reserved(address, ALONE):
            pass
        with reserved(address, SHARED) as same:
            assert same == address


@pytest.mark.parametrize("host", ["localhost", "[::1]"])
def test_names_and_v6_addresses_keep_their_form(host: str) -> None:
    with reserved(f"{host}:0", ALONE) as address:
        found, _, port = address.rpartition(":")
        assert found == host
        assert int(port)


def test_a_unix_socket_is_for_one_process(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"sidecar\.workers"), reserved(f"unix:{folder}/s", ALONE):
        pass


def test_what_a_worker_does_differently(folder: Path) -> None:
    whole = settings(folder, spool={"max_bytes": 300 << 20}, admin_auth={"allow_unauthenticated": True})
    one = worker_settings(whole, 2, 3)
    assert one.shown_name == "s#2"
    assert one.spool_dir == worker_folder(whole, 2) == folder / "worker-2"
    assert one.admin_listen == f"unix:{folder}/worker-2/admin.sock"
    assert one.spool.max_bytes == 100 << 20
    assert not one.admin_auth.configured
    assert one.listen == whole.listen


@pytest.mark.parametrize(
    ("more", "key"), [({"name": "n" * 127}, "sidecar.name"), ({"spool_dir": Path("/x" * 60)}, "sidecar.spool_dir")]
)
def test_what_becomes_too_long_is_told(folder: Path, more: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        worker_settings(settings(folder, **more), 0, 2)


async def test_a_folder_that_cannot_be_made_is_told(folder: Path) -> None:
    (folder / "file").touch()
    with pytest.raises(ConfigError, match=r"sidecar\.spool_dir: .*file/x"):
        async with running_workers(settings(folder / "file" / "x"), 1, command(folder)):
            pass
