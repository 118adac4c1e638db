"""Lines of /proc/net/tcp and tcp6 in, the sockets that accept connections out. Pure."""

import ipaddress
import struct
from collections.abc import Iterable

from msgspec import Struct

# State column (include/net/tcp_states.h).
_LISTEN = "0A"
_HALF_OPEN = "03"  # kernels before 4.4 print these between listening sockets

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Listener(Struct, frozen=True):
    """A TCP socket that accepts connections."""

    address: Address
    port: int
    inode: int


def parse_listeners(lines: Iterable[str]) -> list[Listener]:
    """The listening sockets of one file. Reads no further than them: the kernel prints them before all others, and
    a busy node has tens of thousands of those.
    """
    found: list[Listener] = []
    for line in lines:
        columns = line.split(maxsplit=10)
        if len(columns) < 10 or columns[1] == "local_address":
            continue
        if columns[3] == _LISTEN:
            address, _, port = columns[1].rpartition(":")
            found.append(Listener(_address(address), int(port, 16), int(columns[9])))
        elif columns[3] != _HALF_OPEN:
            break
    return found


def _address(text: str) -> Address:
    """The kernel prints addresses as 32-bit words in the machine's byte order."""
    words = [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    address = ipaddress.ip_address(packed)
    return (address.version == 6 and address.ipv4_mapped) or address
