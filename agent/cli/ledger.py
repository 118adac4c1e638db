"""`engineroom ledger check|repair|vacuum`: whether the ledger is sound, mending it, and giving room back."""

import argparse
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from agent.core.ports import ConfigError

if TYPE_CHECKING:
    from agent.ledger.schema import Where


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's arguments."""
    command = commands.add_parser(
        "ledger",
        help="check the ledger, mend it, give room back",
        description="The ledger holds what was booked of every GPU's time and money. check only reads, and works while "
        "the agent runs; the others need it to be stopped.",
    )
    kinds = command.add_subparsers(title="what to do", dest="what", required=True, metavar="WHAT")
    check = kinds.add_parser(
        "check",
        help="tell what is wrong",
        description="Reads the whole ledger: the file, its schema, whether minutes, hours and days agree, whether the "
        "parts of every GPU sum to wall time, bill and meter, and whether every row has what it refers to. "
        "Exit status: 0 all is well, 1 something is wrong.",
    )
    check.set_defaults(handler=run_check)
    repair = kinds.add_parser(
        "repair",
        help="mend a ledger that no agent has open",
        description="A damaged file is moved aside, and what can be read of it put into a new one. Hours and days that "
        "are not the sum of their minutes are made anew from those. Nothing is invented: what is lost is said.",
    )
    repair.set_defaults(handler=run_repair)
    vacuum = kinds.add_parser(
        "vacuum",
        help="give room back to the disk",
        description="Takes away names that nothing refers to any more, and makes the file as small as it can be.",
    )
    vacuum.set_defaults(handler=run_vacuum)
    for kind in (check, repair, vacuum):
        kind.add_argument("--config", type=Path, help="engineroom.yaml; its section `storage` is used")
        kind.add_argument("--data-dir", type=Path, help="the agent's folder, instead of `storage.data_dir`")


def run_check(options: argparse.Namespace) -> int:
    """Tell what is wrong; 1 when something is."""
    from agent.ledger.checking import check
    from agent.ledger.schema import shown

    _, where = _ledger(options)
    return _tell(shown(where), check(where))


def _tell(name: str, findings: list[str]) -> int:
    from agent.cli.text import plain

    for finding in findings:
        print(f"wrong: {plain(finding)}")
    print(f"{name}: " + (f"{len(findings)} wrong" if findings else "ok"))
    return 1 if findings else 0


def run_repair(options: argparse.Namespace) -> int:
    """Mend it; 1 when something is left that cannot be mended."""
    from agent.cli.text import plain
    from agent.ledger.checking import check
    from agent.ledger.repairing import repair
    from agent.ledger.schema import shown

    with ExitStack() as held:
        where = _owned(options, held)
        for step in repair(where):
            print(plain(step), flush=True)
        if isinstance(where, Path) and not where.exists():
            return 1
        return _tell(shown(where), check(where))


def run_vacuum(options: argparse.Namespace) -> int:
    """Give room back."""
    from agent.cli.text import plain
    from agent.ledger.checking import check
    from agent.ledger.repairing import vacuum
    from agent.ledger.schema import shown

    with ExitStack() as held:
        where = _owned(options, held)
        if findings := check(where):
            _tell(shown(where), findings)
            print("engineroom: nothing was done; `engineroom ledger repair` first", file=sys.stderr)
            return 1
        for step in vacuum(where):
            print(plain(step), flush=True)
    return 0


def _ledger(options: argparse.Namespace) -> "tuple[Path, Where]":
    """The data folder, and the ledger. Raises `ConfigError` where there is none."""
    from agent.config import load
    from agent.datafolder import default_folder
    from agent.ledger.postgresql import database_of

    storage = load(options.config).storage
    folder = options.data_dir or storage.data_dir or default_folder(dict(os.environ), is_root=os.geteuid() == 0)
    url = None if options.data_dir else database_of(storage.ledger, storage.ledger_file)
    if url is not None:
        return folder, url
    file = folder / "ledger.sqlite"
    if not file.exists():
        raise ConfigError("--data-dir", f"there is no ledger in {folder} (ledger.sqlite); name the agent's folder")
    return folder, file


def _owned(options: argparse.Namespace, held: ExitStack) -> "Where":
    """The ledger, with the folder's lock: no agent runs meanwhile."""
    from agent.datafolder import DataFolder

    folder, where = _ledger(options)
    held.enter_context(DataFolder(folder))
    return where
