"""Settings of tenancy: by which of its marks a request belongs to whom, and what happens to one that is nobody's."""

import ipaddress
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from agent.doors.settings import ClusterTokenSettings
from agent.settings import ConfigPath, Section

UNIX = "unix"
"""Among trusted hops: whoever comes over a unix socket."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")


def _header_name(text: str) -> str:
    if not _TOKEN.fullmatch(text):
        raise ValueError(f"{text!r} cannot be the name of a header; give one such as x-tenant")
    return text.lower()


def _hop(text: str) -> str:
    if text == UNIX:
        return text
    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"{error}; give a network such as 10.2.0.0/16, an address, or the word `unix`") from None
    return text


HeaderName = Annotated[str, AfterValidator(_header_name)]
Hop = Annotated[str, AfterValidator(_hop)]


class JwtSettings(Section):
    """Tokens of an identity provider (JWT, RFC 7519), verified here without asking it."""

    jwks_file: ConfigPath = Field(
        description="File with the provider's public keys, a JSON Web Key Set. Read again when it changes."
    )
    issuer: str = Field(min_length=1, description="The `iss` that tokens must have, exactly.")
    audience: str = Field(min_length=1, description="The `aud` that tokens must be made for.")
    claim: str = Field(
        "tenant",
        min_length=1,
        description="Claim that names the tenant: text or a whole number. `org.id` is the member `id` of the claim "
        "`org`, unless there is a claim of that very name.",
    )


class AccountTenantSettings(ClusterTokenSettings):
    """Service accounts as tenants."""

    tenant: Literal["namespace", "account"] = Field(
        "namespace", description="What is the tenant: `namespace`, or `account` for namespace/name."
    )


class HeliconeSettings(Section):
    """Headers that clients of Helicone send. Believed from trusted hops only."""

    property: Annotated[str, AfterValidator(_header_name)] | None = Field(
        None, description="Property that names the tenant: `Tenant` reads `Helicone-Property-Tenant`."
    )
    user_id: bool = Field(False, description="Whether `Helicone-User-Id` names the tenant.")


class LitellmSettings(Section):
    """Headers of LiteLLM and of its clients. Believed from trusted hops only."""

    team: Literal["id", "alias"] | None = Field(
        None,
        description="Whether the team of LiteLLM's key is the tenant, by its id or its alias. LiteLLM sends them with "
        "`add_user_information_to_llm_headers: true`.",
    )
    tag_prefix: str | None = Field(
        None,
        max_length=64,
        description="The first tag of `x-litellm-tags` that begins so names the tenant by its rest: `tenant:` makes "
        "acme of `prod,tenant:acme`.",
    )
    customer: bool = Field(
        False, description="Whether `x-litellm-customer-id`, else `x-litellm-end-user-id`, names the tenant."
    )


class TenancySettings(Section):
    """Whose a request is. By default only the tenant header is read, as `sidecar.tenant_header` says."""

    keys_file: ConfigPath | None = Field(
        None,
        description="File with hashed API keys, one a line: the SHA-256 of the key in hexadecimal, then the tenant; "
        "between them, if it ends, `expires=2027-01-31T00:00:00Z`. Lines that begin with `#` are comments. Read again "
        "when it changes; while it cannot be read, the last good content counts.",
    )
    key_headers: tuple[HeaderName, ...] = Field(
        ("authorization", "x-api-key", "api-key"),
        min_length=1,
        description="Headers in which keys and tokens are looked for, in this order; with or without `Bearer`, which "
        "only `authorization` needs.",
    )
    jwt: JwtSettings | None = Field(None, description="Tokens of an identity provider that name a tenant.")
    service_accounts: AccountTenantSettings | None = Field(None, description="Kubernetes service accounts as tenants.")
    trusted_hops: tuple[Hop, ...] | None = Field(
        None,
        description="Networks or addresses of gateways whose headers about the tenant are believed, and `unix` for "
        "whoever comes over a unix socket. Default: as `sidecar.trust_tenant_header` says.",
    )
    own_header: bool = Field(
        True,
        description="Whether `sidecar.tenant_header` is read. Say false where a trusted hop passes on the headers of "
        "its own clients.",
    )
    more_headers: tuple[HeaderName, ...] = Field(
        (), description="Further headers of trusted hops that name the tenant, in this order."
    )
    helicone: HeliconeSettings = Field(default_factory=HeliconeSettings, description="Headers of Helicone.")
    litellm: LitellmSettings = Field(default_factory=LitellmSettings, description="Headers of LiteLLM.")
    body_user: Literal["never", "trusted", "anybody"] = Field(
        "never",
        description="From whom the field `user` of a request's body (Anthropic: `metadata.user_id`) names the tenant, "
        "if nothing else does: nobody, trusted hops, or anybody. Names in the file of keys cannot be taken so.",
    )
    body_user_prefix: str = Field(
        "",
        max_length=32,
        pattern=r"^[!-~]*$",
        description="Put before such a name, so that it cannot be taken for a tenant of another source.",
    )
    without_tenant: Literal["allow", "refuse"] = Field(
        "allow",
        description="What happens to a request whose tenant is not known: it is let through and counted as nobody's, "
        "or it is refused with status 401.",
    )
    max_tenants: int = Field(
        1000,
        ge=1,
        le=100_000,
        description="Most tenants that are told apart beside those of the file of keys. Further ones count as `other`.",
    )
    credentials_to_engine: Literal["remove", "keep"] = Field(
        "remove",
        description="What happens to a key or token that named the tenant: it is our own affair and taken out of the "
        "request (all `key_headers` are), or passed on. Unknown ones are always passed on.",
    )
    engine_key_file: ConfigPath | None = Field(
        None,
        description="File with the engine's own API key, sent as `Authorization: Bearer` in place of the one that was "
        "taken out. Read again when it changes.",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> "TenancySettings":
        if self.engine_key_file is not None and self.credentials_to_engine == "keep":
            raise ValueError("engine_key_file takes the place of the caller's key: leave credentials_to_engine out")
        if self.engine_key_file is not None and not self.has_credentials:
            raise ValueError("engine_key_file takes the place of a known key: give keys_file, jwt or service_accounts")
        if self.body_user != "never" and self.without_tenant == "refuse":
            raise ValueError(
                "body_user does not go with without_tenant: refuse; a name that anybody can write is no credential"
            )
        return self

    @property
    def has_credentials(self) -> bool:
        """Whether there are keys or tokens that could name a tenant."""
        return bool(self.keys_file or self.jwt or self.service_accounts)
