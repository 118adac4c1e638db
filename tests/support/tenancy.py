"""Files of keys, settings and a clock for tests of tenancy. `made(folder, ...)` gives a `Tenancy` and its clock."""

import hashlib
from pathlib import Path
from typing import Any

from agent.clock import NS, unix_ns
from agent.sidecar.asks import Caller, Refusal
from agent.sidecar.tenancy.settings import TenancySettings
from agent.sidecar.tenancy.tenancy import Tenancy
from tests.support.credentials import AUDIENCE, ISSUER, SigningKey, jwks, put

NOW = (unix_ns() // NS - 86_400) * NS  # not the real clock's instant: who mixes the two shall notice
KEY = "sk-0123456789abcdefghijklmnopqrstuvwxyz"
OTHER_KEY = "sk-another-9876543210-zyxwvutsrqponm"
PEER, FAR = "10.0.0.7", "192.0.2.1"
PROVIDER, CLUSTER = SigningKey.rsa("provider"), SigningKey.elliptic("cluster")


class Clocks:
    """Wall clock and boot clock that go together, from now on."""

    def __init__(self) -> None:
        self.unix = NOW
        self.boot = 5 * NS

    def later(self, seconds: float = 1.0) -> None:
        self.unix += int(seconds * NS)
        self.boot += int(seconds * NS)


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def keys_file(folder: Path, *lines: str, name: str = "keys") -> Path:
    """A file of keys; by default `KEY` is acme's."""
    return put(folder / name, ("\n".join(lines or (f"{digest(KEY)}  acme",)) + "\n").encode())


def jwt_settings(folder: Path, **more: Any) -> dict[str, Any]:
    file = put(folder / "provider.jwks", jwks(PROVIDER))
    return {"jwks_file": file, "issuer": "https://id.example", "audience": "llm", **more}


def account_settings(folder: Path, **more: Any) -> dict[str, Any]:
    file = put(folder / "cluster.jwks", jwks(CLUSTER))
    return {"jwks_file": file, "issuer": ISSUER, "audience": AUDIENCE, **more}


def provider_token(**claims: Any) -> str:
    """A token of the identity provider, good for an hour; `claims` override, None leaves one out."""
    given = {"iss": "https://id.example", "aud": "llm", "exp": NOW // NS + 3600, "tenant": "acme", **claims}
    return PROVIDER.sign({name: value for name, value in given.items() if value is not None})


def tenancy(clocks: Clocks | None = None, **settings: Any) -> Tenancy:
    """One with these settings; those of the listener are `loopback`, `tenant_header` and `trust_tenant_header`."""
    at = clocks or Clocks()
    names = ("loopback", "tenant_header", "trust_tenant_header")
    listener = {"loopback": False} | {name: settings.pop(name) for name in names if name in settings}
    return Tenancy(TenancySettings(**settings), key="sidecar.tenancy", boot_ns=lambda: at.boot, **listener)


def who(of: Tenancy, peer: str = FAR, now_ns: int = NOW, **headers: str) -> Caller:
    """Whose request has these headers; ``x_api_key`` stands for ``x-api-key``. It must not be refused."""
    found = asked(of, peer, now_ns, **headers)
    assert isinstance(found, Caller), found
    return found


def asked(of: Tenancy, peer: str = FAR, now_ns: int = NOW, **headers: str) -> Caller | Refusal:
    fields = {name.replace("_", "-").encode(): value.encode("latin-1") for name, value in headers.items()}
    return of.identify(fields, peer, now_ns)
