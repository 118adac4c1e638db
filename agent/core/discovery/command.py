"""What /proc/PID/cmdline and environ hold in, words and variables out. Pure; nothing in them is an error."""

from collections.abc import Collection

MAX_COMMAND_BYTES = 64 * 1024  # a command line may be 2 MiB long; options of servers stand in its beginning
MAX_ENVIRON_BYTES = 256 * 1024


def words(cmdline: bytes) -> tuple[str, ...]:
    """The words of a command line. A process that set a title has it as its first and only one.

    Titles are written over the old words and padded with NULs or spaces. Bytes that are no UTF-8 become U+FFFD.
    """
    text = cmdline[:MAX_COMMAND_BYTES].rstrip(b"\0 ")
    return tuple(word.decode(errors="replace") for word in text.split(b"\0")) if text else ()


def variables(environ: bytes, names: Collection[str]) -> dict[str, str]:
    """Those of the variables that are in `names`; the rest, which may be secret, is not kept."""
    wanted = {name.encode(): name for name in names}
    found: dict[str, str] = {}
    for entry in environ[:MAX_ENVIRON_BYTES].split(b"\0"):
        name, equals, value = entry.partition(b"=")
        if equals and name in wanted:
            found.setdefault(wanted[name], value.decode(errors="replace"))  # the first counts, as for getenv(3)
    return found
