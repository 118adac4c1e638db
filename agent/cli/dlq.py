"""`engineroom dlq list|show|replay|discard`: items that a destination refused for good."""

import argparse
import sys
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.cli.spool_folders import FOLDER_HELP, SpoolFolder, find_folders, only_one, reading, require_owner
from agent.cli.text import plain
from agent.core.ports import ConfigError

if TYPE_CHECKING:
    from agent.cli.letters import Found
    from agent.doors.settings import ClientTlsSettings

DEFAULT_LIMIT = 100
HEX_BYTES = 16
SHOWN_HEX_BYTES = 4096


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's arguments."""
    command = commands.add_parser(
        "dlq",
        help="dead letters: what a destination refused for good",
        description="An item that its destination refuses for good is put aside as a dead letter, with the reason. "
        "list and show only read, and work while the sidecar runs. replay gives the items back to be delivered "
        "again, discard gives them up; both ask the sidecar when it runs, and do it themselves when it does not.",
    )
    kinds = command.add_subparsers(title="what to do", dest="what", required=True, metavar="WHAT")
    listing = kinds.add_parser(
        "list",
        help="the letters: number, time, destination, size, reason",
        description="Lists the dead letters that were neither replayed nor discarded, oldest first.",
    )
    listing.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help=FOLDER_HELP)
    listing.add_argument("--stream", help="only letters of this stream, such as records")
    listing.add_argument(
        "--limit", type=_limit, default=DEFAULT_LIMIT, metavar="N", help=f"show at most N (default {DEFAULT_LIMIT})"
    )
    listing.add_argument("--json", action="store_true", help="print JSON instead of text")
    listing.set_defaults(handler=run_list)
    show = kinds.add_parser(
        "show",
        help="one letter and its item",
        description="Shows one letter with its item: decoded where it is JSON, msgpack or text, else in hex.",
    )
    show.add_argument("number", type=int, metavar="NUMBER", help="the letter's number, as `dlq list` shows it")
    show.add_argument("--raw", action="store_true", help="write only the item's bytes, as they are, to stdout")
    show.set_defaults(handler=run_show)
    replay = kinds.add_parser(
        "replay",
        help="give items back to be delivered again",
        description="Puts the items of these letters back into their stream, byte for byte, and takes the letters "
        "away. Mend first what they were refused for. If it stops half way, an item may be delivered twice; none is "
        "lost.",
    )
    replay.set_defaults(handler=run_replay)
    discard = kinds.add_parser(
        "discard",
        help="give letters up for good",
        description="Settles these letters as dropped:discarded. Their items cannot be brought back.",
    )
    discard.add_argument("--yes", action="store_true", help="needed, because nothing brings the items back")
    discard.set_defaults(handler=run_discard)
    for kind in (replay, discard):
        _add_change(kind)
    for kind in (show, replay, discard):
        kind.add_argument("--folder", type=Path, metavar="FOLDER", help=FOLDER_HELP)
    for kind in (listing, show, replay, discard):
        kind.add_argument("--config", type=Path, help="engineroom.yaml; its section `sidecar` is used")


def _add_change(kind: argparse.ArgumentParser) -> None:
    kind.add_argument("numbers", nargs="*", type=int, metavar="NUMBER", help="numbers of letters")
    kind.add_argument("--all", action="store_true", help="all letters")
    there = kind.add_argument_group("while a sidecar has the spool open")
    there.add_argument("--url", help="its admin address (default: by the configuration's sidecar.admin_listen)")
    there.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="file with a token that has the scope `admin` there (default: one of the configuration's "
        "sidecar.admin_auth.tokens that this user may read)",
    )
    there.add_argument("--ca-file", type=Path, metavar="FILE", help="PEM file with the authorities to trust")
    there.add_argument("--cert-file", type=Path, metavar="FILE", help="PEM file with a client certificate")
    there.add_argument("--key-file", type=Path, metavar="FILE", help="PEM file with its key")


def _limit(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"expected a number of letters, 1 or more, not {text!r}")
    return int(text)


# list and show


