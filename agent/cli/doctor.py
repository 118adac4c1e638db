"""`engineroom doctor`: why is something empty? Asks the running agent what it cannot see, and what would open it."""

import argparse
import json
import os
import sys
import textwrap
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from agent.cli.text import plain, width
from agent.core.ports import ConfigError

ANSWER_SECONDS = 10
_MARKS = {"broken": "BROKEN ", "missing": "MISSING", "note": "note   "}


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's arguments."""
    command = commands.add_parser(
        "doctor",
        help="why is something empty: names the missing flag, mount or right",
        description="Asks the running agent what it cannot see or do, and says which flag, mount, right or version "
        "would change that. What is broken comes first, then what is missing; notes are counted, and listed with "
        "--notes. Exit status 1 when something is broken.",
    )
    command.add_argument("--config", type=Path, help="the agent's configuration file, for its address")
    command.add_argument("--url", help="address of the agent; default: api.listen of the configuration")
    command.add_argument(
        "--token-file", type=Path, help="file with a token of the scope metrics, where the agent asks for one"
    )
    command.add_argument("--notes", action="store_true", help="list what is as it is meant to be and worth knowing")
    command.add_argument("--json", action="store_true", help="print JSON, with all notes, instead of text")
    command.set_defaults(handler=run)


def run(options: argparse.Namespace) -> int:
    """Ask, print, and say by the exit status whether something is broken."""
    import anyio

    from agent.config import load

    url = options.url or _address(load(options.config, os.environ).api)
    findings = anyio.run(partial(_ask, url.rstrip("/"), _token(options.token_file)))
    if options.json:
        print(json.dumps(findings, indent=2))
    else:
        for line in lines(findings, notes=options.notes, columns=width()):
            print(line)
    return 1 if any(finding["severity"] == "broken" for finding in findings) else 0


def lines(findings: Sequence[Mapping[str, str]], *, notes: bool = False, columns: int | None = None) -> list[str]:
    """What people read: a line for each finding, the worst first, folded to `columns` where there are any."""
    shown = [finding for finding in findings if notes or finding["severity"] != "note"]
    found: list[str] = []
    for finding in shown:
        # Texts hold names from outside, which must not steer a terminal.
        line = f"{_MARKS[finding['severity']]} {plain(finding['subject'])}: {plain(finding['text'])}"
        found += [line] if columns is None else _folded(line, max(40, columns))
    if not shown:
        found.append("nothing is missing")
    more = len(findings) - len(shown)
    if more:
        found.append(f"{more} {'note' if more == 1 else 'notes'}: engineroom doctor --notes")
    return found


def _folded(line: str, columns: int) -> list[str]:
    return textwrap.wrap(line, columns, subsequent_indent=" " * 8, break_long_words=False, break_on_hyphens=False)


def _address(api: Any) -> str:
    return f"{'https' if api.tls.enabled else 'http'}://{api.listen}"


def _token(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("--token-file", f"{file} cannot be read: {error}") from error


async def _ask(url: str, token: str | None) -> list[dict[str, Any]]:
    import aiohttp

    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(trust_env=False, timeout=timeout) as session,
            session.get(f"{url}/api/v1/doctor", headers=headers) as answer,
        ):
            if answer.status == 200:
                found: list[dict[str, Any]] = await answer.json()
                return found
            text = (await answer.text())[:300]
            print(f"engineroom: {url} answered {answer.status}: {text}", file=sys.stderr)
    except (aiohttp.ClientError, TimeoutError) as error:
        reason = str(error) or type(error).__name__
        raise ConfigError("--url", f"no agent answers at {url} ({reason}): is `engineroom run` running?") from error
    raise ConfigError("--url", "that is not an agent that answers `doctor`, or it wants a token (--token-file)")
