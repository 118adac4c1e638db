"""Makes keys, certificates and service account tokens for tests; nothing of the kind is ever kept in the repository.

Certificates: `make_ca()`, then `ca.issue("localhost")`, `ca.issue("scraper", client=True)`; `write(folder, name)` gives
the paths of the certificate and the key. Tokens: `SigningKey.rsa("one")`, `jwks(key)`, `key.sign(claims())`.
Requests: `bearer(text)`, `basic(text)`.
"""

import base64
import ipaddress
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from agent.clock import NS, unix_ns

ISSUER = "https://kubernetes.default.svc.cluster.local"
AUDIENCE = "engineroom"

MISSING: Any = object()
"""As the value of a claim: the token does not have it."""


def bearer(token: str) -> str:
    return f"Bearer {token}"


def basic(token: str, user: str = "engineroom") -> str:
    return "Basic " + base64.b64encode(f"{user}:{token}".encode()).decode("ascii")


# Certificates


@dataclass(frozen=True)
class Issued:
    """A certificate and its key, PEM."""

    certificate: bytes
    key: bytes

    def write(self, folder: Path, name: str = "tls") -> tuple[Path, Path]:
        """Write ``name.crt`` and ``name.key`` as one rename each; the two paths."""
        return put(folder / f"{name}.crt", self.certificate), put(folder / f"{name}.key", self.key)


@dataclass(frozen=True)
class Authority:
    """A certificate authority of one level."""

    certificate: x509.Certificate
    private_key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def write(self, folder: Path, name: str = "ca") -> Path:
        return put(folder / f"{name}.crt", self.pem)

    def issue(
        self,
        common_name: str = "localhost",
        *,
        client: bool = False,
        dns: tuple[str, ...] | None = None,
        uris: tuple[str, ...] = (),
        addresses: tuple[str, ...] | None = None,
        from_seconds: float = -3600,
        to_seconds: float = 3600,
    ) -> Issued:
        """A certificate valid from and to so many seconds from now.

        A server's (default) names localhost, 127.0.0.1 and ::1 beside `common_name`, unless told otherwise; a client's
        has only its common name, unless told otherwise.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.DNSName(n) for n in (() if client else (common_name, "localhost"))]
        if dns is not None:
            names = [x509.DNSName(n) for n in dns]
        names += [x509.UniformResourceIdentifier(n) for n in uris]
        at = addresses if addresses is not None else (() if client else ("127.0.0.1", "::1"))
        names += [x509.IPAddress(ipaddress.ip_address(a)) for a in at]
        usage = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
        builder = (
            _builder(common_name, self.certificate.subject, key.public_key(), from_seconds, to_seconds)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.private_key.public_key()), critical=False
            )
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        made = builder.sign(self.private_key, hashes.SHA256())
        return Issued(made.public_bytes(serialization.Encoding.PEM), _pem_of(key))


def make_ca(common_name: str = "engineroom test CA", *, to_seconds: float = 7200) -> Authority:
    """A new authority with a key of its own."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        _builder(common_name, subject, key.public_key(), -7200, to_seconds)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate, key)


def _builder(
    common_name: str, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, from_seconds: float, to_seconds: float
) -> x509.CertificateBuilder:
    now = datetime.fromtimestamp(unix_ns() // NS, UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(seconds=from_seconds))
        .not_valid_after(now + timedelta(seconds=to_seconds))
    )


