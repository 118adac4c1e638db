"""A request's headers, its peer and its body's `user` in; whose request it is, or why it is refused, out.

Sources in the order of trust: an API key, a signed token (identity provider, then service account), a header of a
trusted hop, the body's `user`. Keys and tokens stay out of logs, messages and memory: only their SHA-256 is looked at
twice.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from agent import clock
from agent.clock import NS
from agent.core.metrics.published import gauge, labelled
from agent.core.metrics.samples import Labels, Sample
from agent.core.ports import ConfigError
from agent.doors.identity import Denied
from agent.doors.limits import RateLimiter, source_key
from agent.doors.watched import CHECK_NS, Watched
from agent.sidecar.asks import Caller, Refusal
from agent.sidecar.tenancy.hops import Hops, TenantHeaders
from agent.sidecar.tenancy.keys import NO_KEYS, KeyTable, parse_engine_key, parse_keys
from agent.sidecar.tenancy.names import Names, safe_name
from agent.sidecar.tenancy.settings import TenancySettings

if TYPE_CHECKING:
    from agent.sidecar.tenancy.tokens import SignedTokens

log = structlog.get_logger()

CHALLENGE = b'www-authenticate: Bearer realm="engineroom"\r\n'
"""A header that belongs to an answer with status 401 (RFC 9110 section 15.5.2)."""

CREDENTIAL_SOURCES = frozenset(("key", "jwt", "service_account"))
MAX_SECRET_BYTES = 16 * 1024
LOOK_NS = CHECK_NS // 4  # asking each file whether it is time to look costs more than asking the clock once
RECHECK_NS = 10 * NS  # how long an answer holds for whoever showed credentials that may yet become good
REFUSALS_LOGGED_PER_SECOND, REFUSALS_LOGGED_BURST = 1 / 60, 3

_BEARER = b"bearer "


class Rewrite:
    """What to change of a request's header: names (lower case) to leave out, whole lines to add. Shows no secret."""

    __slots__ = ("add", "drop")

    def __init__(self, drop: frozenset[bytes] = frozenset(), add: tuple[bytes, ...] = ()) -> None:
        self.drop = drop
        self.add = add

    def __repr__(self) -> str:
        return f"Rewrite(drop={sorted(self.drop)}, add=<{len(self.add)} lines>)"


UNCHANGED = Rewrite()


class _Unfit(NamedTuple):
    """Credentials that name nobody. `message` holds nothing of them. No exception: it would keep them in its frames."""

    kind: str  # unknown, expired or unfit
    message: str


_UNKNOWN = _Unfit("unknown", "this API key or token is not known here")
_EXPIRED = _Unfit("expired", "this API key has expired")


