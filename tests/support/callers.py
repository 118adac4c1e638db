"""Callers of the API for tests: settings with one credential of every kind, and a table of those that must not do."""

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

from agent.api.settings import ApiSettings
from agent.clock import NS, unix_ns
from tests.support.credentials import AUDIENCE, ISSUER, MISSING, SigningKey, basic, bearer, claims, jwks, put

KEY = SigningKey.rsa("api-key")
STRANGER = SigningKey.rsa("stranger")

GRANTS: dict[str, dict[str, Any]] = {
    "metrics": {"scopes": ["metrics"]},
    "cost": {"scopes": ["cost"]},
    "acme": {"scopes": ["cost"], "tenant": "acme"},
    "zeta": {"scopes": ["cost", "ingest"], "tenant": "zeta"},
    "ingest": {"scopes": ["ingest"]},
    "admin": {"scopes": ["admin"]},
    "reader": {"scopes": ["metrics", "cost"]},
    "all": {"scopes": ["metrics", "cost", "ingest", "admin"]},
}


def token_of(name: str) -> str:
    return f"{name}-0123456789abcdef-{name}"


def header(name: str) -> dict[str, str]:
    return {"Authorization": bearer(token_of(name))}


def settings(folder: Path, **more: Any) -> ApiSettings:
    """A token for each of `GRANTS`, and the service account inference/engineroom-sidecar with the scope ingest."""
    tokens = [
        {"name": name, "file": put(folder / name, token_of(name).encode()), **grant} for name, grant in GRANTS.items()
    ]
    accounts = {
        "jwks_file": put(folder / "jwks.json", jwks(KEY)),
        "issuer": ISSUER,
        "audience": AUDIENCE,
        "accounts": [{"namespace": "inference", "name": "engineroom-sidecar", "scopes": ["ingest"]}],
    }
    more["auth"] = {"tokens": tokens, "service_accounts": accounts, **more.get("auth", {})}
    limits = {"requests_per_second": 1e6, "burst": 10**6, "failures_per_minute": 1e6, "failures_burst": 10**6}
    more["limits"] = limits | more.get("limits", {})
    return ApiSettings.model_validate(more)


def forged() -> dict[str, str]:
    """What it is -> an Authorization header that must open nothing."""
    now = unix_ns() // NS
    good = KEY.sign(claims())
    head, body, signature = good.split(".")
    other = claims("kube-system", "default")
    return {
        "no such token": bearer("no-such-token-0123456789"),
        "the start of a token": bearer(token_of("admin")[:-1]),
        "a token and more": bearer(token_of("admin") + "x"),
        "a token in capitals": bearer(token_of("admin").upper()),
        "a token's name": bearer("admin"),
        "nothing": "Bearer ",
        "no scheme": token_of("admin"),
        "another scheme": f"Digest {token_of('admin')}",
        "basic, no base64": "Basic !!!",
        "basic, the user": "Basic " + base64.b64encode(f"{token_of('admin')}:".encode()).decode(),
        "basic, wrong": basic("wrong-password-0123456789"),
        "two tokens": f"Bearer {token_of('metrics')} {token_of('cost')}",
        "not ASCII": "Bearer \xff\xfe",
        "very long": bearer("x" * 20_000),
        "expired": bearer(KEY.sign(claims(exp=now - 3600, iat=now - 7200, nbf=now - 7200))),
        "not yet": bearer(KEY.sign(claims(nbf=now + 3600))),
        "no end": bearer(KEY.sign(claims(exp=MISSING))),
        "another audience": bearer(KEY.sign(claims(aud=["https://kubernetes.default.svc"]))),
        "no audience": bearer(KEY.sign(claims(aud=MISSING))),
        "another issuer": bearer(KEY.sign(claims(iss="https://evil.example"))),
        "a stranger's signature": bearer(STRANGER.sign(claims())),
        "a stranger with our key's name": bearer(STRANGER.sign(claims(), headers={"kid": KEY.kid})),
        "no signature": bearer(f"{head}.{body}."),
        "a changed signature": bearer(f"{head}.{body}.{signature[:-4]}AAAA"),
        "changed claims": bearer(f"{head}.{_part(other)}.{signature}"),
        "algorithm none": bearer(f"{_part({'alg': 'none', 'typ': 'JWT', 'kid': KEY.kid})}.{body}."),
        "HMAC with the public key": bearer(_hmac_with_public_key()),
        "another account": bearer(KEY.sign(other)),
        "claims that are no object": bearer(f"{head}.{_part([1])}.{signature}"),
        "no base64": bearer("a.b.c"),
    }


def _part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def _hmac_with_public_key() -> str:
    signed = f"{_part({'alg': 'HS256', 'typ': 'JWT', 'kid': KEY.kid})}.{_part(claims())}"
    digest = hmac.new(KEY.public_pem, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"
