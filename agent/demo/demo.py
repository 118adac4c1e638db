"""A watched node on this machine: real engine, sidecar, agent and traffic; simulated GPUs if there is no driver."""

import json
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import anyio

from agent.clock import NS, boot_ns
from agent.demo import faults
from agent.demo.budgets import budgets
from agent.demo.children import Child, running
from agent.demo.gpus.control import Control, SimulatedProcess
from agent.demo.gpus.control import write as write_control
from agent.demo.model import write_model
from agent.demo.relay import relay
from agent.demo.report import Outcome, gather
from agent.demo.traffic import Tally, Traffic

READY_SECONDS = 60
SETTLE_SECONDS = 25
ENGINE_GPUS = (0, 1)
TRAINING_GPU = 2


class DemoError(Exception):
    """The demo could not do its job; the text says which part, and where to look."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asked for."""

    seconds: float | None
    json_file: Path | None
    fault: str | None
    hold_scale: float
    machine: str
    currency: str
    port: int
    keep: Path | None
    alertmanagers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ports:
    """Loopback ports of this run; fixed where people look, free ones elsewhere."""

    agent: int
    probes: int
    sidecar: int
    sidecar_admin: int
    engine: int
    relay: int


@dataclass(slots=True)
class Scene:
    """The running parts, for the loop that shows and steers them."""

    options: Options
    ports: Ports
    folder: Path
    traffic: Traffic
    simulated: bool
    engine: Child
    agent: Child
    control: Path

    @property
    def agent_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.agent}"


def has_driver() -> bool:
    """True when NVIDIA's management library can be loaded here."""
    import ctypes

    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    return True


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def choose_ports(wanted: int) -> Ports:
    """The agent's usual port if nobody has it; everything else on free ports."""
    agent = wanted if wanted and _is_free(wanted) else free_port()
    return Ports(agent, free_port(), free_port(), free_port(), free_port(), free_port())


def config(options: Options, ports: Ports, folder: Path, fault: faults.Fault | None) -> dict[str, Any]:
    """The demo's engineroom.yaml, as a tree."""
    sick = fault is not None and fault.sickness is not None
    engine_url = f"http://127.0.0.1:{ports.relay if sick else ports.engine}"
    target: dict[str, Any] = {"name": "demo", "url": engine_url, "interval_seconds": 1}
    if sick:
        target["gpus"] = [str(index) for index in ENGINE_GPUS]  # the relay's process holds no GPU
    return {
        "node": {"name": "demo-node"},
        "storage": {"data_dir": str(folder / "data")},
        "gpus": {"slow_interval_seconds": 1},
        "engines": {"discover": False, "targets": [target]},
        "sidecar": {
            "listen": f"127.0.0.1:{ports.sidecar}",
            "admin_listen": f"127.0.0.1:{ports.sidecar_admin}",
            "upstream": engine_url,
            "agent_url": f"http://127.0.0.1:{ports.agent}",
            "name": "demo-sidecar",
            "spool_dir": str(folder / "sidecar"),
        },
        "rules": {"interval_seconds": 1, "hold_scale": options.hold_scale},
        "exporters": {"alertmanagers": list(options.alertmanagers)},
        "prices": {"file": str(faults.EXAMPLE_PRICES), "currency": options.currency},
        "budgets": {"items": budgets(options.currency, fault.day_amount if fault else None)},
        "api": {"listen": f"127.0.0.1:{ports.agent}", "probes_listen": f"127.0.0.1:{ports.probes}"},
    }


async def until_answers(url: str, what: str, log: Path) -> None:
    """Wait until `url` answers 200. Raises `DemoError` that names the log when it does not in time."""
    last = "no answer"
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        with anyio.move_on_after(READY_SECONDS):
            while True:
                try:
                    async with session.get(url) as answer:
                        last = (await answer.text()).strip()
                        if answer.status == 200:
                            return
                except (aiohttp.ClientError, TimeoutError) as error:
                    last = type(error).__name__
                await anyio.sleep(0.05)
    raise DemoError(f"{what} was not ready after {READY_SECONDS} s ({last}); its log is {log}")


