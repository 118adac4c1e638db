"""What the API tells of the tariff's constants."""

import httpx
from fastapi import FastAPI

from agent.api.tariff import tariff_router
from agent.core.cost.constants import WorkConstants
from agent.core.cost.shapes import ModelShape

SHAPE = ModelShape(active_parameters=8e9, kv_bytes_per_token=131072, source="config", told_by="tariff.models[0]")
H100 = "NVIDIA H100 80GB HBM3"


async def get(known: WorkConstants, query: str = "") -> httpx.Response:
    app = FastAPI()
    app.include_router(tariff_router(known.views))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://node") as client:
        return await client.get(f"/api/v1/cost/tariff{query}")


async def test_what_is_known_and_why_not():
    known = WorkConstants([("llama*", SHAPE)])
    known.tell_gpus("vllm", [(H100, 1.0)])
    known.constants_of("vllm", "llama-8b")
    known.constants_of("vllm", "other")
    body = (await get(known)).json()
    llama, other = body["models"]
    assert (llama["engine"], llama["model"], llama["method"], llama["gpus"]) == ("vllm", "llama-8b", "shape", [H100])
    assert llama["shape"]["told_by"] == "tariff.models[0]"
    assert llama["shape"]["total_parameters"] is None
    assert llama["prior"]["prefill_ns"] > 0
    assert llama["fitted"] is None
    assert (other["method"], other["shape"], other["prior"]) == ("equal_share", None, None)
    assert "tariff.models" in other["reason"]


async def test_nobody_asked_yet():
    assert (await get(WorkConstants())).json() == {"models": []}


async def test_it_takes_no_parameters():
    assert (await get(WorkConstants(), "?window=1h")).status_code == 422