def run_list(options: argparse.Namespace) -> int:
    """Print what waits for a decision."""
    import msgspec

    folders = find_folders(options.folder, options.config)
    rows, more = _list(folders, options.stream, options.limit)
    if options.json:
        print(msgspec.json.format(msgspec.json.encode({"letters": rows, "more": more}), indent=2).decode())
        return 0
    if not rows:
        print("no dead letters" + (f" of stream {options.stream}" if options.stream else ""))
        return 0
    for folder in folders:
        there = [row for row in rows if row["folder"] == folder.name]
        if there:
            print("\n".join([f"{folder.name}:"] * (len(folders) > 1) + _lines(there)))
    if more:
        print(f"and {more:,} more; --limit {len(rows) + more} shows all")
    return 0


def _lines(rows: list[dict[str, Any]]) -> list[str]:
    """Two lines for each letter, so that the reason has room."""
    from agent.cli.text import cut, instant, size, table, width

    cells = [
        [
            str(row["number"]),
            instant(row["at_ns"]),
            size(row["bytes"]),
            plain(f"{row['stream'] or '?'} to {row['destination'] or '?'}"),
        ]
        for row in rows
    ]
    head, *lines = table(("number", "when", "size", "stream to destination; reason"), cells, "rlrl")
    pairs = [(line, "        " + plain(row["reason"])) for line, row in zip(lines, rows, strict=True)]
    return [cut(line, width()) for line in (head, *(part for pair in pairs for part in pair))]


def _list(folders: Sequence[SpoolFolder], stream: str | None, limit: int) -> tuple[list[dict[str, Any]], int]:
    from agent.cli.letters import find

    rows: list[dict[str, Any]] = []
    more = 0
    for folder in folders:
        with reading(folder.path):
            for one in find(folder.path):
                if stream is not None and (one.letter is None or one.letter.stream != stream):
                    continue
                if len(rows) < limit:
                    rows.append({"folder": folder.name, **_row(one)})
                else:
                    more += 1
    return rows, more


def _row(one: "Found") -> dict[str, Any]:
    letter = one.letter
    if letter is None:
        empty = {"stream": None, "destination": None, "sequence": None}
        return {"number": one.number, "at_ns": one.at_ns, **empty, "reason": one.problem, "bytes": len(one.data)}
    return {
        "number": one.number,
        "at_ns": letter.at_ns,
        "stream": letter.stream,
        "destination": letter.destination,
        "sequence": letter.sequence,
        "reason": letter.reason,
        "bytes": len(letter.item),
    }


def run_show(options: argparse.Namespace) -> int:
    """Print one letter, or write its item."""
    found = [
        (folder, one)
        for folder in find_folders(options.folder, options.config)
        if (one := _one(folder.path, options.number)) is not None
    ]
    if not found:
        return _unknown([options.number])
    only_one([folder for folder, _ in found], f"letter {options.number} is not one: each worker numbers its own")
    folder, one = found[0]
    item = one.data if one.letter is None else one.letter.item
    if options.raw:
        sys.stdout.buffer.write(item)
        sys.stdout.buffer.flush()
        return 0
    from agent.cli.text import instant

    row = _row(one)
    where = f" of {folder.name}" if folder.of_several else ""
    print(f"letter       {one.number}{where}, written {instant(row['at_ns'])}")
    print(f"stream       {plain(row['stream'] or '?')}, item {row['sequence'] or '?'}")
    print(f"destination  {plain(row['destination'] or '?')}")
    print(f"reason       {plain(row['reason'])}")
    kind, text = decode(item)
    print(f"item         {len(item):,} bytes, {kind}")
    print()
    print(text)
    return 0


def _one(folder: Path, number: int) -> "Found | None":
    from agent.cli.letters import find

    with reading(folder):
        return next((one for one in find(folder) if one.number == number), None)


# replay and discard


def run_replay(options: argparse.Namespace) -> int:
    """Give items back; 1 when not all could be."""
    return _change(options, discard=False)


def run_discard(options: argparse.Namespace) -> int:
    """Give letters up; 1 when not all could be."""
    if not options.yes:
        raise ConfigError("--yes", "is needed: nothing brings back what is discarded (`dlq show` shows it before)")
    return _change(options, discard=True)


