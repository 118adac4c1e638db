"""A process' /proc/PID/stat in, its name, parent and start out. Pure."""

from msgspec import Struct

_PARENT, _START = 1, 19  # columns behind the name: fields 4 and 22 of proc(5)


class ProcessStat(Struct, frozen=True, kw_only=True):
    """`start_ticks`: when it started, in clock ticks since boot."""

    name: str
    parent: int
    start_ticks: int


def parse_stat(text: str) -> ProcessStat | None:
    """The columns that we need; None if this is no stat file. The name may hold spaces and brackets."""
    before, bracket, behind = text.rpartition(")")
    columns = behind.split()
    name = before.partition("(")[2]
    if not bracket or len(columns) <= _START:
        return None
    parent, start = columns[_PARENT], columns[_START]
    if not (parent.isascii() and parent.isdecimal() and start.isascii() and start.isdecimal()):
        return None
    return ProcessStat(name=name, parent=int(parent), start_ticks=int(start))