@asynccontextmanager
async def scene(options: Options, folder: Path, say: Callable[[str], None]) -> AsyncIterator[Scene]:
    """Everything up and ready while the body runs."""
    fault = faults.FAULTS[options.fault] if options.fault else None
    ports = choose_ports(options.port)
    simulated = not has_driver()
    control = folder / "gpus.json"
    config_file = folder / "engineroom.yaml"
    config_file.write_text(json.dumps(config(options, ports, folder, fault), indent=2))  # JSON is YAML
    model = folder / "model.gguf"
    write_model(model)
    async with AsyncExitStack() as stack:
        engine_log = folder / "engine.log"
        engine = await stack.enter_async_context(
            running("engine", ["agent.demo.engine", str(model), str(ports.engine)], engine_log, say)
        )
        await until_answers(f"http://127.0.0.1:{ports.engine}/health", "the llama.cpp engine", engine_log)
        if fault and fault.sickness:
            await stack.enter_async_context(relay(f"http://127.0.0.1:{ports.engine}", ports.relay, fault.sickness))
        _steer_gpus(control, engine.process.pid, 0.0, None)
        command = ["agent", "run", "--config", str(config_file)]
        if simulated:
            command += ["--simulate-gpus", options.machine, "--simulate-control", str(control)]
        agent_log, sidecar_log = folder / "agent.log", folder / "sidecar.log"
        agent = await stack.enter_async_context(running("agent", command, agent_log, say))
        await until_answers(f"http://127.0.0.1:{ports.probes}/readyz", "the agent", agent_log)
        await stack.enter_async_context(
            running("sidecar", ["agent", "sidecar", "--config", str(config_file)], sidecar_log, say)
        )
        await until_answers(f"http://127.0.0.1:{ports.sidecar_admin}/readyz", "the sidecar", sidecar_log)
        clients = fault.clients if fault else faults.CLIENTS
        traffic = Traffic(
            f"http://127.0.0.1:{ports.sidecar}",
            f"http://127.0.0.1:{ports.engine}",
            clients=clients,
            pause_seconds=faults.PAUSE_SECONDS,
        )
        yield Scene(options, ports, folder, traffic, simulated, engine, agent, control)


def _steer_gpus(control: Path, engine_pid: int, load: float, fault: faults.Fault | None) -> None:
    """Let the simulated GPUs follow the traffic: `load` 0..1 on the engine's GPUs, a steady job on another one."""
    held = SimulatedProcess(pid=engine_pid, memory_bytes=62 * 2**30)
    training = SimulatedProcess(pid=1, memory_bytes=40 * 2**30)
    settings: dict[str, Any] = {
        "load": {**{str(index): load for index in ENGINE_GPUS}, str(TRAINING_GPU): 0.6},
        "processes": {**{str(index): [held] for index in ENGINE_GPUS}, str(TRAINING_GPU): [training]},
    }
    if fault:
        settings |= fault.gpus
    write_control(control, Control(**settings))


async def _steer(stage: Scene, watch: "Watch", say: Callable[[str], None]) -> None:
    fault = faults.FAULTS[stage.options.fault] if stage.options.fault else None
    load = 0.0
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        while True:
            tally = stage.traffic.tally
            load = 0.7 * load + 0.3 * min(1.0, tally.in_flight / 4)
            if stage.simulated:
                _steer_gpus(stage.control, stage.engine.process.pid, round(load, 2), fault)
            await watch.look(session, stage.agent_url)
            say(
                f"requests {tally.sent} through the sidecar ({tally.failed} failed{_reasons(tally)}, "
                f"{tally.left} left early, {tally.retried} sent again), "
                f"{tally.bypassed} past it · "
                f"firing: {', '.join(sorted(watch.firing)) or 'none'}"
            )
            await anyio.sleep(1)


def _reasons(tally: Tally) -> str:
    return "".join(f", {count}x {reason}" for reason, count in sorted(tally.reasons.items()))


class Watch:
    """Which alerts fired at any time during the run; an agent that is just being replaced is not an error."""

    def __init__(self) -> None:
        self.firing: set[str] = set()

    async def look(self, session: aiohttp.ClientSession, url: str) -> None:
        """Ask the agent once."""
        try:
            async with session.get(f"{url}/api/v1/alerts") as answer:
                alerts = (await answer.json())["data"]["alerts"]
        except (aiohttp.ClientError, TimeoutError, KeyError, ValueError):
            return
        self.firing |= {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}


async def play(options: Options, say: Callable[[str], None], show: Callable[[str], None]) -> tuple[Outcome, Tally]:
    """Run the demo for `options.seconds` (None: until cancelled) and return what was seen."""
    folder = options.keep or Path(tempfile.mkdtemp(prefix="engineroom-demo-"))
    folder.mkdir(parents=True, exist_ok=True)
    watch = Watch()
    try:
        async with scene(options, folder, say) as stage:
            say(f"the page: {stage.agent_url}/   (Ctrl-C ends the demo)")
            began = boot_ns()
            async with anyio.create_task_group() as group:
                group.start_soon(_steer, stage, watch, show)
                async with anyio.create_task_group() as clients:
                    clients.start_soon(stage.traffic.run)
                    if options.seconds is None:
                        await anyio.sleep_forever()
                    else:
                        await anyio.sleep(options.seconds - (boot_ns() - began) / NS)
                    stage.traffic.stop()
                with anyio.move_on_after(SETTLE_SECONDS):
                    await _until_settled(stage)
                group.cancel_scope.cancel()
            tally = stage.traffic.tally
            return await gather(stage.agent_url, stage.ports.sidecar_admin, tally, watch.firing), tally
    finally:
        if options.keep is None:
            shutil.rmtree(folder, ignore_errors=True)


async def _until_settled(stage: Scene) -> None:
    tally = stage.traffic.tally
    while True:
        outcome = await gather(stage.agent_url, stage.ports.sidecar_admin, tally, set())
        if outcome.requests["settled"] >= tally.sent and outcome.cost["parts_nano"].get("unattributed", 0) > 0:
            return
        await anyio.sleep(0.5)