def _change(options: argparse.Namespace, *, discard: bool) -> int:
    from agent.cli.letters import Failed

    if bool(options.numbers) == options.all:
        raise ConfigError("NUMBER", "say which letters: their numbers as `dlq list` shows them, or --all; not both")
    folders = find_folders(options.folder, options.config)
    if options.all:
        numbers = None
    else:
        numbers = set(options.numbers)
        there_are = _numbers(only_one(folders, "each worker numbers its own letters").path)
        if missing := sorted(numbers - there_are):
            return _unknown(missing, "; nothing was changed")
    try:
        return _changed(options, folders, numbers, discard=discard)
    except Failed as error:
        print(f"engineroom: {error}", file=sys.stderr)
        return 1


def _numbers(folder: Path) -> set[int]:
    from agent.cli.letters import find

    with reading(folder):
        return {one.number for one in find(folder)}


def _changed(
    options: argparse.Namespace, folders: Sequence[SpoolFolder], numbers: set[int] | None, *, discard: bool
) -> int:
    """The change, by the process that has the spools open, or here for those that nobody has; the exit status."""
    import anyio

    from agent.cli.letters import access, change_here, change_there, is_open
    from agent.config import load

    settings = load(options.config).sidecar
    owned: list[SpoolFolder] = []
    free: list[SpoolFolder] = []
    for folder in folders:
        with reading(folder.path):
            (owned if is_open(folder.path) else free).append(folder)
    done = left = 0
    verb = "discarded" if discard else "replayed"
    if owned:
        to = access(settings, options.url, options.token_file, _tls(options))
        name = owned[0].name if len(folders) == 1 and owned[0].of_several else None  # else all that it has
        count = anyio.run(partial(change_there, to, numbers, discard=discard, folder=name))
        print(f"{count:,} {verb}, by the process that has it open")
        done += count
    for folder in free:
        require_owner(folder.path)
        count, unreadable = anyio.run(partial(change_here, folder.path, settings.spool, numbers, discard=discard))
        print(f"{folder.name}: " * (len(folders) > 1) + f"{count:,} {verb}")
        done, left = done + count, left + unreadable
    if left:
        print(f"engineroom: {left} letters cannot be read and stay; `dlq show` has their bytes", file=sys.stderr)
    if numbers and done + left < len(numbers):
        print(f"engineroom: {len(numbers) - done - left} were gone by then", file=sys.stderr)
        return 1
    return 1 if left else 0


def _tls(options: argparse.Namespace) -> "ClientTlsSettings":
    from agent.doors.settings import ClientTlsSettings

    if (options.cert_file is None) != (options.key_file is None):
        raise ConfigError("--cert-file", "and --key-file go together; give both or neither")
    return ClientTlsSettings(ca_file=options.ca_file, certificate_file=options.cert_file, key_file=options.key_file)


def _unknown(numbers: Collection[int], after: str = "") -> int:
    shown = ", ".join(map(str, list(numbers)[:10])) + (", ..." if len(numbers) > 10 else "")
    print(
        f"engineroom: no dead letter has the number {shown}; `engineroom dlq list` shows which there are{after}",
        file=sys.stderr,
    )
    return 1


# Items


def decode(item: bytes) -> tuple[str, str]:
    """(what it is, the item for people): JSON, msgpack, text, else hex."""
    import msgspec

    for kind, read in (("JSON", msgspec.json.decode), ("msgpack", msgspec.msgpack.decode)):
        try:
            value = read(item)
            if isinstance(value, dict | list):
                shown = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
                return kind, "\n".join(map(plain, shown.split("\n")))
        except (msgspec.MsgspecError, ValueError, TypeError, RecursionError, OverflowError):
            continue  # it is something else, or nothing that JSON can show
    try:
        text = item.decode()
    except UnicodeDecodeError:
        return _hex(item)
    if all(char.isprintable() or char in "\t\r\n" for char in text):
        return "text", "\n".join(map(plain, text.split("\n")))
    return _hex(item)


def _hex(item: bytes) -> tuple[str, str]:
    lines = []
    for at in range(0, min(len(item), SHOWN_HEX_BYTES), HEX_BYTES):
        row = item[at : at + HEX_BYTES]
        shown = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
        lines.append(f"{at:08x}  {row.hex(' '):<{3 * HEX_BYTES}} {shown}")
    if len(item) > SHOWN_HEX_BYTES:
        lines.append(f"... {len(item) - SHOWN_HEX_BYTES:,} bytes more; --raw writes all")
    return "not text", "\n".join(lines)