def _pem_of(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


# Service account tokens


@dataclass(frozen=True)
class SigningKey:
    """What a cluster signs service account tokens with."""

    kid: str
    algorithm: str
    private_key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

    @classmethod
    def rsa(cls, kid: str = "key-1", *, bits: int = 2048) -> "SigningKey":
        return cls(kid, "RS256", _rsa(kid, bits))

    @classmethod
    def elliptic(cls, kid: str = "key-ec") -> "SigningKey":
        return cls(kid, "ES256", ec.generate_private_key(ec.SECP256R1()))

    @property
    def public_pem(self) -> bytes:
        return self.private_key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def jwk(self) -> dict[str, Any]:
        """The public half, as the cluster's ``/openid/v1/jwks`` shows it."""
        public = self.private_key.public_key()
        made: dict[str, Any] = (
            RSAAlgorithm.to_jwk(public, as_dict=True)
            if isinstance(public, rsa.RSAPublicKey)
            else ECAlgorithm.to_jwk(public, as_dict=True)
        )
        return {
            "kty": made["kty"],
            **{k: v for k, v in made.items() if k in ("n", "e", "crv", "x", "y")},
            "use": "sig",
            "kid": self.kid,
            "alg": self.algorithm,
        }

    def sign(self, payload: Mapping[str, Any], *, headers: Mapping[str, Any] | None = None) -> str:
        """A token. `headers` override those of the token, ``kid`` among them."""
        return jwt.encode(
            dict(payload),
            self.private_key,
            algorithm=self.algorithm,
            headers={"kid": self.kid, **(headers or {})},
        )


@cache
def _rsa(kid: str, bits: int) -> rsa.RSAPrivateKey:
    """One key for each kid in a test run: RSA keys are slow to make."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def jwks(*keys: SigningKey) -> bytes:
    """A JWKS file with the public halves of `keys`."""
    return json.dumps({"keys": [key.jwk() for key in keys]}).encode()


def claims(
    namespace: str = "inference",
    account: str = "engineroom-sidecar",
    pod: str = "llm-0",
    *,
    now_ns: int | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """Claims of a bound service account token, as Kubernetes makes them. `MISSING` leaves a claim out.

    The claim ``kubernetes.io`` is overridden with ``claims(**{"kubernetes.io": ...})``.
    """
    now = (unix_ns() if now_ns is None else now_ns) // NS
    made: dict[str, Any] = {
        "aud": [AUDIENCE],
        "exp": now + 3607,
        "iat": now,
        "nbf": now,
        "iss": ISSUER,
        "jti": "9f0f1f0c-6a2e-4a2d-8a53-1f3a5d2b7c11",
        "kubernetes.io": {
            "namespace": namespace,
            "node": {"name": "node-1", "uid": "0a4f5c1e-6c38-4f0b-8a0f-6f0c8d3e2b01"},
            "pod": {"name": pod, "uid": "5b1d7f0a-2f70-4c7e-9a3e-0c8d9e1f2a02"},
            "serviceaccount": {"name": account, "uid": "c2a9e8d7-1b3f-4e5a-8c6d-7f0e9d8c7b03"},
        },
        "sub": f"system:serviceaccount:{namespace}:{account}",
    }
    made |= overrides
    return {name: value for name, value in made.items() if value is not MISSING}


def service_account_token(
    key: SigningKey, namespace: str = "inference", account: str = "engineroom-sidecar", *, now_ns: int | None = None
) -> str:
    """A good token of one account."""
    return key.sign(claims(namespace, account, now_ns=now_ns))


# Files


def put(file: Path, content: bytes) -> Path:
    """Write a file as one rename, as careful programs do."""
    temporary = file.with_name(file.name + ".new")
    temporary.write_bytes(content)
    temporary.replace(file)
    return file


class Projected:
    """A folder that changes as a Kubernetes volume does: ``..data`` is a symbolic link that is swapped in one step."""

    def __init__(self, folder: Path, **files: bytes) -> None:
        self.folder = folder
        self.version = 0
        folder.mkdir(parents=True, exist_ok=True)
        self.update(**files)
        for name in files:
            (folder / name).symlink_to(Path("..data") / name)

    def update(self, **files: bytes) -> None:
        """All files at once; names of keyword arguments are the names of the files."""
        self.version += 1
        new = self.folder / f"..{self.version}"
        new.mkdir()
        for name, content in files.items():
            (new / name).write_bytes(content)
        link = self.folder / "..data_tmp"
        link.symlink_to(new.name)
        link.replace(self.folder / "..data")

    def __truediv__(self, name: str) -> Path:
        return self.folder / name


def random_token() -> str:
    """A static token as we advise people to make one: 32 random bytes, base64url."""
    return base64.urlsafe_b64encode(os.urandom(32)).decode("ascii").rstrip("=")
