"""Who somebody is and what they may do: values and the refusal."""

from typing import Literal

from msgspec import Struct

Scope = Literal["metrics", "cost", "ingest", "admin"]
ALL_SCOPES: frozenset[Scope] = frozenset(("metrics", "cost", "ingest", "admin"))


class Identity(Struct, frozen=True, kw_only=True):
    """One caller. With a `tenant`, the scopes `cost` and `ingest` reach only what is that tenant's.

    `name` goes into the audit log and the logs: a token's configured name, ``namespace/account`` of a service account,
    a certificate's name. `pod` is the pod that a service account token is bound to.
    """

    name: str
    kind: Literal["anonymous", "token", "service_account", "certificate"]
    scopes: frozenset[Scope]
    tenant: str | None = None
    pod: str = ""

    def allows(self, scope: Scope) -> bool:
        return scope in self.scopes


class Denied(Exception):
    """No. 401: no or wrong credentials; 403: known, but not allowed. `reason` is safe to tell the caller."""

    def __init__(self, status: Literal[401, 403], reason: str) -> None:
        super().__init__(reason)
        self.status: Literal[401, 403] = status
        self.reason = reason
