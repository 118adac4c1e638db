"""Parts of the demo that need no whole run; the whole is in tests/end_to_end/test_demo.py."""

import os
import signal
from pathlib import Path

import aiohttp
import anyio
import pytest

from agent.config import Settings
from agent.demo.children import running
from agent.demo.demo import Options, choose_ports, config, until_answers
from agent.demo.faults import EXAMPLE_PRICES, FAULTS, Sickness
from agent.demo.relay import relay
from agent.demo.report import Outcome
from agent.demo.traffic import Tally
from tests.support.agent import free_port
from tests.support.http import answer, told_server


def options(**changes: object) -> Options:
    values: dict[str, object] = {
        "seconds": 1,
        "json_file": None,
        "fault": None,
        "hold_scale": 0.02,
        "machine": "h100x8",
        "currency": "CNY",
        "port": 0,
        "keep": None,
    }
    return Options(**(values | changes))


@pytest.mark.parametrize("fault", [None, *FAULTS])
def test_the_demos_configuration_is_a_right_one(fault: str | None, tmp_path: Path) -> None:
    tree = config(options(), choose_ports(0), tmp_path, FAULTS[fault] if fault else None)
    settings = Settings.model_validate(tree)
    assert settings.engines.targets[0].url == settings.sidecar.upstream
    assert settings.prices.file == EXAMPLE_PRICES
    assert EXAMPLE_PRICES.is_file()


async def test_a_child_that_dies_is_replaced_and_one_that_stays_is_ended(tmp_path: Path) -> None:
    said: list[str] = []
    replaced = anyio.Event()

    def say(line: str) -> None:
        said.append(line)
        if "replaced" in line:
            replaced.set()

    with anyio.fail_after(20):
        async with running("server", ["http.server", "0", "--bind", "127.0.0.1"], tmp_path / "log", say) as child:
            first = child.process.pid
            child.process.send_signal(signal.SIGKILL)
            await replaced.wait()
            second = child.process.pid
    assert child.restarts == 1
    assert first != second
    with pytest.raises(ProcessLookupError):
        os.kill(second, 0)


async def test_the_relay_delays_and_fails_completions_only() -> None:
    port = free_port()
    async with (
        told_server({"/v1/completions": answer(b"{}"), "/metrics": answer(b"x 1\n")}) as engine,
        relay(engine.url, port, Sickness(fail_every=2)),
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):
        statuses = []
        for path in ("/v1/completions", "/metrics", "/v1/completions", "/metrics"):
            async with session.post(path) if "completions" in path else session.get(path) as got:
                statuses.append(got.status)
    assert statuses == [200, 200, 500, 200]


async def test_what_is_not_ready_is_named_with_its_log(tmp_path: Path) -> None:
    async with told_server({"/": answer(b"fine")}) as server:
        await until_answers(server.url + "/", "the engine", tmp_path / "log")


GOOD = Outcome(
    gpus=[{"uuid": "GPU-1", "samples": 3}],
    engines=[{"up": True}],
    requests={"sent": 2, "recorded": 2, "settled": 2},
    alerts={"rules": 1, "evaluations": 1, "firing": []},
    cost={"currency": "CNY", "bill_nano": 1, "parts_nano": {"unattributed": 1}, "reconciles": True},
    delivery={"logs": {}, "spans": {}, "lost": 0},
)


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("gpus", [], "no GPU was read"),
        ("engines", [{"up": False}], "no engine was up"),
        ("requests", {"sent": 2, "recorded": 2, "settled": 1}, "differ"),
        ("alerts", {"rules": 1, "evaluations": 0, "firing": []}, "no rule was evaluated"),
        ("alerts", {"rules": 1, "evaluations": 1, "firing": ["X"]}, "alerts fired without a fault"),
        ("cost", {"parts_nano": {"unattributed": 1}, "reconciles": False}, "does not reconcile"),
        ("cost", {"parts_nano": {}, "reconciles": True}, "past the sidecar"),
        ("delivery", {"lost": 3}, "3 request events were lost"),
    ],
)
def test_each_station_that_fails_is_named(field: str, value: object, complaint: str) -> None:
    bad = Outcome(**(GOOD.as_dict() | {field: value}))
    assert GOOD.complaints(None, Tally()) == []
    assert any(complaint in line for line in bad.complaints(None, Tally()))


def test_a_fault_must_fire_its_alert() -> None:
    assert GOOD.complaints("GPUTemperatureHigh", Tally()) == ["GPUTemperatureHigh did not fire"]
