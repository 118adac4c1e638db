"""Where a request comes from, and what its headers say of the tenant → a name, if the sender may be believed."""

import ipaddress
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache

from agent.sidecar.tenancy.names import safe_name
from agent.sidecar.tenancy.settings import UNIX, TenancySettings

Fields = Mapping[bytes, bytes]
Reader = Callable[[Fields], Iterator[bytes]]

REPEATED = b"\0"
"""Stands between the values of a header that came several times. It can be in no value, so such a value names nobody:
one of them may be the client's and another the gateway's."""

_TAGS = b"x-litellm-tags"


class Hops:
    """Which peers are believed. `networks` None: all of them, as `everybody` says, or none."""

    def __init__(self, networks: Sequence[str] | None, *, everybody: bool) -> None:
        self._everybody = everybody and networks is None
        given = networks or ()
        self._unix = UNIX in given
        self._networks = [ipaddress.ip_network(text) for text in given if text != UNIX]
        self.any = self._everybody or bool(given)
        self._of_address = lru_cache(maxsize=4096)(self._contains)

    def trusts(self, peer: str) -> bool:
        """Whether this peer's headers are believed; `UNIX` is a peer on a unix socket."""
        if self._everybody:
            return True
        if peer == UNIX:
            return self._unix
        return bool(self._networks) and self._of_address(peer)

    def _contains(self, peer: str) -> bool:
        try:
            address = ipaddress.ip_address(peer.partition("%")[0])
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._networks)


class TenantHeaders:
    """The headers that may name a tenant, in the order in which they count: the gateway's own, teams, single users."""

    def __init__(self, settings: TenancySettings, own_header: str) -> None:
        helicone, litellm = settings.helicone, settings.litellm
        plain = [own_header.lower()] if settings.own_header else []
        plain += settings.more_headers
        if litellm.team is not None:
            # Spelt so by LiteLLM, from the names of its fields; nginx drops them unless `underscores_in_headers on`.
            plain.append(f"x-litellm-user_api_key_team_{litellm.team}")
        if helicone.property is not None:
            plain.append(f"helicone-property-{helicone.property}")
        users = ["x-litellm-customer-id", "x-litellm-end-user-id"] if litellm.customer else []
        if helicone.user_id:
            users.append("helicone-user-id")
        self._before = tuple(name.encode("latin-1") for name in plain)
        self._after = tuple(name.encode("latin-1") for name in users)
        self._tag_prefix = None if litellm.tag_prefix is None else litellm.tag_prefix.encode()
        tags = () if self._tag_prefix is None else (_TAGS,)
        self.names = frozenset((*self._before, *tags, *self._after))

    def name(self, fields: Fields) -> str | None:
        """What the first of them that says anything says: a name, or empty if that cannot be one; None: none does.

        After an unusable one the others are not asked: who can spoil the gateway's header could else choose another.
        """
        for value in self._values(fields):
            if value.strip(b" \t"):
                return safe_name(value.decode("latin-1")) or ""
        return None

    def _values(self, fields: Fields) -> Iterator[bytes]:
        for name in self._before:
            if name in fields:
                yield fields[name]
        if self._tag_prefix is not None and _TAGS in fields:
            yield from self._tagged(fields[_TAGS], self._tag_prefix)
        for name in self._after:
            if name in fields:
                yield fields[name]

    def _tagged(self, value: bytes, prefix: bytes) -> Iterator[bytes]:
        """The first tag with the prefix. A list may be spread over several headers (RFC 9110 section 5.3)."""
        for tag in value.replace(REPEATED, b",").split(b","):
            stripped = tag.strip(b" \t")
            if stripped.startswith(prefix):
                yield stripped.removeprefix(prefix)
                return
