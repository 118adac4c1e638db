"""Kubernetes service account tokens in, identities out: verified against the cluster's public keys, offline.

Claims: kubernetes.io, "Managing Service Accounts", section "Bound service account tokens"; rules: RFC 8725.
"""

import base64
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.api_jws import PyJWS
from msgspec import Struct

from agent import clock
from agent.clock import NS
from agent.core.ports import ConfigError
from agent.doors.identity import Denied, Identity
from agent.doors.settings import AccountSettings, ServiceAccountSettings
from agent.doors.watched import Watched

ALGORITHMS = frozenset(
    ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
)  # asymmetric ones only: with the others, whoever can verify can forge
MIN_RSA_BITS = 2048
MAX_TOKEN_BYTES = 4096  # the longest that names of Kubernetes' lengths and an RSA key of 4096 bits make is 3 KiB
LEEWAY_SECONDS = 30
REMEMBER_NS = 60 * NS
MAX_REMEMBERED = 1024
LAPSE_SECONDS = 30.0


class _Jwk(Struct):
    kty: str
    kid: str = ""
    alg: str = ""
    use: str = ""
    n: str = ""
    e: str = ""
    crv: str = ""
    x: str = ""
    y: str = ""


class _Jwks(Struct):
    keys: list[_Jwk]


class _Header(Struct):
    kid: str


class _Named(Struct):
    name: str


class _Bound(Struct):
    namespace: str
    serviceaccount: _Named
    pod: _Named | None = None


class _Claims(Struct):
    iss: str
    aud: str | list[str]
    sub: str
    exp: int
    nbf: int
    iat: int
    bound: _Bound = msgspec.field(name="kubernetes.io")


_header_of = msgspec.json.Decoder(_Header)
_claims_of = msgspec.json.Decoder(_Claims)


class _Keys:
    """The public keys of one state of the JWKS file, and the tokens lately verified with them: both end together."""

    def __init__(self, keys: dict[str, tuple[Any, str]]) -> None:
        self.keys = keys  # kid -> key, the one algorithm that goes with it
        self.remembered: OrderedDict[bytes, tuple[Identity, int, int]] = OrderedDict()


