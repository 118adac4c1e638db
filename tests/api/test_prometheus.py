from typing import Any

import aiohttp
import anyio
import pytest

from agent.api.adapters import HistoryQueries
from agent.core.metrics.samples import Sample, SeriesKey
from agent.core.metrics.series import History
from tests.support.api import NOW_NS, node, served
from tests.support.components import need

Api = aiohttp.ClientSession


async def get(api: Api, path: str, **parameters: Any) -> tuple[int, Any]:
    async with api.get(path, params=parameters) as answer:
        assert answer.content_type == "application/json"
        return answer.status, await answer.json()


async def data(api: Api, path: str, **parameters: Any) -> Any:
    status, body = await get(api, path, **parameters)
    assert (status, body["status"]) == (200, "success")
    return body["data"]


async def test_vector_values_are_text_as_prometheus_writes_it(api: Api):
    found = await data(api, "/api/v1/query", query="up", time="1763894400.5")
    assert found["resultType"] == "vector"
    assert found["result"][0]["metric"] == {"__name__": "up", "i": "0"}
    assert [item["value"] for item in found["result"]] == [
        [1763894400.5, text] for text in ("NaN", "+Inf", "-Inf", "1000000000000000000000", "0.1", "3")
    ]


async def test_scalars_and_strings(api: Api):
    assert await data(api, "/api/v1/query", query="1+1", time="60") == {"resultType": "scalar", "result": [60, "2"]}
    found = await data(api, "/api/v1/query", query='"text"', time="60")
    assert found == {"resultType": "string", "result": [60, "text"]}


async def test_without_a_time_now_is_asked(api: Api):
    found = await data(api, "/api/v1/query", query="1+1")
    assert found["result"][0] == 1763894400.25


async def test_a_range(api: Api):
    found = await data(
        api,
        "/api/v1/query_range",
        query="engineroom_gpu_power_watts",
        start="2025-11-23T10:00:00Z",
        end="1763892030",
        step="15s",
    )
    assert found["resultType"] == "matrix"
    times = [t for t, _ in found["result"][0]["values"]]
    assert times == [1763892000, 1763892015, 1763892030]


async def test_forms_are_read_too(api: Api):
    async with api.post("/api/v1/query", data={"query": "1+1", "time": "60"}) as answer:
        assert (await answer.json())["data"]["result"] == [60, "2"]
    async with api.post("/api/v1/query", json={"query": "1+1"}) as answer:
        assert answer.status == 400
        assert "x-www-form-urlencoded" in (await answer.json())["error"]


RANGE = {"query": "up", "start": "0", "end": "60", "step": "15"}


@pytest.mark.parametrize(
    ("path", "parameters", "status", "kind", "says"),
    [
        ("query", {}, 400, "bad_data", "missing parameter 'query'"),
        ("query", {"query": "bad{"}, 400, "bad_data", "close the braces"),
        ("query", {"query": "many"}, 422, "execution", "many-to-many"),
        ("query", {"query": "up", "time": "soon"}, 400, "bad_data", "invalid parameter 'time'"),
        ("query", {"query": "up", "limit": "x"}, 400, "bad_data", "'limit'"),
        ("query", {"query": "up", "lookback_delta": "1m"}, 400, "bad_data", "not supported"),
        ("query_range", {**RANGE, "end": "-1"}, 400, "bad_data", "invalid parameter 'end'"),
        ("query_range", {**RANGE, "start": "90"}, 400, "bad_data", "before start"),
        ("query_range", {**RANGE, "step": "0"}, 400, "bad_data", "at least one millisecond"),
        ("query_range", {**RANGE, "step": "x"}, 400, "bad_data", "not a duration"),
        ("query_range", {**RANGE, "end": "600000", "step": "1"}, 400, "bad_data", "larger 'step'"),
        ("series", {}, 400, "bad_data", "match[]"),
        ("series", {"match[]": "bad{"}, 400, "bad_data", "unexpected end"),
        ("rules", {"type": "odd"}, 400, "bad_data", "'odd'"),
    ],
)
async def test_errors_have_prometheus_shape(
    api: Api, path: str, parameters: dict[str, str], status: int, kind: str, says: str
):
    got, body = await get(api, f"/api/v1/{path}", **parameters)
    assert (got, body["status"], body["errorType"]) == (status, "error", kind)
    assert says in body["error"]


