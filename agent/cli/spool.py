"""`engineroom spool stat|check|repair`: what lies in a spool, whether it can be read, and mending it."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.cli.spool_folders import FOLDER_HELP, find_folders, only_one, reading, require_owner
from agent.core.ports import ConfigError

if TYPE_CHECKING:
    from agent.config import Settings
    from agent.spool.check import StreamCheck
    from agent.spool.inspect import StreamStat
    from agent.spool.repair import Repaired

SHOW_PROGRESS_EVERY = 64 << 20
NOBODY = "no process has it open"


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's arguments."""
    command = commands.add_parser(
        "spool",
        help="look into a spool on disk, check it, mend it",
        description="The spool keeps request records on disk until the agent has them. stat and check only read, and "
        "work while a sidecar uses the spool as well as when none does.",
    )
    kinds = command.add_subparsers(title="what to do", dest="what", required=True, metavar="WHAT")
    stat = kinds.add_parser(
        "stat",
        help="how much waits, since when, and how much room it takes",
        description="Shows for each stream: items accepted, waiting, and settled by result; age of the oldest one "
        "that waits; bytes and files used; why nothing can be written now; and the process that has the spool open.",
    )
    stat.set_defaults(handler=run_stat)
    check = kinds.add_parser(
        "check",
        help="read everything and tell what is damaged",
        description="Reads every frame and verifies its checksum. Tells damaged places, items that no file holds, "
        "files that do not belong there and damaged marks. Exit status: 0 all is well, 1 something is wrong.",
    )
    check.set_defaults(handler=run_check)
    repair = kinds.add_parser(
        "repair",
        help="mend a spool that no process has open",
        description="Moves files that do not belong there into quarantine/, keeps a copy of damaged bytes there, "
        "writes damaged marks anew, and settles items that cannot be read as lost. Frames that can be read are left "
        "as they are. A sidecar does without: it skips what is damaged and counts it.",
    )
    repair.add_argument("--dry-run", action="store_true", help="only say what would be done")
    repair.set_defaults(handler=run_repair)
    for kind in (stat, check, repair):
        kind.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help=FOLDER_HELP)
        kind.add_argument("--config", type=Path, help="engineroom.yaml; its section `sidecar` is used")
        kind.add_argument("--json", action="store_true", help="print JSON instead of text")


# stat


def run_stat(options: argparse.Namespace) -> int:
    """Print the numbers of every stream."""
    from agent.clock import unix_ns
    from agent.config import load
    from agent.spool.files import Files
    from agent.spool.inspect import holder, stat, streams_in

    folders, settings = find_folders(options.folder, options.config), load(options.config)
    told = []
    for number, (folder, _, _) in enumerate(folders):
        with reading(folder):
            streams = [stat(folder / name) for name in streams_in(folder)]
        process, free = holder(folder), Files().free_bytes(folder)
        blocked = _blocked(settings, folder, streams, free)
        told.append(
            {"folder": str(folder), "process": process, "free_bytes": free, "blocked": blocked, "streams": streams}
        )
        if options.json:
            continue
        from agent.cli.text import size

        print("\n" * (number > 0) + f"{folder}: " + (f"open in process {process}" if process else NOBODY))
        print(f"{size(free)} are free on the volume" + (f"; nothing can be written: {blocked}" if blocked else ""))
        if streams:
            print()
            print("\n".join(_stat_lines(streams, unix_ns())))
    if options.json:
        _print_each(told)
    return 0


def _stat_lines(streams: "list[StreamStat]", now_ns: int) -> list[str]:
    from agent.cli.text import age, size, table
    from agent.clock import NS

    rows = [
        [
            one.name,
            f"{one.accepted:,}",
            f"{one.waiting:,}",
            "-" if one.oldest_at_ns is None else age(max(0, now_ns - one.oldest_at_ns) / NS),
            size(one.used_bytes),
            f"{one.segments} + {one.spare_segments}",
        ]
        for one in streams
    ]
    lines = table(("stream", "accepted", "waiting", "oldest", "used", "segments + spare"), rows, "lrrrrr")
    for one in streams:
        settled = ", ".join(f"{name} {count:,}" for name, count in sorted(one.results.items())) or "nothing"
        lines.append(f"{one.name}: settled {settled}")
        if one.quarantined:
            lines.append(f"{one.name}: {one.quarantined} files in quarantine/")
    return lines


def _blocked(settings: "Settings", folder: Path, streams: "list[StreamStat]", free: int) -> str:
    """Why the sidecar cannot begin another segment; only told for the folder that the settings are about."""
    from agent.sidecar.records.shipping import spool_folder, worker_folders

    bounds, base = settings.sidecar.spool, spool_folder(settings.sidecar).resolve()
    of_worker = folder.resolve().parent == base and folder in worker_folders(folder.parent).values()
    max_bytes = bounds.max_bytes // settings.sidecar.workers if of_worker else bounds.max_bytes
    if (not of_worker and folder.resolve() != base) or any(one.spare_segments for one in streams):
        return ""
    if free - bounds.segment_bytes < bounds.min_free_bytes:
        return f"{bounds.min_free_bytes} bytes must stay free (sidecar.spool.min_free_bytes)"
    if sum(one.used_bytes for one in streams) + bounds.segment_bytes > max_bytes:
        return f"the spool has all of its {max_bytes} bytes (sidecar.spool.max_bytes)"
    return ""


