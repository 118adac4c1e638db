"""The one answer to "who are you": a header and a certificate's names in, an identity or a refusal out."""

import base64
import binascii
import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from agent import clock
from agent.doors.identity import ALL_SCOPES, Denied, Identity, Scope
from agent.doors.settings import AuthSettings
from agent.doors.tokens import StaticTokens

if TYPE_CHECKING:
    from agent.doors.service_accounts import ServiceAccounts

MAX_HEADER_CHARACTERS = 16 * 1024

CHALLENGES = ('Bearer realm="engineroom"', 'Basic realm="engineroom", charset="UTF-8"')
"""Values of WWW-Authenticate for an answer with status 401; the second makes browsers ask."""

UNAUTHENTICATED_SCOPES: frozenset[Scope] = frozenset(("metrics", "cost", "ingest"))
"""What `allow_unauthenticated` lets anybody do."""


class Doorkeeper:
    """Decides who a caller of one listener is. `key` is the dotted path of its settings, such as ``api.auth``.

    Without credentials: on loopback with nothing configured a caller may do everything; with `allow_unauthenticated`
    what `UNAUTHENTICATED_SCOPES` says; else nothing. Where credentials are configured, wrong ones are refused even if
    none would have done. An Authorization header counts before a certificate. Where nothing is configured, a header is
    not looked at: there is nothing to compare it with.

    Raises `ConfigError` for files that cannot be read; they are read again when they change.
    """

    def __init__(
        self,
        auth: AuthSettings,
        *,
        key: str,
        loopback: bool,
        unix_ns: Callable[[], int] = clock.unix_ns,
        boot_ns: Callable[[], int] = clock.boot_ns,
    ) -> None:
        self._configured = auth.configured
        self._tokens = StaticTokens(auth.tokens, key=f"{key}.tokens", boot_ns=boot_ns)
        self._accounts = _service_accounts(auth, f"{key}.service_accounts", unix_ns, boot_ns)
        self._certificates = tuple(
            Identity(name=entry.name, kind="certificate", scopes=frozenset(entry.scopes), tenant=entry.tenant)
            for entry in auth.certificates
        )
        scopes: frozenset[Scope] = frozenset()
        if auth.allow_unauthenticated:
            scopes = UNAUTHENTICATED_SCOPES
        if loopback and not auth.configured:
            scopes = ALL_SCOPES
        self._anonymous = Identity(name="anonymous", kind="anonymous", scopes=scopes) if scopes else None

    @property
    def errors(self) -> tuple[str, ...]:
        """What is wrong with the files of credentials now, for health and metrics; no content of theirs."""
        return self._tokens.errors + (self._accounts.errors if self._accounts is not None else ())

    def identify(self, authorization: str | None, certificate_names: Sequence[str] = ()) -> Identity:
        """Who sent this Authorization header, over a connection whose client certificate was verified and has these
        names. Raises `Denied`, and nothing else whatever the text."""
        if self._configured:
            if authorization is not None:
                return self._by_token(_secret_of(authorization))
            for identity in self._certificates:
                if identity.name in certificate_names:
                    return identity
        if self._anonymous is not None:
            return self._anonymous
        if certificate_names and self._certificates:
            raise Denied(401, "the certificate's name is not among those that may come in")
        raise Denied(401, "credentials are needed: send a token as `Authorization: Bearer`, or as a password")

    def _by_token(self, token: bytes) -> Identity:
        digest = hashlib.sha256(token).digest()
        known = self._tokens.find(digest)
        if known is not None:
            return known
        if self._accounts is not None and token.count(b".") == 2:
            return self._accounts.verify(token, digest)
        raise Denied(401, "these credentials are not known here")


def _service_accounts(
    auth: AuthSettings, key: str, unix_ns: Callable[[], int], boot_ns: Callable[[], int]
) -> "ServiceAccounts | None":
    if auth.service_accounts is None:
        return None
    from agent.doors.service_accounts import ServiceAccounts  # it loads a cryptographic library

    return ServiceAccounts(auth.service_accounts, key=key, unix_ns=unix_ns, boot_ns=boot_ns)


def _secret_of(authorization: str) -> bytes:
    """The token in an Authorization header: of the scheme Bearer, or the password of Basic. Raises `Denied`."""
    if len(authorization) > MAX_HEADER_CHARACTERS:
        raise Denied(401, "the Authorization header is too long")
    if not authorization.isascii():
        raise Denied(401, "the Authorization header must be ASCII")
    scheme, _, rest = authorization.strip(" ").partition(" ")
    kind, credentials = scheme.lower(), rest.strip(" ").encode("ascii")
    if kind not in ("bearer", "basic"):
        raise Denied(401, "the Authorization header must have the scheme Bearer or Basic")
    if kind == "basic":
        try:
            credentials = base64.b64decode(credentials, validate=True).partition(b":")[2]
        except binascii.Error:
            raise Denied(401, "the credentials of scheme Basic are not base64") from None
    if not credentials:
        raise Denied(401, "the Authorization header holds no token")
    return credentials
