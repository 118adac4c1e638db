"""What the admin address tells and changes of spools that were left by workers of an earlier number."""

from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.clock import unix_ns
from agent.sidecar.ids import uuid7
from agent.sidecar.records.inflight import open_inflight
from agent.sidecar.records.shipping import shipping
from agent.sidecar.settings import SidecarSettings
from tests.support.sidecar import NOWHERE, SMALL_SPOOL, Proxy, sidecar
from tests.support.spool_folders import dead_letter, make_stream
from tests.support.upstream import until

EVENT = b"no matter what"


async def leave(folder: Path, name: str, requests: int) -> None:
    """A worker was killed with so many requests in flight."""
    settings = SidecarSettings(spool_dir=folder, spool=SMALL_SPOOL, name=name, agent_url=NOWHERE)  # type: ignore[arg-type]
    async with shipping(settings):
        pass
    killed = open_inflight(folder, name, unix_ns())
    for number in range(requests):
        killed.begin(uuid7(unix_ns(), number).hex, unix_ns(), "/v1/completions", "acme")


async def values(proxy: Proxy) -> dict[str, float]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{proxy.admin_port}/metrics") as got:
        text = await got.text()
    found = [
        (" ".join((sample.name, *sample.labels.values())), sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]
    assert len(dict(found)) == len(found), "no series comes twice"
    return dict(found)


async def test_what_left_spools_count_is_in_the_sums(tmp_path: Path) -> None:
    for index in range(2):
        await leave(tmp_path / f"worker-{index}", f"s#{index}", index + 2)
    await leave(tmp_path, "s", 1)
    async with sidecar(NOWHERE, spool_dir=tmp_path, name="s") as proxy:
        await until(lambda: len(proxy.running.orphans.open) == 2)
        ships = [proxy.shipping, *proxy.running.orphans.open.values()]
        await until(lambda: sum(ship.records.state().accepted for ship in ships) == 1 + 2 + 3)
        told = await values(proxy)
        assert told["engineroom_sidecar_requests_total lost_record"] == 1 + 2 + 3
        assert told["engineroom_delivery_accepted_items_total records"] == 1 + 2 + 3
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{proxy.admin_port}/readyz") as answer,
        ):
            lines = (await answer.text()).splitlines()
        assert [line.split(":")[0] for line in lines if line.endswith("records wait")] == ["worker-0", "worker-1"]


@pytest.mark.parametrize(
    ("body", "status", "folders"),
    [
        ({"numbers": [1, 2]}, 200, {"own": 2}),
        ({"numbers": [1], "folder": "worker-0"}, 200, {"worker-0": 1}),
        ({"all": True, "folder": "own"}, 200, {"own": 3}),
        ({"all": True}, 200, {"own": 3, "worker-0": 4}),
        ({"numbers": [1], "folder": "worker-9"}, 404, None),
    ],
)
async def test_letters_are_those_of_the_own_folder_where_none_is_named(
    tmp_path: Path, body: dict[str, object], status: int, folders: dict[str, int] | None
) -> None:
    for folder, letters in ((tmp_path / "own", 3), (tmp_path / "own/worker-0", 4)):
        make_stream(folder / "records", 0)
        make_stream(folder / "dead-letters", letters, data=lambda number: dead_letter(number, EVENT))
    async with sidecar(NOWHERE, spool_dir=tmp_path / "own", agent_url=NOWHERE, ship_drain_seconds=0) as proxy:
        await until(lambda: len(proxy.running.orphans.open) == 1)
        url = f"http://127.0.0.1:{proxy.admin_port}/admin/v1/dlq/discard"
        async with aiohttp.ClientSession() as session, session.post(url, json=body) as answer:
            assert answer.status == status
            if folders is not None:
                assert await answer.json() == {"discarded": sum(folders.values()), "folders": folders}
