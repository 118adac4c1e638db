"""The command's part of the start: the address for clients is open before the rest has been loaded."""

import socket
from pathlib import Path

import anyio
import pytest

from agent.cli.sidecar import waiting_room
from agent.core.ports import ConfigError
from agent.sidecar.app import serve
from agent.sidecar.settings import SidecarSettings
from agent.sidecar.sockets.settings import ListenSettings
from tests.support.sidecar import NOWHERE


def settings(folder: Path, **more: object) -> SidecarSettings:
    given = {"listen": "127.0.0.1:0", "admin_listen": "127.0.0.1:0", "agent_url": NOWHERE, "upstream": NOWHERE}
    return SidecarSettings.model_validate(given | {"spool_dir": folder, "spool": {"min_free_bytes": 0}} | more)


async def test_who_comes_early_waits_and_is_served(tmp_path: Path) -> None:
    own = settings(tmp_path)
    with waiting_room(own, None) as listening:
        assert listening is not None
        with socket.create_connection(("127.0.0.1", listening.port), 10) as early:
            early.sendall(b"GET /early HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            async with anyio.create_task_group() as group:
                group.start_soon(serve, own, listening)
                answer = await anyio.to_thread.run_sync(early.recv, 100)
                group.cancel_scope.cancel()
        port = listening.port
    assert answer.startswith(b"HTTP/1.1 502 ")
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), 10).close()


def test_a_sidecar_that_cannot_start_keeps_nobody_waiting(tmp_path: Path) -> None:
    path = tmp_path / "s"

    def start() -> None:
        with waiting_room(settings(tmp_path, listen=f"unix:{path}"), None):
            assert path.is_socket()
            raise ConfigError("sidecar.spool", "no")

    with pytest.raises(ConfigError, match="no"):
        start()
    assert not path.exists()


@pytest.mark.parametrize("worker", [None, 0])
def test_who_shares_the_address_leaves_clients_to_the_others(tmp_path: Path, worker: int | None) -> None:
    own = settings(tmp_path, sockets=ListenSettings(reuse_port=worker is None), workers=1 if worker is None else 2)
    with waiting_room(own, worker) as listening:
        assert listening is None


def test_an_address_that_is_taken_is_told(tmp_path: Path) -> None:
    with waiting_room(settings(tmp_path), None) as first:
        assert first is not None
        with (
            pytest.raises(ConfigError, match=r"sidecar\.listen: cannot listen on"),
            waiting_room(settings(tmp_path, listen=first.shown), None),
        ):
            pass
