import aiohttp

from agent.core.workloads import Feature
from tests.support.api import node, served


async def test_findings_of_the_board_and_of_the_stations() -> None:
    services = node(features=lambda: [Feature(name="kernel_log", enabled=False, reason="mount /dev/kmsg")])
    async with (
        served(services) as address,
        aiohttp.ClientSession(address) as session,
        session.get("/api/v1/doctor") as answer,
    ):
        assert answer.status == 200
        found = await answer.json()
        assert {"severity": "missing", "subject": "kernel log", "text": "mount /dev/kmsg"} in found
        assert services.board.gpus is not None
        lost = [gpu for gpu in services.board.gpus.gpus if gpu.state != "ok"]
        assert len([finding for finding in found if finding["severity"] == "broken"]) >= len(lost)
