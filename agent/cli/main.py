"""Arguments in, exit status out: 0 done, 1 failed, 2 the user must change something.

Each command imports its own stations when it runs, so that none pays for another.
"""

import argparse
import gc
import sys
from collections.abc import Iterator, Sequence

from agent import __version__
from agent.cli import check, demo, dlq, doctor, invoice, ledger, prices, record, report, run, sidecar, spool
from agent.cli.logs import set_up_logs
from agent.config import ConfigErrors
from agent.core.ports import ConfigError

COMMANDS = (run, sidecar, demo, check, doctor, report, prices, invoice, ledger, spool, dlq, record)


def parser() -> argparse.ArgumentParser:
    """The whole command line; each command's file adds its own part."""
    top = argparse.ArgumentParser(
        prog="engineroom",
        description="Watches LLM inference on this GPU node and accounts for every cent of it.",
    )
    top.add_argument("--version", action="version", version=f"engineroom {__version__}")
    top.add_argument("--log-format", choices=("text", "json"), default="text", help="form of the log lines on stderr")
    top.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    commands = top.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_to(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. A wrong setting is told on stderr, all of them at once, with status 2."""
    options = parser().parse_args(arguments)
    set_up_logs(options.log_format, options.log_level)
    gc.enable()  # `agent.__main__` has disabled it for the imports
    try:
        status: int = options.handler(options)
    except* (ConfigError, ConfigErrors) as group:
        for error in _leaves(group):
            print(f"engineroom: {error}", file=sys.stderr)
        status = 2
    except* KeyboardInterrupt:
        status = 130
    return status


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
