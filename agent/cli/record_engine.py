"""`engineroom record engine URL DIR`: what a running engine shows, as a capture for `tests/engines`."""

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from agent.cli.text import plain
from agent.core.ports import ConfigError

if TYPE_CHECKING:  # imported only when it runs
    from agent.collect.engines.record import Recorded
    from agent.collect.engines.targets import EngineTarget

TIMEOUT_SECONDS = 20.0


def add_to(what: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's arguments."""
    engine = what.add_parser(
        "engine",
        help="one engine's metrics page and the JSON that tells its state, without secrets",
        description="Asks a running engine once for its documented read-only paths and writes a capture for "
        "tests/engines. Help texts, comments and exemplars are dropped; of labels only values that are words or "
        "numbers of the engine's own are kept, every other becomes redacted-N; of JSON only what its file names. "
        "Prompts, answers and keys are on none of these paths. Look at the files before you publish them: names of "
        "models are in them unless you say --hide-names.",
    )
    engine.add_argument("url", help="base address of the engine, for example http://127.0.0.1:8000")
    engine.add_argument("folder", type=Path, metavar="DIR", help="folder to make, tests/engines/<kind>/<version>")
    engine.add_argument("--kind", default="auto", help="which engine it is; told from what it shows by default")
    engine.add_argument("--token-file", type=Path, help="file with a bearer token, for an engine that wants one")
    engine.add_argument("--hide-names", action="store_true", help="replace the names of models, too")
    engine.add_argument(
        "--timeout", type=float, default=TIMEOUT_SECONDS, metavar="SECONDS", help="for all requests together"
    )
    engine.set_defaults(handler=run)


def run(options: argparse.Namespace) -> int:
    """Record. Raises `ConfigError` for an address that does not answer as an engine, and for a folder with files."""
    import anyio

    from agent.collect.engines.diagnosis import Unread
    from agent.collect.engines.record import record_engine

    target = _target(options)
    _check_folder(options.folder)
    try:
        recorded = anyio.run(partial(record_engine, target, hide_names=options.hide_names))
    except Unread as failure:
        raise ConfigError("URL", failure.reason) from failure
    _write(options.folder, recorded.files)
    for line in lines(recorded, options.folder):
        print(plain(line), file=sys.stderr)
    return 0


def lines(recorded: "Recorded", folder: Path) -> Iterator[str]:
    """What was recorded, and what to do next."""
    version = recorded.version or "of unknown version"
    yield f"{recorded.engine.title} {version}: {', '.join(recorded.models) or 'no model'}"
    yield f"{folder}: {', '.join(recorded.files)}; {recorded.series} series"
    if recorded.redacted:
        yield f"values replaced in labels: {', '.join(recorded.redacted)}"
    yield from (f"note: {note}" for note in recorded.notes)
    yield "next: look at the files; UPDATE_GOLDENS=1 .venv/bin/pytest tests/engines; read expected.json line by line"


def _target(options: argparse.Namespace) -> "EngineTarget":
    from pydantic import ValidationError

    from agent.collect.engines.settings import EngineSettings
    from agent.collect.engines.targets import EngineTarget

    if not 0 < options.timeout <= 60:
        raise ConfigError("--timeout", f"expected seconds above 0 and at most 60, got {options.timeout:g}")
    given = {"url": options.url, "kind": options.kind, "timeout_seconds": options.timeout}
    if options.token_file is not None:
        given["token_file"] = options.token_file.absolute()
    try:
        return EngineTarget.from_settings(EngineSettings.model_validate(given))
    except ValidationError as error:
        first = error.errors()[0]
        key = {"url": "URL", "kind": "--kind", "token_file": "--token-file"}.get(str(first["loc"][0]), "URL")
        raise ConfigError(key, str(first["msg"]).removeprefix("Value error, ")) from error


def _check_folder(folder: Path) -> None:
    """Before the engine is asked: some of what it says is said only once."""
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError("DIR", f"{folder} exists already: name a new folder, captures are not overwritten")
    except OSError as error:
        raise ConfigError("DIR", f"{folder} cannot be read: {error.strerror}") from error


def _write(folder: Path, files: dict[str, bytes]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            with (folder / name).open("xb") as file:
                file.write(content)
    except OSError as error:
        raise ConfigError("DIR", f"{folder} cannot be written: {error.strerror}") from error
