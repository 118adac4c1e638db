"""A network namespace's fib_trie, if_inet6 and route in, its own addresses out, the best to reach it first. Pure."""

import ipaddress
import re
import struct

from agent.core.discovery.sockets import Address

# An address whose host route is in the local table: it is this namespace's own (fib_trie prints it with its prefix).
_LOCAL = re.compile(r"\|-- (?P<address>[0-9.]+)\n\s+/32 host LOCAL")
_GLOBAL_SCOPE = "00"  # include/net/ipv6.h, as if_inet6 prints it
_TENTATIVE_OR_DEPRECATED = 0x40 | 0x20 | 0x08  # include/uapi/linux/if_addr.h; 0x08: another machine has it, too


def own_addresses(fib_trie: str, if_inet6: str, route: str) -> tuple[Address, ...]:
    """Addresses that this namespace itself answers to, without loopback and link-local ones.

    IPv4 first, and first among them those of the network through which it reaches the rest of the world: a node has
    addresses of bridges, too, which others do not reach.
    """
    four = {ipaddress.IPv4Address(match["address"]) for match in _LOCAL.finditer(fib_trie)}
    usable = [address for address in four if not (address.is_loopback or address.is_link_local)]
    networks = _outward_networks(route)
    usable.sort(key=lambda address: (not any(address in network for network in networks), address))
    return (*usable, *sorted(_six(if_inet6)))


def _six(if_inet6: str) -> set[ipaddress.IPv6Address]:
    found = set()
    for line in if_inet6.splitlines():
        columns = line.split()
        if len(columns) < 6 or len(columns[0]) != 32 or columns[3] != _GLOBAL_SCOPE:
            continue
        if not int(columns[4], 16) & _TENTATIVE_OR_DEPRECATED:
            found.add(ipaddress.IPv6Address(int(columns[0], 16)))
    return found


def _outward_networks(route: str) -> list[ipaddress.IPv4Network]:
    """The networks on the interfaces that have a default route."""
    rows = [line.split() for line in route.splitlines()[1:]]
    rows = [row for row in rows if len(row) >= 8]
    outward = {row[0] for row in rows if row[1] == row[7] == "00000000"}
    return [
        ipaddress.IPv4Network((_word(row[1]), str(_word(row[7]))), strict=False)
        for row in rows
        if row[0] in outward and row[7] != "00000000"
    ]


def _word(text: str) -> ipaddress.IPv4Address:
    """A 32-bit word in the machine's byte order."""
    return ipaddress.IPv4Address(struct.pack("=I", int(text, 16)))
