"""Settings of a listener's doors: who may come in, over which TLS, how much and how fast. Used in several sections."""

import ipaddress
from collections import Counter
from collections.abc import Iterable

from pydantic import Field, model_validator

from agent.core.ports import ConfigError
from agent.doors.identity import Scope
from agent.settings import ConfigPath, Section, split_address

TENANT_SCOPES: frozenset[Scope] = frozenset(("cost", "ingest"))


class Grant(Section):
    """What somebody may do."""

    scopes: tuple[Scope, ...] = Field(
        min_length=1,
        description="What it may do: `metrics` (read the page, metrics, queries and alerts), `cost` (read cost "
        "reports), `ingest` (send request records), `admin` (change things).",
    )
    tenant: str | None = Field(
        None,
        min_length=1,
        max_length=64,
        description="Only this tenant's reports and records. Goes with the scopes `cost` and `ingest` only: what the "
        "others show and change belongs to everybody.",
    )

    @model_validator(mode="after")
    def _tenant_narrows(self) -> "Grant":
        wide = [scope for scope in self.scopes if scope not in TENANT_SCOPES]
        if self.tenant is not None and wide:
            raise ValueError(
                f"the scope `{wide[0]}` reaches every tenant's data, so it cannot go with tenant `{self.tenant}`; "
                "leave out one of the two, or make two entries"
            )
        return self


class TokenSettings(Grant):
    """One token, kept in a file. To change it without a gap, add a second entry and remove the first later."""

    name: str = Field(
        min_length=1, max_length=128, description="Name in the logs and the audit log; never the token itself."
    )
    file: ConfigPath = Field(
        description="File with the token: one line of at least 16 printable ASCII characters without spaces, such as "
        "`openssl rand -base64 32` prints. A new content counts within a second, and the old token ends with it. If "
        "the file is gone or holds no token, the last one counts for another 30 seconds.",
    )


_DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
_ACCOUNT_NAME = r"^(\*|[a-z0-9]([-.a-z0-9]*[a-z0-9])?)$"


class AccountSettings(Grant):
    """One Kubernetes service account, or all of a namespace."""

    namespace: str = Field(max_length=63, pattern=_DNS_LABEL, description="Its namespace. No pattern: each is named.")
    name: str = Field(
        max_length=253,
        pattern=_ACCOUNT_NAME,
        description="Its name, or `*` for every account of the namespace that has no entry of its own.",
    )


def _distinct(what: str, names: Iterable[str]) -> None:
    for name, times in Counter(names).items():
        if times > 1:
            raise ValueError(f"{what} `{name}` is there {times} times; give each its own entry")


class ClusterTokenSettings(Section):
    """Tokens of Kubernetes service accounts, verified here without asking the cluster."""

    jwks_file: ConfigPath = Field(
        description="File with the cluster's public keys, as `kubectl get --raw /openid/v1/jwks` prints them. Read "
        "again when it changes."
    )
    issuer: str = Field(
        min_length=1,
        description="The `iss` that tokens must have, exactly as `kubectl get --raw "
        "/.well-known/openid-configuration` shows it.",
    )
    audience: str = Field(
        min_length=1,
        description="The `aud` that tokens must be made for: the `audience` of the projected volume in the pods. Use "
        "one of its own, so that a token for the cluster's API does not open this door.",
    )


class ServiceAccountSettings(ClusterTokenSettings):
    """Service accounts that may come in."""

    accounts: tuple[AccountSettings, ...] = Field(
        min_length=1, description="Accounts that may come in. A valid token of any other account is refused."
    )

    @model_validator(mode="after")
    def _accounts_differ(self) -> "ServiceAccountSettings":
        _distinct("the service account", (f"{account.namespace}/{account.name}" for account in self.accounts))
        return self


class CertificateSettings(Grant):
    """One name in clients' certificates; needs `client_ca_file` of the listener's `tls`."""

    name: str = Field(
        min_length=1,
        max_length=1024,
        description="A DNS name or URI among the certificate's alternative names, compared exactly; the subject's "
        "common name counts only where the certificate has neither.",
    )


class AuthSettings(Section):
    """Who may come in. With any credentials configured, everybody needs some, from loopback too."""

    tokens: tuple[TokenSettings, ...] = Field(
        (), description="Tokens, sent as `Authorization: Bearer` or as the password of HTTP Basic (any user name)."
    )
    service_accounts: ServiceAccountSettings | None = Field(
        None, description="Kubernetes service accounts that may come in with their tokens."
    )
    certificates: tuple[CertificateSettings, ...] = Field(
        (), description="Names of client certificates. A token that is sent as well counts instead."
    )
    allow_unauthenticated: bool = Field(
        False,
        description="Whether callers without credentials may read metrics and all cost and send records, for anybody "
        "who reaches the address. Changing things always needs credentials, except on loopback where none are "
        "configured. Wrong credentials are refused all the same.",
    )

    @model_validator(mode="after")
    def _names_differ(self) -> "AuthSettings":
        _distinct("the token name", (token.name for token in self.tokens))
        _distinct("the certificate name", (certificate.name for certificate in self.certificates))
        return self

    @property
    def configured(self) -> bool:
        """Whether there are any credentials with which somebody could come in."""
        return bool(self.tokens or self.service_accounts or self.certificates)


