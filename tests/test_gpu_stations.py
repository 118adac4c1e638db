"""The GPU stations wired together, on a simulated machine."""

import sys
from pathlib import Path

import aiohttp
import anyio
import pytest

from agent.api.dcgm_settings import DcgmSettings
from agent.collect.gpu.settings import GpuSettings, KernelLogSettings
from agent.collect.workloads.settings import WorkloadSettings
from agent.core.board import Board
from agent.core.catalogue import BY_NAME
from agent.core.gpu_readings import GpuSnapshot
from agent.core.ports import ConfigError
from agent.core.workloads import Attribution
from agent.gpu_stations import DcgmServer, GpuStations
from agent.lifecycle import running
from tests.support.agent import free_port
from tests.support.alertmanager import eventually

READER = [sys.executable, "-m", "agent.demo.gpus.reader", "--machine", "h100x8"]
XID = "NVRM: Xid (PCI:0000:1b:00): 79, pid=77, name=python, GPU has fallen off the bus.\n"


def stations(tmp_path: Path, board: Board, attributions: list[Attribution], *, enabled: bool = True) -> GpuStations:
    log = tmp_path / "kernel.log"
    log.touch()
    settings = GpuSettings(enabled=enabled, interval_seconds=0.2, kernel_log=KernelLogSettings(path=log))

    def on_gpus(snapshot: GpuSnapshot) -> None:
        board.gpus = snapshot

    return GpuStations(settings, WorkloadSettings(), board, on_gpus, attributions.append, READER)


async def test_readings_errors_holders_and_the_page_of_dcgm_come_from_one_snapshot(tmp_path: Path) -> None:
    board, attributions = Board("n"), list[Attribution]()
    gpus = stations(tmp_path, board, attributions)
    dcgm = DcgmSettings(enabled=True, listen=f"127.0.0.1:{free_port()}")
    server = DcgmServer(dcgm, gpus, board, frozenset())
    with anyio.fail_after(30):
        async with running() as group, aiohttp.ClientSession() as session:
            gpus.start(group)
            server.start(group)
            await eventually(lambda: bool(board.gpus and board.gpus.driver == "ok" and attributions))
            await eventually(lambda: gpus.features()[0].enabled)
            assert gpus.errors_are_heard
            with (tmp_path / "kernel.log").open("a") as log:
                log.write(XID)
            await eventually(lambda: any(xid == 79 and n for (_, xid), n in gpus.xids.ledger.counts.items()))
            assert board.workloads is attributions[-1]
            names = {sample.key.name for sample in gpus.samples()}
            assert {"engineroom_gpu_xid_errors_total", "engineroom_feature_enabled"} <= names <= set(BY_NAME)
            async with session.get(f"http://{dcgm.listen}/metrics") as answer:
                page = await answer.text()
            assert page.count("\nDCGM_FI_DEV_GPU_UTIL{") == 8
            assert 'DCGM_FI_DEV_XID_ERRORS{gpu="0"' in page
            async with session.get(f"http://{dcgm.listen}/health") as answer:
                assert answer.status == 200
            group.cancel_scope.cancel()


async def test_with_gpus_switched_off_nothing_is_read_and_nothing_is_missing(tmp_path: Path) -> None:
    board = Board("n")
    gpus = stations(tmp_path, board, [], enabled=False)
    async with running() as group:
        gpus.start(group)
    assert list(gpus.samples()) == []
    assert gpus.features() == ()
    assert board.gpus is None


async def test_a_taken_port_is_named(tmp_path: Path) -> None:
    board = Board("n")
    gpus = stations(tmp_path, board, [])
    dcgm = DcgmSettings(enabled=True, listen=f"127.0.0.1:{free_port()}")
    first = DcgmServer(dcgm, gpus, board, frozenset())
    with pytest.raises(ConfigError, match=r"exporters\.dcgm\.listen"):
        DcgmServer(dcgm, gpus, board, frozenset())
    first.socket.close()
