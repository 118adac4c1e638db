"""Lines of the kernel log in, NVIDIA's errors out. Pure: the reader of the log is agent/collect/kernel_log.py."""

import re

from msgspec import Struct

MARK = "NVRM: Xid ("
"""Every line that tells of an Xid has it; whoever reads the log may skip lines without."""

_TEXT_MOST = 240

# NVRM: Xid (PCI:0000:07:00 GPU-I:05 GPU-CI:00): 94, pid=7194, name=python, Contained: ...
# Process and MIG instances only where the driver knows them; drivers before 2017 write no "PCI:".
_LINE = re.compile(
    r"NVRM: Xid \((?:PCI:)?(?P<pci>[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}(?:\.[0-7])?)"
    r"(?: GPU-I:(?P<gpu_instance>\d{1,4}))?(?: GPU-CI:(?P<compute_instance>\d{1,4}))?[^)]*\): "
    r"(?P<xid>\d{1,9})(?:,\s*|\s*$)"
)
_PID = re.compile(r"pid=(?:(?P<pid>\d{1,10})|[^,]*)(?:,\s*|$)")
_NAME = re.compile(r"name=(?P<name>[^,]*)(?:,\s*|$)")
_PCI = re.compile(r"^(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([0-9a-f]{2})(?:\.[0-7])?$")


class XidLine(Struct, frozen=True, kw_only=True):
    """One Xid as the kernel log tells it. `pci` is domain:bus:device, see `pci_key`."""

    pci: str
    xid: int
    pid: int | None = None
    process: str | None = None
    gpu_instance: int | None = None
    compute_instance: int | None = None
    text: str = ""


def pci_key(bus_id: str | None) -> str | None:
    """`00000000:1B:00.0` and `0000:1b:00` -> `0000:1b:00`: one spelling for the same place. None if it is no PCI id.

    The function is left out, as the kernel log leaves it out; a GPU has one.
    """
    found = _PCI.match((bus_id or "").strip().lower())
    if found is None:
        return None
    domain, bus, device = found.groups()
    return f"{int(domain or '0', 16):04x}:{bus}:{device}"


def parse_xid(line: str) -> XidLine | None:
    """The Xid of a line of the kernel log, or None if it tells of none."""
    found = _LINE.search(line)
    key = pci_key(found["pci"]) if found else None
    if found is None or key is None:
        return None
    rest, pid, name = line[found.end() :], None, None
    if (part := _PID.match(rest)) is not None:
        pid, rest = part["pid"], rest[part.end() :]
    if (part := _NAME.match(rest)) is not None:
        name, rest = part["name"].strip(), rest[part.end() :]
    return XidLine(
        pci=key,
        xid=int(found["xid"]),
        pid=int(pid) if pid else None,
        process=None if name in (None, "", "<unknown>") else name,
        gpu_instance=_number(found["gpu_instance"]),
        compute_instance=_number(found["compute_instance"]),
        text=" ".join(rest.split())[:_TEXT_MOST],
    )


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)