class TlsSettings(Section):
    """TLS of a listener; without files it speaks plain HTTP. Changed files count for the next connection."""

    certificate_file: ConfigPath | None = Field(
        None, description="PEM file with the certificate, followed by those of the authorities between."
    )
    key_file: ConfigPath | None = Field(None, description="PEM file with the certificate's key, not encrypted.")
    client_ca_file: ConfigPath | None = Field(
        None, description="PEM file with the authorities that sign clients' certificates. Without it none is asked for."
    )
    require_client_certificate: bool = Field(
        True,
        description="With `client_ca_file`: whether a client without a certificate is turned away in the handshake. "
        "With false it may come in with a token instead.",
    )

    @model_validator(mode="after")
    def _go_together(self) -> "TlsSettings":
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("certificate_file and key_file go together; give both or neither")
        if self.client_ca_file is not None and self.certificate_file is None:
            raise ValueError(
                "client_ca_file needs certificate_file and key_file: without TLS nobody shows a certificate"
            )
        return self

    @property
    def enabled(self) -> bool:
        return self.certificate_file is not None


class ClientTlsSettings(Section):
    """TLS of connections that we open. Changed files count for the next connection."""

    ca_file: ConfigPath | None = Field(
        None, description="PEM file with the authorities to trust instead of the system's."
    )
    certificate_file: ConfigPath | None = Field(
        None, description="PEM file with our certificate, for servers that ask for one."
    )
    key_file: ConfigPath | None = Field(None, description="PEM file with our certificate's key, not encrypted.")

    @model_validator(mode="after")
    def _go_together(self) -> "ClientTlsSettings":
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("certificate_file and key_file go together; give both or neither")
        return self


class LimitSettings(Section):
    """What one listener takes. Rates hold for each source address; of IPv6 addresses the first 64 bits count."""

    requests_per_second: float = Field(
        200.0, gt=0, le=1e6, description="Requests a second that each source address may send over a long time."
    )
    burst: int = Field(400, ge=1, le=10**6, description="Requests that it may send at once after a pause.")
    failures_per_minute: float = Field(
        30.0, gt=0, le=1e6, description="Wrong credentials a minute after which a source address has to wait."
    )
    failures_burst: int = Field(20, ge=1, le=10**6, description="Wrong credentials that it may send at once.")
    max_connections: int = Field(1024, ge=1, le=10**6, description="Connections open at once; more are turned away.")
    max_body_bytes: int = Field(
        16 * 2**20, ge=1024, le=2**30, description="Largest request body, as sent and after decompression."
    )
    head_timeout_seconds: float = Field(
        10.0, gt=0, le=600, description="Longest wait for the whole head of a request, from its first byte."
    )
    request_timeout_seconds: float = Field(
        60.0, gt=0, le=3600, description="Longest time from the head of a request to the end of its answer."
    )


def is_loopback(address: str) -> bool:
    """Whether a listening address, `host:port`, can be reached from this machine only."""
    host, _ = split_address(address)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def require_credentials(
    key_prefix: str, address: str, auth: AuthSettings, tls: TlsSettings | None = None, *, listen_key: str = "listen"
) -> None:
    """Refuse a listener whose doors do not fit its address.

    Raises `ConfigError` when `address` (`host:port`) is not loopback and there are neither credentials nor
    `allow_unauthenticated`; and when certificates are named that nobody could show. `key_prefix` is the listener's
    section, such as ``api``; its settings are ``api.auth`` and ``api.tls``.
    """
    if auth.certificates and (tls is None or tls.client_ca_file is None):
        raise ConfigError(
            f"{key_prefix}.auth.certificates",
            f"nobody can show a certificate without {key_prefix}.tls.client_ca_file; set it, or remove the entries",
        )
    if auth.configured or auth.allow_unauthenticated or is_loopback(address):
        return
    raise ConfigError(
        f"{key_prefix}.{listen_key}",
        f"{address} can be reached from other machines, and no credentials are configured. Add some under "
        f"{key_prefix}.auth (tokens, service_accounts or certificates), or listen on 127.0.0.1; or, if everybody who "
        "reaches the address may read metrics and cost and send records, say so with "
        f"{key_prefix}.auth.allow_unauthenticated: true",
    )
