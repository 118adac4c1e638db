"""Addresses in, one spelling out: tells whether a sidecar and a scraper speak of the same engine."""

from urllib.parse import urlsplit

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1", "0.0.0.0", "::"})


def endpoint(url: str) -> str:
    """`host:port` of a URL or of a `host:port`; all names of this machine's loopback are one."""
    parts = urlsplit(url if "//" in url else f"//{url}")
    host = (parts.hostname or "").lower()
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"{'127.0.0.1' if host in LOOPBACK else host}:{port}"
