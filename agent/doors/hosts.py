"""Which Host headers are ours: a page on the web can point a name of its own at 127.0.0.1 (DNS rebinding)."""

import ipaddress
import socket


def own_names(node: str | None = None) -> frozenset[str]:
    """Names under which this machine is asked for without anybody having listed them."""
    return frozenset(name.lower() for name in (node, socket.gethostname()) if name)


def host_allowed(header: str, names: frozenset[str]) -> bool:
    """Whether a Host header names loopback, an IP address or one of `names` (any port)."""
    host = header.strip().lower()
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    host = host.removesuffix(".")
    if host == "localhost" or host.endswith(".localhost") or host in names:
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
