"""The OpenAPI document, and a program that tries everything it allows and forbids against the served API."""

import os
import sys
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import msgspec
import pytest

from agent.api.access import NEEDS
from agent.api.adapters import HistoryQueries
from agent.api.app import build_api
from agent.api.doors import doors_of
from agent.core.metrics.samples import Sample, SeriesKey
from agent.core.metrics.series import History
from tests.conftest import ROOT
from tests.support.api import NOW_NS, node, open_doors, served
from tests.support.callers import settings, token_of
from tests.support.credentials import bearer
from tests.support.ledger import lived, opened
from tests.support.money import HandClock, Sidecar

LONG = bool(os.environ.get("ENGINEROOM_LONG"))
LACKING = ["positive_data_acceptance", "negative_data_rejection"]  # PromQL and windows have a grammar of their own


def document() -> dict[str, Any]:
    return build_api(node(), open_doors()).openapi()


def test_every_operation_tells_its_answers_and_who_may_ask():
    paths = document()["paths"]
    for path, operations in paths.items():
        for operation in operations.values():
            assert {"200", "413", "421", "429", "500", "503"} <= operation["responses"].keys()
            needs_credentials = {"401", "403"} <= operation["responses"].keys()
            assert needs_credentials is not NEEDS[path].is_open
            assert ("security" in operation) is needs_credentials
            for status, answer in operation["responses"].items():
                assert answer["content"], (path, status)
    assert paths["/api/v1/cost/report"]["get"]["security"][0] == {"token": ["cost"]}
    assert "HTTPValidationError" not in str(document())


def test_asking_twice_gives_the_same():
    app = build_api(node(), open_doors())
    assert app.openapi() is app.openapi()


def test_prometheus_parameters_are_told():
    query = document()["paths"]["/api/v1/query"]
    assert {p["name"]: p["required"] for p in query["get"]["parameters"]} == {
        "query": True,
        "time": False,
        "limit": False,
    }
    form = query["post"]["requestBody"]["content"]["application/x-www-form-urlencoded"]["schema"]
    assert form["required"] == ["query"]


async def schemathesis(place: str, folder: Path, *options: str) -> tuple[int, str]:
    """Status and output of the program, started as its users start it."""
    program = str(Path(sys.executable).with_name("schemathesis"))
    common = ["--seed=20261123", "--generation-database=none", "--no-color", "--workers=1", "--continue-on-failure"]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "tests.support.schemathesis_hooks", "PYTHONPATH": str(ROOT)}
    with anyio.fail_after(1200 if LONG else 120):
        done = await anyio.run_process(
            [program, "run", f"{place}/openapi.json", *common, *options], check=False, cwd=folder, env=environment
        )
    return done.returncode, (done.stdout + done.stderr).decode()


async def test_nothing_that_can_be_asked_breaks_it(tmp_path: Path):
    history = History()
    for second in range(60):
        samples = [Sample(SeriesKey("up", [("job", name)]), float(second)) for name in "ab"]
        history.append("scrape", NOW_NS // 1_000_000 - 60_000 + second * 1000, samples)
    clock = HandClock(NOW_NS)
    async with await opened(tmp_path / "ledger.sqlite") as ledger:
        settlement = await lived(ledger, clock, 3, Sidecar())
        services = node(queries=HistoryQueries(history), ledger=ledger, accept=settlement.accept, unix_ns=clock.now_ns)
        async with served(services, doors_of(settings(tmp_path))) as url:
            status, output = await schemathesis(
                url,
                tmp_path,
                f"--header=Authorization: {bearer(token_of('all'))}",
                f"--max-examples={500 if LONG else 12}",
                "--phases=examples,coverage,fuzzing",
                f"--exclude-checks={','.join(LACKING)}",
            )
            assert status == 0, output[-8000:]
            # It still answers, and the books still balance.
            api = aiohttp.ClientSession(url, headers={"Authorization": bearer(token_of("all"))})
            async with api, api.get("/api/v1/cost/reconcile") as answer:
                assert (await answer.json())["reconciles"]


class Reached:
    """Stands for every service of the node; whoever gets to one is remembered."""

    def __init__(self) -> None:
        self.by: list[str] = []

    def __getattr__(self, name: str) -> Any:
        def reached(*_: object) -> None:
            self.by.append(name)
            raise AssertionError(f"a stranger got to {name}")

        return reached


@pytest.mark.long
async def test_strangers_reach_nothing(tmp_path: Path):
    inside = Reached()
    services = node(
        queries=inside, ledger=inside, accept=inside.accept, render_metrics=inside.metrics, rule_groups=inside.rules
    )
    (tmp_path / "openapi.json").write_bytes(msgspec.json.encode(document()))
    async with served(services, doors_of(settings(tmp_path))) as url:
        status, output = await schemathesis(
            str(tmp_path),
            tmp_path,
            f"--url={url}",
            "--header=Authorization: Bearer forged-0123456789-forged",
            "--max-examples=200",
            "--phases=coverage,fuzzing",
            "--checks=not_a_server_error,status_code_conformance,content_type_conformance",
        )
    assert status == 0, output[-8000:]
    assert inside.by == []