# check


def run_check(options: argparse.Namespace) -> int:
    """Read everything; 1 when something is wrong."""
    from agent.spool.inspect import holder, streams_in

    folders = find_folders(options.folder, options.config)
    progress = Progress("reading")
    told = []
    for folder, name, of_several in folders:
        found = [
            _checked(folder / stream, progress, owned=holder(folder) is not None)  # it may start or end while we read
            for stream in streams_in(folder)
        ]
        told.append({"folder": str(folder), "ok": not any(one.problems for one in found), "streams": found})
        progress.end()
        if not options.json:
            for one in found:
                print("\n".join(_check_lines(one, f"{name}/" if of_several else "")))
    wrong = not all(one["ok"] for one in told)
    if options.json:
        _print_each(told)
    elif wrong:
        print("`engineroom spool repair` mends this; a sidecar runs without, skips what is damaged and counts it")
    return 1 if wrong else 0


def _checked(folder: Path, progress: "Progress", *, owned: bool) -> "StreamCheck":
    from agent.spool.check import Problem, StreamCheck, check
    from agent.spool.frame import NewerFormat
    from agent.spool.inspect import newer

    try:
        return check(folder, progress.more, owned=owned)
    except NewerFormat as error:
        problem = Problem(kind="newer", text=newer(folder, error))
    except OSError as error:
        problem = Problem(kind="unreadable", text=f"{error.filename or folder} cannot be read: {error.strerror}")
    return StreamCheck(name=folder.name, frames=0, items=0, read_bytes=0, problems=[problem], notes=[])


def _check_lines(one: "StreamCheck", place: str) -> list[str]:
    from agent.cli.text import plain, size

    verdict = f"{len(one.problems)} wrong" if one.problems else "ok"
    lines = [f"{place}{one.name}: {verdict}; {one.items:,} items in {one.frames:,} frames, {size(one.read_bytes)} read"]
    for problem in one.problems:
        file = f"{problem.file}: " if problem.file not in (None, problem.kind) else ""
        lines.append(f"  {problem.kind}: {plain(file + problem.text)}")
    return lines + [f"  note: {plain(note)}" for note in one.notes]


# repair


def run_repair(options: argparse.Namespace) -> int:
    """Mend every stream; 1 when something is left that cannot be mended."""
    from contextlib import closing

    from agent.datafolder import FolderLock
    from agent.spool.inspect import holder, streams_in

    folders = find_folders(options.folder, options.config)
    folder = only_one(folders, "one spool is mended at a time", key="FOLDER").path
    require_owner(folder)
    if process := holder(folder):
        raise ConfigError(
            "FOLDER",
            f"{folder} is open in process {process}, which needs no repair to go on: it skips what is damaged and "
            "counts it. To repair all the same, stop it first",
        )
    progress = Progress("reading")
    with closing(FolderLock(folder, "FOLDER", "process", mode=0o700)):
        found = [_repaired(folder / name, options.dry_run, progress) for name in streams_in(folder)]
    progress.end()
    failed = [error for _, error in found if error]
    done = [one for one, _ in found if one]
    if options.json:
        _print_json({"folder": str(folder), "dry_run": options.dry_run, "streams": done, "errors": failed})
    else:
        for one in done:
            print("\n".join(_repair_lines(one, dry_run=options.dry_run)))
    for error in failed:
        print(f"engineroom: {error}", file=sys.stderr)
    return 1 if failed or any(one.left for one in done) else 0


def _repaired(folder: Path, dry_run: bool, progress: "Progress") -> "tuple[Repaired | None, str]":
    from agent.spool.frame import NewerFormat
    from agent.spool.inspect import newer
    from agent.spool.repair import CannotRepair, repair

    try:
        return repair(folder, dry_run=dry_run, progress=progress.more), ""
    except NewerFormat as error:
        return None, newer(folder, error)
    except CannotRepair as error:
        return None, str(error)
    except OSError as error:
        return None, f"{error.filename or folder}: {error.strerror}; what was done so far is safe, repair again"


def _repair_lines(one: "Repaired", *, dry_run: bool) -> list[str]:
    from agent.cli.text import plain

    if not one.done:
        return [f"{one.name}: nothing to mend"]
    head = "would be done" if dry_run else "done"
    lines = [f"{one.name}: {len(one.done)} steps {head}, {one.lost:,} items lost"]
    lines += [f"  {plain(step)}" for step in one.done]
    return lines + [f"  still wrong: {plain(problem.text)}" for problem in one.left]


# Both


class Progress:
    """Bytes read so far, on stderr, for people who wait at a terminal."""

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self._bytes = self._shown = 0

    def more(self, count: int) -> None:
        """So many bytes more."""
        from agent.cli.text import size

        self._bytes += count
        if self._bytes - self._shown >= SHOW_PROGRESS_EVERY and sys.stderr.isatty():
            self._shown = self._bytes
            print(f"\r{self._doing}: {size(self._bytes)} ", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Clear the line."""
        if self._shown:
            print("\r" + " " * 40 + "\r", end="", file=sys.stderr, flush=True)


def _print_each(told: list[dict[str, Any]]) -> None:
    """One object, or where there are several folders one that lists theirs."""
    _print_json(told[0] if len(told) == 1 else {"folders": told})


def _print_json(value: object) -> None:
    import msgspec

    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
