"""`engineroom demo`: a watched node on this machine, to look at or to test with."""

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from agent.demo.faults import FAULTS

if TYPE_CHECKING:
    from agent.demo.demo import Options
    from agent.demo.report import Outcome


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's arguments."""
    command = commands.add_parser(
        "demo",
        help="bring up a watched node on this machine",
        description="Starts a real llama.cpp engine, the sidecar and the agent on loopback and sends requests. "
        "GPUs are simulated (and labelled so) where there is no NVIDIA driver.",
    )
    command.add_argument("--for", dest="seconds", type=float, metavar="SECONDS", help="stop by itself after this time")
    command.add_argument("--json", dest="json_file", type=Path, metavar="FILE", help="write what was seen to FILE")
    command.add_argument("--fault", choices=sorted(FAULTS), help="let something go wrong; its alert must fire")
    command.add_argument(
        "--hold-scale",
        type=float,
        default=0.02,
        help="factor on the rules' `for` times, so that alerts fire within a short run (default 0.02)",
    )
    command.add_argument(
        "--machine", default="h100x8", help="simulated machine: h100x8 (default), h100mig, l40s, ... or a machine file"
    )
    command.add_argument("--currency", default="CNY", choices=("CNY", "USD"), help="of the example price book")
    command.add_argument("--port", type=int, default=9440, help="the page's port, if it is free (default 9440; 0: any)")
    command.add_argument("--keep", type=Path, metavar="FOLDER", help="keep ledger, logs and configuration here")
    command.add_argument(
        "--alertmanager", action="append", default=[], metavar="URL", help="deliver alerts there too (repeatable)"
    )
    command.set_defaults(handler=run)


def run(options: argparse.Namespace) -> int:
    """Play the demo; exit 0 only if every station did its job."""
    import aiohttp

    from agent.demo.demo import DemoError, Options

    wanted = Options(
        seconds=options.seconds,
        json_file=options.json_file,
        fault=options.fault,
        hold_scale=options.hold_scale,
        machine=options.machine,
        currency=options.currency,
        port=options.port,
        keep=options.keep,
        alertmanagers=tuple(options.alertmanager),
    )
    try:
        outcome, complaints = anyio.run(partial(_play, wanted), backend_options={"use_uvloop": True})
    except* (DemoError, aiohttp.ClientError) as group:
        raise SystemExit(_tell(group)) from None
    if wanted.json_file:
        wanted.json_file.write_text(json.dumps(outcome.as_dict(), indent=2) + "\n")
    print(json.dumps(outcome.requests), json.dumps(outcome.cost))
    for complaint in complaints:
        print(f"engineroom demo: {complaint}", file=sys.stderr)
    print("demo: " + ("every station worked" if not complaints else "NOT ok"))
    return 1 if complaints else 0


def _tell(group: BaseExceptionGroup[BaseException]) -> int:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            _tell(error)
        else:
            print(f"engineroom demo: {error}", file=sys.stderr)
    return 1


async def _play(options: "Options") -> "tuple[Outcome, list[str]]":
    from agent.demo.demo import play

    expected = FAULTS[options.fault].alert if options.fault else None
    terminal = sys.stdout.isatty()

    def say(line: str) -> None:
        print(("\r\x1b[K" if terminal else "") + line, flush=True)

    def show(line: str) -> None:
        print(f"\r\x1b[K{line}" if terminal else line, end="" if terminal else "\n", flush=True)

    outcome, tally = await play(options, say, show)
    return outcome, outcome.complaints(expected, tally)