class ServiceAccounts:
    """Verifies tokens of the service accounts in `settings`. Raises `ConfigError` for a JWKS file without usable keys.

    A changed JWKS file counts within a second, so a token whose key id is unknown is good a second after its key has
    arrived. A JWKS file that is gone or broken leaves the last keys in force for `LAPSE_SECONDS`.
    """

    def __init__(
        self,
        settings: ServiceAccountSettings,
        *,
        key: str,
        unix_ns: Callable[[], int] = clock.unix_ns,
        boot_ns: Callable[[], int] = clock.boot_ns,
    ) -> None:
        self._settings = settings
        self._unix_ns = unix_ns
        self._boot_ns = boot_ns
        self._accounts = {(account.namespace, account.name): account for account in settings.accounts}
        place = f"{key}.jwks_file"
        self._jwks = Watched(
            {place: settings.jwks_file},
            lambda content: _Keys(parse_jwks(content, place)),
            lapse=(LAPSE_SECONDS, _Keys({})),
            boot_ns=boot_ns,
        )
        self._jws = PyJWS()

    @property
    def errors(self) -> tuple[str, ...]:
        error = self._jwks.error
        return (error,) if error else ()

    def verify(self, token: bytes, digest: bytes) -> Identity:
        """Whose token this is. `digest` is its SHA-256, under which good ones are remembered for at most a minute.

        Raises `Denied`: 401 when the token is not good, 403 when it is and its account has no entry.
        """
        if len(token) > MAX_TOKEN_BYTES:
            raise Denied(401, "the token is too long for one of a service account")
        keys = self._jwks.current()
        found = keys.remembered.get(digest)
        if found is not None:
            identity, until_boot_ns, until_unix_ns = found
            if self._boot_ns() < until_boot_ns and self._unix_ns() < until_unix_ns:
                return identity
            del keys.remembered[digest]
        claims = self._check_claims(self._check_signature(token, keys.keys))
        identity = self._identity(claims)
        until = self._boot_ns() + REMEMBER_NS, (claims.exp + LEEWAY_SECONDS) * NS
        keys.remembered[digest] = (identity, *until)
        if len(keys.remembered) > MAX_REMEMBERED:
            keys.remembered.popitem(last=False)
        return identity

    def _check_signature(self, token: bytes, keys: dict[str, tuple[Any, str]]) -> bytes:
        """The payload, once its signature holds. What the header says chooses the key, and never the algorithm."""
        head = token.partition(b".")[0]
        try:
            header = _header_of.decode(base64.urlsafe_b64decode(head + b"=" * (-len(head) % 4)))
            key, algorithm = keys[header.kid]
            payload = self._jws.decode_complete(token, key, algorithms=[algorithm])["payload"]
        except (jwt.PyJWTError, msgspec.DecodeError, KeyError, ValueError, RecursionError):
            raise Denied(401, "the token's signature is not one of this cluster") from None
        return bytes(payload)

    def _check_claims(self, payload: bytes) -> _Claims:
        try:
            claims = _claims_of.decode(payload)
        except (msgspec.DecodeError, ValueError, RecursionError):
            raise Denied(401, "the token is not that of a service account bound to an audience") from None
        now = self._unix_ns() // NS
        audiences = [claims.aud] if isinstance(claims.aud, str) else claims.aud
        bound = claims.bound
        if claims.iss != self._settings.issuer:
            raise Denied(401, "the token has another issuer than the one expected here")
        if self._settings.audience not in audiences:
            raise Denied(401, "the token is made for another audience than this")
        if now >= claims.exp + LEEWAY_SECONDS:
            raise Denied(401, "the token has expired")
        if now < max(claims.nbf, claims.iat) - LEEWAY_SECONDS:
            raise Denied(401, "the token is not valid yet")
        if claims.sub != f"system:serviceaccount:{bound.namespace}:{bound.serviceaccount.name}":
            raise Denied(401, "the token's subject and its kubernetes.io claims name different accounts")
        return claims

    def _identity(self, claims: _Claims) -> Identity:
        bound = claims.bound
        namespace, name = bound.namespace, bound.serviceaccount.name
        account = self._account(namespace, name)
        if account is None:
            raise Denied(403, "this service account has no entry here")
        return Identity(
            name=f"{namespace}/{name}",
            kind="service_account",
            scopes=frozenset(account.scopes),
            tenant=account.tenant,
            pod=bound.pod.name if bound.pod is not None else "",
        )

    def _account(self, namespace: str, name: str) -> AccountSettings | None:
        if name == "*":
            return None
        return self._accounts.get((namespace, name)) or self._accounts.get((namespace, "*"))


def parse_jwks(content: bytes, key: str) -> dict[str, tuple[Any, str]]:
    """Public keys that may verify, by their id, each with its one algorithm (RFC 7517). Others are passed over.

    Raises `ConfigError` about `key` when the content is no JWKS or holds no key that can be used.
    """
    expected = "the file must be a JSON Web Key Set, as `kubectl get --raw /openid/v1/jwks` prints it"
    try:
        entries = msgspec.json.decode(content, type=_Jwks).keys
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise ConfigError(key, expected) from None
    found: dict[str, tuple[Any, str]] = {}
    for entry in entries:
        usable = _usable(entry)
        if usable is not None:
            found[entry.kid] = usable
    if not found:
        raise ConfigError(
            key,
            f"{expected}, with at least one public key that has a `kid` and one of the algorithms "
            f"{', '.join(sorted(ALGORITHMS))} (RSA: at least {MIN_RSA_BITS} bits)",
        )
    return found


def _usable(entry: _Jwk) -> tuple[Any, str] | None:
    if not entry.kid or entry.use not in ("", "sig") or entry.kty not in ("RSA", "EC", "OKP"):
        return None
    if entry.alg and entry.alg not in ALGORITHMS:
        return None
    fields = {name: text for name, text in msgspec.structs.asdict(entry).items() if text}
    try:
        made = jwt.PyJWK(fields)
    except (jwt.PyJWTError, ValueError, KeyError):
        return None
    if made.algorithm_name not in ALGORITHMS:
        return None
    if isinstance(made.key, RSAPublicKey) and made.key.key_size < MIN_RSA_BITS:
        return None
    return made.key, made.algorithm_name
