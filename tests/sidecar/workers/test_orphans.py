"""Records in the folders of workers that are no more come to the agent all the same."""

from pathlib import Path

import anyio
import pytest
from structlog.testing import capture_logs

from agent.core.requests import RequestEvent, RequestStarted
from agent.sidecar.records.shipping import shipping
from agent.sidecar.settings import SidecarSettings
from agent.sidecar.workers.metrics import MergedPages
from agent.sidecar.workers.orphans import Orphans, orphan_folders
from tests.support.sidecar import NOWHERE, SMALL_SPOOL, receiver
from tests.support.upstream import until


def settings(folder: Path, agent_url: str = NOWHERE) -> SidecarSettings:
    return SidecarSettings(
        agent_url=agent_url,
        spool_dir=folder,
        spool=SMALL_SPOOL,  # type: ignore[arg-type]
        name="s",
        ship_interval_seconds=0.01,
    )


def started(sequence: int) -> RequestEvent:
    return RequestStarted(sequence=sequence, id=str(sequence), upstream="u", path="/", started_at_ns=1)


async def leave(folder: Path, name: str, count: int) -> None:
    """A sidecar of this name has ended while the agent was away."""
    own = settings(folder).model_copy(update={"name": name})
    async with shipping(own) as ship:
        for _ in range(count):
            ship.queue.put(started)
        await ship.records.flush()


def test_a_new_sidecar_has_no_orphans(tmp_path: Path) -> None:
    for workers in (1, 4):
        assert orphan_folders(settings(tmp_path / "absent"), workers) == []
        assert orphan_folders(settings(tmp_path), workers) == []


def test_which_folders_are_orphans(tmp_path: Path) -> None:
    for name in (".", "worker-0", "worker-1", "worker-10", "worker-x", "other"):
        (tmp_path / name / "records").mkdir(parents=True)
    (tmp_path / "worker-3").mkdir()  # nothing was ever written there

    def names(workers: int) -> set[str]:
        return {str(folder.relative_to(tmp_path)) for folder in orphan_folders(settings(tmp_path), workers)}

    assert names(1) == {"worker-0", "worker-1", "worker-10"}  # the single process uses the folder itself
    assert names(2) == {".", "worker-10"}
    assert names(11) == {"."}


@pytest.mark.parametrize("workers", [1, 2])
async def test_what_earlier_workers_left_is_delivered_under_their_names(tmp_path: Path, workers: int) -> None:
    await leave(tmp_path / "worker-2", "s#2", 5)
    await leave(tmp_path / "worker-3", "s#3", 7)
    async with receiver() as agent, anyio.create_task_group() as group:
        own = settings(tmp_path, agent.url)
        orphans = Orphans(own, orphan_folders(own, workers))
        group.start_soon(orphans.run)
        await until(lambda: len(agent.accepted) == 12)
        assert sorted((batch.sidecar, len(batch.events)) for batch in agent.batches) == [("s#2", 5), ("s#3", 7)]
        await until(lambda: all(not ship.records.state().waiting for ship in orphans.open.values()))
        delivered = sum(
            sample.value
            for family in MergedPages().families(orphans.families())
            for sample in family.samples
            if sample.name == "engineroom_delivery_items_total" and sample.labels["result"] == "delivered"
        )
        assert delivered == 12  # stays told, so that the sum over all workers does not go back
        group.cancel_scope.cancel()
    async with receiver() as agent, anyio.create_task_group() as group:
        own = settings(tmp_path, agent.url)
        orphans = Orphans(own, orphan_folders(own, workers))
        group.start_soon(orphans.run)
        await until(lambda: len(orphans.open) == 2)
        group.cancel_scope.cancel()
    assert agent.batches == []


async def test_a_folder_that_its_process_still_has_is_taken_later(tmp_path: Path) -> None:
    own = settings(tmp_path)
    async with anyio.create_task_group() as group:
        with capture_logs() as logs:
            async with shipping(own.model_copy(update={"spool_dir": tmp_path / "worker-0"})):
                orphans = Orphans(own, orphan_folders(own, 1), again_seconds=0.01)
                group.start_soon(orphans.run)
                await until(lambda: any(line["event"] == "spool_not_adopted" for line in logs))
            await until(lambda: "worker-0" in orphans.open)
        group.cancel_scope.cancel()
    told = [line for line in logs if line["event"] == "spool_not_adopted"]
    assert len(told) == 1
    assert "in use by another process" in told[0]["reason"]
