"""The sockets of a server, its network and ours in, the address we may ask it at out, or why there is none. Pure."""

from collections.abc import Collection, Iterable

from msgspec import Struct

from agent.collect.discovery.processes.networks import Network
from agent.core.discovery.sockets import Address, Listener


class Reach(Struct, frozen=True, kw_only=True):
    """`host` as it stands in a URL; '' when we cannot ask, and then `why` says so and what to do.

    `shown` is the address under which people know the server, whether it answers there or not; '' if it has none.
    """

    host: str = ""
    why: str = ""
    shown: str = ""


def reach(listeners: Collection[Listener], network: Network, own: Network | None) -> Reach:
    """How to get to a server that listens with these sockets (all of one port) in `network`."""
    addresses = sorted((one.address for one in listeners), key=_preference)
    here = own is not None and network.inode == own.inode
    shared = set(own.addresses) if own is not None else set()
    usable = [address for address in network.addresses if address not in shared]
    shown = "127.0.0.1" if here else _in_url(usable[0]) if usable else ""
    if not addresses:
        why = "it does not listen yet: it is loading its model, or has stopped accepting connections"
        return Reach(why=why, shown=shown)
    host = _in_url(_here(addresses[0])) if here else _from_outside(addresses, usable)
    return Reach(host=host, shown=host) if host else Reach(why=_why(addresses, usable), shown=shown)


def _from_outside(addresses: list[Address], usable: list[Address]) -> str:
    for address in addresses:
        if address.is_unspecified:
            # A socket for all IPv6 addresses usually takes IPv4 connections, too, one for IPv4 never takes others.
            fitting = [one for one in usable if one.version == address.version]
            fitting = fitting or (usable if address.version == 6 else [])
            if fitting:
                return _in_url(fitting[0])
        elif address in usable:
            return _in_url(address)
    return ""


def places(listeners: Iterable[Listener], network: Network, own: Network | None) -> frozenset[str]:
    """Every `host:port` at which somebody may have configured the server, as `agent.engines.addresses` spells them."""
    found: set[str] = set()
    here = own is not None and network.inode == own.inode
    for listener in listeners:
        address = listener.address
        if here and (address.is_unspecified or address.is_loopback):
            found.add(f"127.0.0.1:{listener.port}")
        if address.is_unspecified:
            found.update(f"{one}:{listener.port}" for one in network.addresses)
        elif not address.is_loopback:
            found.add(f"{address}:{listener.port}")
    return frozenset(found)


def _why(addresses: list[Address], usable: list[Address]) -> str:
    if all(address.is_loopback for address in addresses):
        return (
            "it listens only on the loopback address of its own network namespace, which nobody outside of it can "
            "reach: put the engineroom sidecar beside it, or make it listen on its pod's or container's address "
            "(0.0.0.0)"
        )
    if not usable:
        return (
            "its network namespace has no address that leads there from here: put the engineroom sidecar beside it, "
            "or run the agent in its network"
        )
    shown = ", ".join(str(address) for address in addresses)
    return f"it listens on {shown}, which does not lead there from here: make it listen on all addresses (0.0.0.0)"


def _preference(address: Address) -> tuple[bool, bool, bool]:
    return not address.is_unspecified and not address.is_loopback, address.version == 6, address.is_loopback


def _here(address: Address) -> str | Address:
    if address.is_unspecified:
        return "127.0.0.1" if address.version == 4 else "::1"
    return address


def _in_url(address: str | Address) -> str:
    text = str(address)
    return f"[{text}]" if ":" in text else text