async def test_parameters_that_change_nothing_are_ignored(api: Api):
    await data(api, "/api/v1/query", query="1+1", timeout="30s", stats="all", _="17")


async def test_a_limit_is_said(api: Api):
    _, body = await get(api, "/api/v1/query", query="up", limit="2")
    assert len(body["data"]["result"]) == 2
    assert body["warnings"]


async def test_series_and_labels(api: Api):
    assert await data(api, "/api/v1/labels") == ["__name__", "node"]
    assert await data(api, "/api/v1/label/node/values") == ["a", "b"]
    assert await data(api, "/api/v1/label/__name__/values") == ["down", "up"]
    assert await data(api, "/api/v1/series", **{"match[]": "down"}) == [{"__name__": "down"}]
    _, body = await get(api, "/api/v1/labels", limit="1")
    assert (body["data"], len(body["warnings"])) == (["__name__"], 1)


async def test_metadata(api: Api):
    found = await data(api, "/api/v1/metadata", metric="engineroom_gpu_up")
    assert list(found) == ["engineroom_gpu_up"]
    assert found["engineroom_gpu_up"][0]["type"] == "gauge"


async def test_rules(api: Api):
    (group,) = (await data(api, "/api/v1/rules"))["groups"]
    assert (group["name"], group["interval"]) == ("node", 5)
    hot, full, quiet, *_, recorded = group["rules"]
    assert [r["state"] for r in (hot, full, quiet)] == ["firing", "pending", "inactive"]
    assert (hot["type"], hot["duration"], hot["health"]) == ("alerting", 300, "ok")
    assert hot["alerts"][0]["activeAt"] == "2025-11-23T10:25:00.25Z"
    assert hot["alerts"][0]["value"] == "9.1e+01"
    assert recorded["type"] == "recording"
    assert recorded["lastEvaluation"] == "0001-01-01T00:00:00Z"
    assert "state" not in recorded


async def test_rules_are_filtered(api: Api):
    (group,) = (await data(api, "/api/v1/rules", type="record"))["groups"]
    assert [rule["type"] for rule in group["rules"]] == ["recording"]
    assert (await data(api, "/api/v1/rules", **{"rule_name[]": "nothing"}))["groups"] == []
    assert (await data(api, "/api/v1/rules", **{"rule_group[]": "other"}))["groups"] == []
    (group,) = (await data(api, "/api/v1/rules", exclude_alerts="true"))["groups"]
    assert group["rules"][0]["alerts"] == []


async def test_alerts(api: Api):
    found = (await data(api, "/api/v1/alerts"))["alerts"]
    assert [(a["labels"]["alertname"], a["state"]) for a in found] == [
        ("GpuTemperatureHigh", "firing"),
        ("GpuMemoryFull", "pending"),
    ]


async def test_buildinfo(api: Api):
    assert (await data(api, "/api/v1/status/buildinfo"))["revision"] == "engineroom-0.1.0"


@pytest.mark.component("promtool")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("query", "instant", "--time=1763894400", "URL", "rate(turns_total[30s])"), '{engine="chat"} => 2 @'),
        (("query", "instant", "URL", "rate(turns_total"), "bad_data"),
        (
            ("query", "range", "--start=1763894370", "--end=1763894400", "--step=15s", "URL", "sum(turns_total)"),
            "60 @[1763894370]",
        ),
        (("query", "series", "--match=turns_total", "URL"), '__name__="turns_total"'),
        (("query", "labels", "URL", "engine"), "chat"),
    ],
)
async def test_promtool_understands_the_answers(arguments: tuple[str, ...], says: str):
    now_ms = NOW_NS // 1_000_000
    history = History()
    for second in range(61):
        key = SeriesKey("turns_total", [("engine", "chat")])
        history.append("scrape", now_ms - 250 - 60_000 + second * 1000, [Sample(key, 2.0 * second)])
    async with served(node(queries=HistoryQueries(history))) as url:
        command = [need("promtool"), *(url if part == "URL" else part for part in arguments)]
        with anyio.fail_after(30):
            done = await anyio.run_process(command, check=False)
    assert says in (done.stdout + done.stderr).decode()
