"""`engineroom sidecar`: on the request path beside one engine."""

import argparse
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from agent.sidecar.settings import SidecarSettings
    from agent.sidecar.sockets.listening import Listening


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
    command.add_argument("--worker", type=int, help=argparse.SUPPRESS)  # given by the parent of several
    command.set_defaults(handler=run)


def run(options: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT, then let requests in flight finish."""
    from agent.config import load

    given = {"upstream": options.upstream, "listen": options.listen}
    overrides = {f"ENGINEROOM__SIDECAR__{key.upper()}": value for key, value in given.items() if value}
    own = load(options.config, {**os.environ, **overrides}).sidecar
    backend = {"use_uvloop": True}
    if options.worker is None and own.workers > 1:
        from agent.sidecar.workers.admin import serve_workers

        anyio.run(serve_workers, own, own.workers, partial(_command, options), own.sockets, backend_options=backend)
        return 0
    with waiting_room(own, options.worker) as listening:
        gc.disable()  # modules stay, as in agent.__main__
        from agent.sidecar.app import serve, serve_one_of_several

        gc.enable()
        if options.worker is not None:
            anyio.run(serve_one_of_several, own, options.worker, backend_options=backend)
        else:
            anyio.run(serve, own, listening, backend_options=backend)
    return 0


@contextmanager
def waiting_room(settings: "SidecarSettings", worker: int | None) -> "Iterator[Listening | None]":
    """The address for clients, open while the rest is still being imported: they wait instead of being refused.

    None where others share the address: these would serve them sooner. Raises `ConfigError`.
    """
    if worker is not None or settings.sockets.reuse_port:
        yield None
        return
    from agent.sidecar.sockets.listening import open_listening

    listening = open_listening(settings.listen, settings.sockets)
    try:
        listening.queue()
        yield listening
    finally:
        listening.close()


def _command(options: argparse.Namespace, index: int, address: str) -> list[str]:
    """The command line of one worker: our own, with its number and the address that was found free."""
    given = ["--log-format", options.log_format, "--log-level", options.log_level, "sidecar"]
    if options.config is not None:
        given += ["--config", str(options.config)]
    if options.upstream is not None:
        given += ["--upstream", options.upstream]
    return [sys.executable, "-m", "agent", *given, "--listen", address, "--worker", str(index)]
