"""Signed tokens (JWT) in, the tenant they are good for out: verified against public keys in a file, offline.

Rules: RFC 7519 and RFC 8725; claims of Kubernetes as in `agent.doors.service_accounts`.
"""

import base64
import math
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jwt
import msgspec
from jwt.api_jws import PyJWS
from msgspec import Struct

from agent import clock
from agent.clock import NS
from agent.doors.identity import Denied
from agent.doors.service_accounts import LEEWAY_SECONDS, parse_jwks
from agent.doors.watched import Watched
from agent.sidecar.tenancy.names import safe_name
from agent.sidecar.tenancy.settings import AccountTenantSettings, JwtSettings

MAX_TOKEN_BYTES = 16 * 1024  # identity providers put long lists of groups into tokens
MAX_REMEMBERED = 4096
LAST_SECOND = 1 << 33  # in the year 2242; later ends are taken for this one, so that nanoseconds fit into 64 bits

Claims = dict[str, Any]


class Verified(NamedTuple):
    """A good token's tenant, and until when (Unix ns) it is good."""

    tenant: str
    until_ns: int


class _Header(Struct):
    kid: str


class _Account(Struct):
    name: str


class _Bound(Struct):
    namespace: str
    serviceaccount: _Account


_header_of = msgspec.json.Decoder(_Header)


class _Keys:
    """The public keys of one state of the file, and what is remembered of tokens lately seen: all end together."""

    def __init__(self, keys: dict[str, tuple[Any, str]]) -> None:
        self.keys = keys  # kid -> key, the one algorithm that goes with it
        self.good: OrderedDict[bytes, Verified] = OrderedDict()
        self.strangers: OrderedDict[bytes, None] = OrderedDict()


class SignedTokens:
    """Verifies the tokens of one issuer. `tenant_of` reads the tenant's name from checked claims, or raises `Denied`.

    Raises `ConfigError` for a file without usable keys. A changed file counts within a second; while it cannot be read
    the last good keys do.
    """

    def __init__(
        self,
        file: Path,
        issuer: str,
        audience: str,
        tenant_of: Callable[[Claims], str],
        *,
        key: str,
        boot_ns: Callable[[], int] = clock.boot_ns,
    ) -> None:
        self._issuer = issuer
        self._audience = audience
        self._tenant_of = tenant_of
        place = f"{key}.jwks_file"
        self.watched = Watched({place: file}, lambda content: _Keys(parse_jwks(content, place)), boot_ns=boot_ns)
        self._jws = PyJWS()

    def verify(self, token: bytes, digest: bytes, now_ns: int) -> Verified | None:
        """Whose token this is; None if it is not signed with these keys. `digest` is its SHA-256, under which the
        answer is remembered. Raises `Denied` for one that is well signed and yet not good."""
        if len(token) > MAX_TOKEN_BYTES:
            return None
        keys = self.watched.current()
        known = keys.good.get(digest)
        if known is not None:
            if now_ns < known.until_ns:
                keys.good.move_to_end(digest)
                return known
            del keys.good[digest]
        if digest in keys.strangers:
            return None
        payload = self._payload(token, keys.keys)
        if payload is None:
            _remember(keys.strangers, digest, None)
            return None
        verified = self._check(payload, now_ns)
        _remember(keys.good, digest, verified)
        return verified

    def _payload(self, token: bytes, keys: dict[str, tuple[Any, str]]) -> bytes | None:
        """The payload, if its signature holds. What the header says chooses the key, and never the algorithm."""
        head = token.partition(b".")[0]
        try:
            header = _header_of.decode(base64.urlsafe_b64decode(head + b"=" * (-len(head) % 4)))
            key, algorithm = keys[header.kid]
            return bytes(self._jws.decode_complete(token, key, algorithms=[algorithm])["payload"])
        except (jwt.PyJWTError, msgspec.DecodeError, KeyError, ValueError, RecursionError):
            return None

    def _check(self, payload: bytes, now_ns: int) -> Verified:
        try:
            claims = msgspec.json.decode(payload, type=Claims)
        except (msgspec.DecodeError, ValueError, RecursionError):
            raise Denied(401, "its claims cannot be read") from None
        if claims.get("iss") != self._issuer:
            raise Denied(401, "it has another issuer than the one expected here")
        audiences = claims.get("aud")
        if self._audience not in (audiences if isinstance(audiences, list) else [audiences]):
            raise Denied(401, "it is made for another audience than this")
        ends = _second(claims, "exp")
        if ends is None:
            raise Denied(401, "it has no end (`exp`)")
        until_ns = int((min(ends, LAST_SECOND) + LEEWAY_SECONDS) * NS)
        if now_ns >= until_ns:
            raise Denied(401, "it has expired")
        begins = max(_second(claims, "nbf") or 0, _second(claims, "iat") or 0)
        if now_ns / NS < begins - LEEWAY_SECONDS:
            raise Denied(401, "it is not valid yet")
        tenant = safe_name(self._tenant_of(claims))
        if tenant is None:
            raise Denied(401, "what it calls the tenant is no name of 1 to 64 printable ASCII characters")
        return Verified(tenant, until_ns)


def _remember(memory: "OrderedDict[bytes, Any]", digest: bytes, value: Verified | None) -> None:
    memory[digest] = value
    if len(memory) > MAX_REMEMBERED:
        memory.popitem(last=False)


def _second(claims: Claims, name: str) -> float | None:
    """An instant among the claims, Unix seconds; None if it is missing. Raises `Denied` for anything else."""
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Denied(401, f"its `{name}` is no instant")
    return value


def of_provider(settings: JwtSettings, *, key: str, boot_ns: Callable[[], int] = clock.boot_ns) -> SignedTokens:
    """Tokens of an identity provider; a claim names the tenant. Raises `ConfigError`."""
    path = settings.claim.split(".")

    def tenant_of(claims: Claims) -> str:
        value: Any = claims.get(settings.claim)
        if value is None:
            value = claims
            for step in path:
                value = value.get(step) if isinstance(value, dict) else None
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str):
            raise Denied(401, f"it has no claim `{settings.claim}` that is a text or a whole number")
        return value

    return SignedTokens(settings.jwks_file, settings.issuer, settings.audience, tenant_of, key=key, boot_ns=boot_ns)


def of_cluster(
    settings: AccountTenantSettings, *, key: str, boot_ns: Callable[[], int] = clock.boot_ns
) -> SignedTokens:
    """Tokens of a cluster's service accounts; the namespace or the account is the tenant. Raises `ConfigError`."""

    def tenant_of(claims: Claims) -> str:
        try:
            bound = msgspec.convert(claims.get("kubernetes.io"), _Bound)
        except msgspec.ValidationError:
            raise Denied(401, "it is not that of a service account") from None
        namespace, name = bound.namespace, bound.serviceaccount.name
        if claims.get("sub") != f"system:serviceaccount:{namespace}:{name}":
            raise Denied(401, "its subject and its kubernetes.io claims name different accounts")
        return namespace if settings.tenant == "namespace" else f"{namespace}/{name}"

    return SignedTokens(settings.jwks_file, settings.issuer, settings.audience, tenant_of, key=key, boot_ns=boot_ns)
