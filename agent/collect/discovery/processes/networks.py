"""A process in, the network it lives in out: which one, who listens there, its own addresses. Blocks, short.

Needs no right to look into processes: everybody may read /proc/PID/net, and the inode of a file there is that of the
network namespace's, the same for all of its processes (the link ns/net is closed without CAP_SYS_PTRACE).
"""

import os
from pathlib import Path

from msgspec import Struct

from agent.collect.discovery.processes.rows import read_bytes
from agent.core.discovery.addresses import own_addresses
from agent.core.discovery.sockets import Address, Listener, parse_listeners

_MOST_BYTES = 8 * 2**20  # a router has a long fib_trie


class Network(Struct, frozen=True, kw_only=True):
    """A network namespace: its number, who listens in it, and the addresses (without loopback) that are its own."""

    inode: int
    listeners: tuple[Listener, ...] = ()
    addresses: tuple[Address, ...] = ()


class Networks:
    """The network namespaces as they are now; each is read once, through whichever process asks first."""

    def __init__(self, proc: Path) -> None:
        self._proc = proc
        self._read: dict[int, Network] = {}
        self._of: dict[int | str, Network | None] = {}

    @property
    def own(self) -> Network | None:
        """Ours; None without a /proc."""
        return self.of("self")

    def of(self, pid: int | str) -> Network | None:
        """That of a process; None when it has gone or is not shown to us."""
        if pid not in self._of:
            self._of[pid] = self._look(f"{self._proc}/{pid}/net")
        return self._of[pid]

    def _look(self, folder: str) -> Network | None:
        try:
            inode = os.stat(f"{folder}/tcp").st_ino  # noqa: PTH116  # read_bytes takes text, too
        except OSError:
            return None
        if inode not in self._read:
            self._read[inode] = Network(inode=inode, listeners=_listeners(folder), addresses=_addresses(folder))
        return self._read[inode]


def _listeners(folder: str) -> tuple[Listener, ...]:
    """IPv4 first."""
    found: list[Listener] = []
    for name in ("tcp", "tcp6"):
        try:
            with Path(folder, name).open(errors="replace") as lines:
                found += parse_listeners(lines)
        except OSError:
            continue  # no IPv6
    return tuple(found)


def _addresses(folder: str) -> tuple[Address, ...]:
    texts = [read_bytes(f"{folder}/{name}", _MOST_BYTES) for name in ("fib_trie", "if_inet6", "route")]
    return own_addresses(*(text.decode(errors="replace") for text in texts))
