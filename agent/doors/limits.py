"""Who asks and when in, how long to wait out. Pure: token buckets in bounded memory.

The bucket is kept as one number, the instant at which it will be full again (the virtual scheduling form of the generic
cell rate algorithm, ITU-T I.371 annex A).
"""

import heapq
import ipaddress
import math
from functools import lru_cache

from agent.clock import NS

IPV6_SITE_BITS = 64


class RateLimiter:
    """Lets each key have `burst` at once and `per_second` over a long time.

    It remembers at most `max_keys`, and forgets a key only when its bucket is full again: forgetting then changes
    nothing. While all `max_keys` are in use, further keys share one bucket between them. So a crowd of new keys can
    neither grow our memory nor win an old key a fresh bucket; it only gets in the way of other new keys.

    Also counts failures: ask `wait` before an attempt, and call `admit` for each that failed.
    """

    def __init__(self, per_second: float, burst: int, max_keys: int = 4096) -> None:
        self._interval_ns = max(1, math.ceil(NS / per_second))  # rounded up: never more than promised
        self._slack_ns = (burst - 1) * self._interval_ns
        self._max_keys = max_keys
        self._full_at_ns: dict[str, int] = {}
        self._order: list[tuple[int, str]] = []  # a heap: of each key once, an instant at or before it is full
        self._shared_full_at_ns = 0

    def __len__(self) -> int:
        """Keys remembered now."""
        return len(self._full_at_ns)

    def admit(self, key: str, now_ns: int) -> float | None:
        """Take one from the key's bucket, None; or, if that is empty, take nothing: seconds until there is one.

        Whoever waits so long and is alone with its bucket is let in. `now_ns` never goes back.
        """
        full_at_ns = self._full_at_ns.get(key)
        if full_at_ns is None:
            full_at_ns = self._shared_full_at_ns
        wait = self._wait(full_at_ns, now_ns)
        if wait is None:
            self._keep(key, max(full_at_ns, now_ns) + self._interval_ns, now_ns)
        return wait

    def wait(self, key: str, now_ns: int) -> float | None:
        """What `admit` would say, without taking anything."""
        return self._wait(self._full_at_ns.get(key, self._shared_full_at_ns), now_ns)

    def _wait(self, full_at_ns: int, now_ns: int) -> float | None:
        early_ns = full_at_ns - self._slack_ns - now_ns
        return early_ns / NS if early_ns > 0 else None

    def _keep(self, key: str, full_at_ns: int, now_ns: int) -> None:
        if key in self._full_at_ns:
            self._full_at_ns[key] = full_at_ns
            return
        self._forget_full(now_ns)
        if len(self._full_at_ns) >= self._max_keys:
            self._shared_full_at_ns = full_at_ns
            return
        # A key that leaves the shared bucket takes its level along: else it would have had two bursts.
        self._full_at_ns[key] = full_at_ns
        heapq.heappush(self._order, (full_at_ns, key))

    def _forget_full(self, now_ns: int) -> None:
        while self._order and self._order[0][0] <= now_ns:
            _, key = self._order[0]
            full_at_ns = self._full_at_ns[key]
            if full_at_ns <= now_ns:
                heapq.heappop(self._order)
                del self._full_at_ns[key]
            else:  # it was used since: put it where it belongs now
                heapq.heapreplace(self._order, (full_at_ns, key))


@lru_cache(maxsize=4096)
def source_key(address: str) -> str:
    """The key under which a peer's address is limited: all of an IPv4 address, the first 64 bits of an IPv6 one.

    A single machine commonly has 2**64 IPv6 addresses (RFC 4291 section 2.5.1). Other text is its own key.
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, IPV6_SITE_BITS), strict=False))
