"""`engineroom sidecar`: on the request path beside one engine."""

import argparse
import os
from pathlib import Path

import anyio


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's arguments."""
    command = commands.add_parser(
        "sidecar",
        help="run the sidecar on the request path",
        description="Passes bytes between clients and one engine untouched, measures every request and hands the "
        "records to the agent.",
    )
    command.add_argument("--config", type=Path, help="engineroom.yaml; its section `sidecar` is used")
    command.add_argument("--upstream", metavar="URL", help="the engine, such as http://127.0.0.1:8000")
    command.add_argument("--listen", metavar="HOST:PORT", help="where clients connect (default 127.0.0.1:9480)")
    command.set_defaults(handler=run)


def run(options: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT, then let requests in flight finish."""
    from agent.config import load
    from agent.sidecar.app import serve

    given = {"upstream": options.upstream, "listen": options.listen}
    overrides = {f"ENGINEROOM__SIDECAR__{key.upper()}": value for key, value in given.items() if value}
    settings = load(options.config, {**os.environ, **overrides})
    anyio.run(serve, settings.sidecar, backend_options={"use_uvloop": True})
    return 0