class Tenancy:
    """Decides whose a request is. `key` is the dotted path of its settings, such as ``sidecar.tenancy``.

    `loopback`: whether the listener can be reached from this machine only. `tenant_header` and `trust_tenant_header`
    are the settings of the sidecar of these names.

    Raises `ConfigError` for files that cannot be used, and for settings by which nobody could come in. Files are read
    again when they change, within 1.25 seconds; while they cannot be used, the last good content counts.
    """

    def __init__(
        self,
        settings: TenancySettings,
        *,
        key: str,
        loopback: bool,
        tenant_header: str = "x-engineroom-tenant",
        trust_tenant_header: bool | None = None,
        boot_ns: Callable[[], int] = clock.boot_ns,
    ) -> None:
        if settings.trusted_hops is not None and trust_tenant_header is not None:
            raise ConfigError(
                f"{key}.trusted_hops", "says who is believed, and so does trust_tenant_header; leave out one of the two"
            )
        self._settings = settings
        self._boot_ns = boot_ns
        self._keys = _watch(settings.keys_file, f"{key}.keys_file", parse_keys, boot_ns)
        self._engine_key = _watch(settings.engine_key_file, f"{key}.engine_key_file", parse_engine_key, boot_ns)
        self._signed = tuple(_signed(settings, key, boot_ns))
        self._hops = Hops(
            settings.trusted_hops, everybody=loopback if trust_tenant_header is None else trust_tenant_header
        )
        self._said = TenantHeaders(settings, tenant_header)
        self._key_headers = tuple(name.encode() for name in settings.key_headers) if settings.has_credentials else ()
        believed = self._said.names if self._hops.any else frozenset()
        if settings.without_tenant == "refuse" and not self._key_headers and not believed:
            raise ConfigError(
                f"{key}.without_tenant",
                "with `refuse` nobody could come in; give keys_file, jwt, service_accounts or trusted_hops",
            )
        self.headers = frozenset((*self._key_headers, *believed))
        self._names = Names(settings.max_tenants)
        self._log_limit = RateLimiter(REFUSALS_LOGGED_PER_SECOND, REFUSALS_LOGGED_BURST, max_keys=1024)
        self._rejected: Counter[str] = Counter()
        given: tuple[Watched[Any] | None, ...] = (self._keys, self._engine_key, *(s.watched for _, s in self._signed))
        self._watched = tuple(watched for watched in given if watched is not None)
        self._version = 1
        self._values = self._current()
        self._look_at_ns = 0
        self._rewrite, self._rewritten_for = UNCHANGED, 0

    # state

    def _current(self) -> list[object]:
        return [watched.current() for watched in self._watched]

    @property
    def version(self) -> int:
        """Another one whenever a file was read anew: what `identify` and `rewrite` said under the old one is void."""
        if self._watched and (now := self._boot_ns()) >= self._look_at_ns:
            self._look_at_ns = now + LOOK_NS
            values = self._current()
            if any(new is not old for new, old in zip(values, self._values, strict=True)):
                self._values = values
                self._version += 1
        return self._version

    @property
    def errors(self) -> tuple[str, ...]:
        """What is wrong with the files now, for health and metrics; nothing of their content."""
        return tuple(error for watched in self._watched if (error := watched.error))

    def samples(self, node: str) -> Iterator[Sample]:
        """Counts for /metrics: of heads that were looked at, which are fewer than requests where answers are kept."""
        base: Labels = (("node", node),)
        yield from gauge("engineroom_sidecar_tenants", len(self._names) + len(self._table().tenants), base)
        yield from gauge("engineroom_sidecar_tenants_grouped_total", self._names.grouped, base)
        yield from labelled("engineroom_sidecar_credentials_rejected_total", self._rejected, "reason", base)

    # who

    def identify(self, fields: Mapping[bytes, bytes], peer: str, now_ns: int) -> Caller | Refusal:
        """Whose request has these headers and comes from this peer (an address, or `tenancy_settings.UNIX`).

        `fields`: lower-case name → value, at least of `headers`; repeats joined with `tenancy_hops.REPEATED`. The
        answer holds until `version` changes or `Caller.valid_until_ns`; a refusal for this one request. A `source`
        without a tenant: a trusted hop named somebody in a way that cannot be used.
        """
        unfit: _Unfit | None = None
        for secret in self._secrets(fields):
            found = self._by_secret(secret, now_ns)
            if isinstance(found, Caller):
                return found
            self._rejected[found.kind] += 1
            unfit = found
        said = self._said.name(fields) if self._hops.trusts(peer) else None
        until_ns = None if unfit is None else now_ns + RECHECK_NS
        if said:
            return Caller(self._admit(said), "header", until_ns)
        if self._settings.without_tenant == "refuse":
            return self._refuse(unfit, peer)
        return Caller(None, None if said is None else "header", until_ns)

    def of_user(self, caller: Caller, user: str | None, peer: str) -> Caller:
        """The caller, or, if nothing else said who it is and the settings allow it, the one that the body names."""
        settings = self._settings
        said = user.strip(" \t") if user else ""
        if caller.tenant is not None or caller.source is not None or not said or settings.body_user == "never":
            return caller
        if settings.body_user == "trusted" and not self._hops.trusts(peer):
            return caller
        name = safe_name(settings.body_user_prefix + said)
        if name is None or name in self._table().tenants:  # whose key somebody else holds is not to be had by a name
            return caller
        return Caller(self._admit(name), "user", caller.valid_until_ns)

    def rewrite(self, caller: Caller) -> Rewrite:
        """What the engine is to get other than what came: nothing of the credentials that are ours, perhaps its own."""
        if caller.source not in CREDENTIAL_SOURCES or self._settings.credentials_to_engine == "keep":
            return UNCHANGED
        version = self.version
        if self._rewritten_for != version:
            engine_key = self._engine_key
            add = () if engine_key is None else (b"authorization: Bearer " + engine_key.current(),)
            dropped = (*self._key_headers, b"authorization") if add else self._key_headers
            self._rewrite = Rewrite(frozenset(dropped), add)
            self._rewritten_for = version
        return self._rewrite

    # parts

    def _secrets(self, fields: Mapping[bytes, bytes]) -> Iterator[bytes]:
        """The keys and tokens among the headers, without their scheme."""
        for name in self._key_headers:
            value = fields.get(name)
            if value is None or len(value) > MAX_SECRET_BYTES:
                continue
            secret = value.strip(b" \t")
            if secret[:7].lower() == _BEARER:
                secret = secret[7:].lstrip(b" \t")
            elif name == b"authorization":
                continue  # another scheme: not ours
            if secret:
                yield secret

    def _by_secret(self, secret: bytes, now_ns: int) -> Caller | _Unfit:
        digest = hashlib.sha256(secret).digest()
        owner = self._table().find(digest)
        if owner is not None:
            if owner.expires_at_ns is not None and now_ns >= owner.expires_at_ns:
                return _EXPIRED
            return Caller(owner.tenant, "key", owner.expires_at_ns)
        unfit = _UNKNOWN
        if secret.count(b".") == 2:
            for source, tokens in self._signed:
                try:
                    verified = tokens.verify(secret, digest, now_ns)
                except Denied as denied:
                    unfit = _Unfit("unfit", f"this token is not good here: {denied.reason}")
                    continue
                if verified is not None:
                    return Caller(self._admit(verified.tenant), source, verified.until_ns)
        return unfit

    def _table(self) -> KeyTable:
        return NO_KEYS if self._keys is None else self._keys.current()

    def _admit(self, name: str) -> str:
        return self._names.admit(name, self._table().tenants)

    def _refuse(self, unfit: _Unfit | None, peer: str) -> Refusal:
        if unfit is None:
            self._rejected["missing"] += 1
            how = (
                "send an API key, as `Authorization: Bearer` or `x-api-key`" if self._key_headers else "none was named"
            )
            kind, message = "missing", f"the tenant of this request is not known: {how}"
        else:
            kind, message = unfit.kind, unfit.message
        if self._log_limit.admit(source_key(peer), self._boot_ns()) is None:
            log.warning("request_refused", peer=peer, reason=kind, message=message)
        return Refusal(401, "invalid_api_key", message)


def _watch(file: Any, key: str, parse: Callable[[bytes, str], Any], boot_ns: Callable[[], int]) -> Watched[Any] | None:
    if file is None:
        return None
    return Watched({key: file}, lambda content: parse(content, key), boot_ns=boot_ns)


def _signed(settings: TenancySettings, key: str, boot_ns: Callable[[], int]) -> "Iterator[tuple[str, SignedTokens]]":
    if settings.jwt is None and settings.service_accounts is None:
        return
    from agent.sidecar.tenancy import tokens as tenancy_tokens  # it loads a cryptographic library

    if settings.jwt is not None:
        yield "jwt", tenancy_tokens.of_provider(settings.jwt, key=f"{key}.jwt", boot_ns=boot_ns)
    if settings.service_accounts is not None:
        place = f"{key}.service_accounts"
        yield "service_account", tenancy_tokens.of_cluster(settings.service_accounts, key=place, boot_ns=boot_ns)
