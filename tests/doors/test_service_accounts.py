import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm

from agent.clock import NS, unix_ns
from agent.core.ports import ConfigError
from agent.doors.identity import Denied, Identity
from agent.doors.service_accounts import LAPSE_SECONDS, LEEWAY_SECONDS, MAX_REMEMBERED, ServiceAccounts, parse_jwks
from agent.doors.settings import ServiceAccountSettings
from tests.support.credentials import (
    AUDIENCE,
    ISSUER,
    MISSING,
    Projected,
    SigningKey,
    jwks,
    put,
    service_account_token,
)
from tests.support.credentials import (
    claims as claims_at,
)

KEY, ELLIPTIC = SigningKey.rsa("key-1"), SigningKey.elliptic("key-ec")
STRANGER = SigningKey.rsa("stranger")
NOW = unix_ns() // NS - 86_400  # not the real clock's instant: who mixes the two shall notice
claims = partial(claims_at, now_ns=NOW * NS)


class Clocks:
    """Wall clock and boot clock that go together, from now on."""

    def __init__(self) -> None:
        self.unix = NOW * NS
        self.boot = 5 * NS

    def later(self, seconds: float) -> None:
        self.unix += int(seconds * NS)
        self.boot += int(seconds * NS)


def doors(file: Path, clocks: Clocks | None = None, **more: Any) -> ServiceAccounts:
    at = clocks or Clocks()
    accounts = [
        {"namespace": "inference", "name": "engineroom-sidecar", "scopes": ["ingest"]},
        {"namespace": "inference", "name": "acme", "scopes": ["ingest", "cost"], "tenant": "acme"},
        {"namespace": "team-a", "name": "*", "scopes": ["ingest"], "tenant": "team-a"},
        {"namespace": "team-a", "name": "reader", "scopes": ["cost"], "tenant": "team-a"},
    ]
    settings = ServiceAccountSettings(
        **{"jwks_file": file, "issuer": ISSUER, "audience": AUDIENCE, "accounts": accounts} | more
    )
    return ServiceAccounts(settings, key="api.auth.service_accounts", unix_ns=lambda: at.unix, boot_ns=lambda: at.boot)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return put(tmp_path / "jwks.json", jwks(KEY, ELLIPTIC))


def verify(accounts: ServiceAccounts, token: str) -> Identity:
    raw = token.encode()
    return accounts.verify(raw, hashlib.sha256(raw).digest())


def segment(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def by_hand(header: dict[str, Any], payload: Any, sign: Callable[[bytes], bytes] = lambda _: b"") -> str:
    """A token that a library would refuse to make."""
    signed = f"{segment(header)}.{segment(payload)}"
    return f"{signed}.{segment(sign(signed.encode()))}"


@pytest.mark.parametrize("key", [KEY, ELLIPTIC], ids=lambda key: key.algorithm)
def test_a_good_token_tells_account_and_pod(file: Path, key: SigningKey) -> None:
    assert verify(doors(file), key.sign(claims(pod="llm-7"))) == Identity(
        name="inference/engineroom-sidecar", kind="service_account", scopes=frozenset({"ingest"}), pod="llm-7"
    )


def test_the_entry_of_an_account_counts_before_that_of_its_namespace(file: Path) -> None:
    accounts = doors(file)
    assert verify(accounts, service_account_token(KEY, "inference", "acme", now_ns=NOW * NS)).tenant == "acme"
    reader = verify(accounts, service_account_token(KEY, "team-a", "reader", now_ns=NOW * NS))
    anyone = verify(accounts, service_account_token(KEY, "team-a", "default", now_ns=NOW * NS))
    assert (reader.scopes, anyone.scopes) == ({"cost"}, {"ingest"})
    assert reader.tenant == anyone.tenant == "team-a"


@pytest.mark.parametrize("account", [("inference", "default"), ("team-b", "reader"), ("team-a", "*"), ("", "reader")])
def test_a_good_token_of_another_account_is_known_and_refused(file: Path, account: tuple[str, str]) -> None:
    with pytest.raises(Denied) as refused:
        verify(doors(file), service_account_token(KEY, *account, now_ns=NOW * NS))
    assert refused.value.status == 403


def bound(**changes: Any) -> dict[str, Any]:
    made = claims()["kubernetes.io"] | changes
    return {"kubernetes.io": {name: value for name, value in made.items() if value is not MISSING}}


def test_a_token_that_is_bound_to_no_pod_has_none(file: Path) -> None:
    assert verify(doors(file), KEY.sign(claims(**bound(pod=MISSING)))).pod == ""


def hs256(secret: bytes) -> Callable[[bytes], bytes]:
    return lambda signed: hmac.new(secret, signed, "sha256").digest()


def public_der() -> bytes:
    return KEY.private_key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


GOOD = KEY.sign(claims())
HEAD, BODY, SIGNATURE = GOOD.split(".")
OF_ANOTHER_ACCOUNT = segment(claims(account="acme"))

FORGED = {
    "algorithm none": by_hand({"alg": "none", "kid": "key-1"}, claims()),
    "algorithm None": by_hand({"alg": "None", "kid": "key-1"}, claims()),
    "none with a signature": f"{segment({'alg': 'none', 'kid': 'key-1'})}.{BODY}.{SIGNATURE}",
    "no algorithm": by_hand({"kid": "key-1"}, claims()),
    "algorithm is a list": by_hand({"kid": "key-1", "alg": ["RS256"]}, claims()),
    "HS256 with the public key as PEM": by_hand({"alg": "HS256", "kid": "key-1"}, claims(), hs256(KEY.public_pem)),
    "HS256 with the public key as DER": by_hand({"alg": "HS256", "kid": "key-1"}, claims(), hs256(public_der())),
    "HS256 with the modulus": by_hand({"alg": "HS256", "kid": "key-1"}, claims(), hs256(KEY.jwk()["n"].encode())),
    "HS256 with nothing": by_hand({"alg": "HS256", "kid": "key-1"}, claims(), hs256(b"")),
    "RS512 where the key says RS256": jwt.encode(claims(), KEY.private_key, "RS512", headers={"kid": "key-1"}),
    "ES256 header on an RSA key": ELLIPTIC.sign(claims(), headers={"kid": "key-1"}),
    "RSA signature under the EC key's id": KEY.sign(claims(), headers={"kid": "key-ec"}),
    "zeros as EC signature": by_hand({"alg": "ES256", "kid": "key-ec"}, claims(), lambda _: bytes(64)),
    "wrong key under a known id": STRANGER.sign(claims(), headers={"kid": "key-1"}),
    "unknown key id": STRANGER.sign(claims()),
    "no key id": jwt.encode(claims(), KEY.private_key, "RS256"),
    "key id is a number": by_hand({"alg": "RS256", "kid": 1}, claims()),
    "key id is a path": KEY.sign(claims(), headers={"kid": "../../../../dev/null"}),
    "brings its own key": STRANGER.sign(claims(), headers={"kid": "key-1", "jwk": STRANGER.jwk()}),
    "says where its key is": STRANGER.sign(claims(), headers={"jku": "http://127.0.0.1:1/jwks"}),
    "unknown critical header": KEY.sign(claims(), headers={"crit": ["exp"], "exp": 1}),
    "unencoded payload": by_hand({"alg": "RS256", "kid": "key-1", "b64": False, "crit": ["b64"]}, claims()),
    "other claims under a good signature": f"{HEAD}.{OF_ANOTHER_ACCOUNT}.{SIGNATURE}",
    "no signature": f"{HEAD}.{BODY}.",
    "half a signature": f"{HEAD}.{BODY}.{SIGNATURE[:100]}",
    "the signature's last bits changed": f"{HEAD}.{BODY}.{SIGNATURE[:-1]}{'A' if SIGNATURE[-1] != 'A' else 'B'}",
    "a signature and more": f"{GOOD}AAAA",
    "padding": f"{HEAD}==.{BODY}.{SIGNATURE}",
    "two dots only": "..",
    "garbage": "a.b.c",
    "garbage base64": "!!!!.%%%%.....",
    "spaces": f"{HEAD} .{BODY}.{SIGNATURE}",
    "header is a list": f"{segment([])}.{BODY}.{SIGNATURE}",
    "header is nested deeply": f"{segment(b'[' * 2000)}.{BODY}.{SIGNATURE}",
    "header is not UTF-8": f"{segment(bytes(range(128, 256)))}.{BODY}.{SIGNATURE}",
    "long": f"{HEAD}.{'A' * 3000}.{SIGNATURE}",
    "Unicode": "ключ.ключ.ключ",
}


@pytest.mark.parametrize("case", FORGED)
def test_a_forged_token_is_refused_without_a_hint(file: Path, case: str) -> None:
    with pytest.raises(Denied, match=r"^the token's signature is not one of this cluster$") as refused:
        verify(doors(file), FORGED[case])
    assert refused.value.status == 401


@pytest.mark.parametrize("token", [f"{HEAD}.{'A' * 15000}.{SIGNATURE}", KEY.sign(claims(more="x" * 3000))])
def test_a_huge_token_is_refused_before_any_work(file: Path, token: str) -> None:
    with pytest.raises(Denied, match="too long"):
        verify(doors(file), token)


UNFIT: list[tuple[str, dict[str, Any], str]] = [
    ("expired", {"exp": NOW - LEEWAY_SECONDS}, "expired"),
    ("expired long ago", {"exp": 0}, "expired"),
    ("not yet valid", {"nbf": NOW + LEEWAY_SECONDS + 1}, "not valid yet"),
    ("issued in the future", {"iat": NOW + LEEWAY_SECONDS + 1}, "not valid yet"),
    ("wrong audience", {"aud": ["https://kubernetes.default.svc"]}, "another audience"),
    ("audience as part of a longer one", {"aud": [AUDIENCE + "2"]}, "another audience"),
    ("audience as part of a text", {"aud": f"{AUDIENCE} and others"}, "another audience"),
    ("no audiences", {"aud": []}, "another audience"),
    ("wrong issuer", {"iss": "https://elsewhere.example"}, "another issuer"),
    ("issuer with a slash more", {"iss": ISSUER + "/"}, "another issuer"),
    ("subject of another account", {"sub": "system:serviceaccount:inference:acme"}, "different accounts"),
    ("subject of another namespace", {"sub": "system:serviceaccount:team-a:engineroom-sidecar"}, "different accounts"),
    ("subject is no service account", {"sub": "system:node:node-1"}, "different accounts"),
    ("claims of another account", bound(serviceaccount={"name": "acme"}), "different accounts"),
    ("claims of another namespace", bound(namespace="team-a"), "different accounts"),
    *[
        (f"without {name}", {name: MISSING}, "not that of a service account")
        for name in ("iss", "aud", "sub", "exp", "nbf", "iat", "kubernetes.io")
    ],
    ("without a namespace", bound(namespace=MISSING), "not that of a service account"),
    ("without an account", bound(serviceaccount=MISSING), "not that of a service account"),
    ("pod without a name", bound(pod={}), "not that of a service account"),
    ("exp is text", {"exp": "9999999999"}, "not that of a service account"),
    ("exp is null", {"exp": None}, "not that of a service account"),
    ("exp is true", {"exp": True}, "not that of a service account"),
    ("exp is infinite", {"exp": float("inf")}, "not that of a service account"),
    ("exp is no number", {"exp": float("nan")}, "not that of a service account"),
    ("aud is an object", {"aud": {AUDIENCE: 1}}, "not that of a service account"),
    ("aud holds a number", {"aud": [1, AUDIENCE]}, "not that of a service account"),
]


@pytest.mark.parametrize(("case", "changes", "said"), UNFIT, ids=[case for case, _, _ in UNFIT])
def test_a_well_signed_token_that_does_not_fit_is_refused(
    file: Path, case: str, changes: dict[str, Any], said: str
) -> None:
    payload = json.dumps({**claims(), **{k: v for k, v in changes.items() if v is not MISSING}})
    kept = {k: v for k, v in json.loads(payload).items() if changes.get(k) is not MISSING}
    token = jwt.PyJWS().encode(json.dumps(kept).encode(), KEY.private_key, "RS256", headers={"kid": "key-1"})
    with pytest.raises(Denied, match=said) as refused:
        verify(doors(file), token)
    assert refused.value.status == 401


@pytest.mark.parametrize("payload", [b"", b"[]", b"null", b"{", b"[" * 2500, b"\xff\xfe", b'{"iss": "\xff"}'])
def test_a_well_signed_payload_that_is_no_claims_is_refused(file: Path, payload: bytes) -> None:
    token = jwt.PyJWS().encode(payload, KEY.private_key, "RS256", headers={"kid": "key-1"})
    with pytest.raises(Denied, match="not that of a service account"):
        verify(doors(file), token)


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": NOW - LEEWAY_SECONDS + 1},
        {"nbf": NOW + LEEWAY_SECONDS, "iat": NOW + LEEWAY_SECONDS},
        {"aud": AUDIENCE},
        {"aud": ["other", AUDIENCE]},
        {"exp": 10**40},
    ],
)
def test_clocks_may_differ_a_little_and_audiences_be_several(file: Path, changes: dict[str, Any]) -> None:
    assert verify(doors(file), KEY.sign(claims(**changes))).pod == "llm-0"


def test_a_remembered_token_ends_with_its_time(file: Path) -> None:
    clocks = Clocks()
    accounts = doors(file, clocks)
    token = KEY.sign(claims(exp=NOW + 5))
    assert verify(accounts, token) is verify(accounts, token)
    clocks.later(5 + LEEWAY_SECONDS - 1)
    assert verify(accounts, token)
    clocks.later(1)
    with pytest.raises(Denied, match="expired"):
        verify(accounts, token)


def test_a_token_is_verified_anew_after_a_minute(file: Path) -> None:
    clocks = Clocks()
    accounts = doors(file, clocks)
    first = verify(accounts, GOOD)
    clocks.later(59)
    assert verify(accounts, GOOD) is first
    clocks.later(1)
    again = verify(accounts, GOOD)
    assert again == first
    assert again is not first


def test_few_tokens_are_remembered(file: Path) -> None:
    accounts = doors(file)
    keys = accounts._jwks.current()
    for number in range(MAX_REMEMBERED + 5):
        token = ELLIPTIC.sign(claims(jti=str(number)))
        verify(accounts, token)
    assert len(keys.remembered) == MAX_REMEMBERED


def test_a_key_that_is_taken_away_ends_what_it_signed_and_a_new_one_counts(tmp_path: Path) -> None:
    clocks = Clocks()
    volume = Projected(tmp_path / "volume", jwks=jwks(KEY))
    accounts = doors(volume / "jwks", clocks)
    assert verify(accounts, GOOD)
    later = STRANGER.sign(claims())
    volume.update(jwks=jwks(STRANGER))
    clocks.later(0.5)
    with pytest.raises(Denied):  # not looked at yet
        verify(accounts, later)
    assert verify(accounts, GOOD)
    clocks.later(0.5)
    assert verify(accounts, later)
    with pytest.raises(Denied):
        verify(accounts, GOOD)


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"keys": []}'])
def test_a_broken_key_file_counts_as_none_after_a_while(file: Path, content: bytes | None) -> None:
    clocks = Clocks()
    accounts = doors(file, clocks)
    assert verify(accounts, GOOD)
    file.unlink() if content is None else put(file, content)
    clocks.later(LAPSE_SECONDS - 1)
    assert verify(accounts, GOOD)
    assert accounts.errors[0].startswith("api.auth.service_accounts.jwks_file: ")
    clocks.later(1)
    with pytest.raises(Denied):
        verify(accounts, GOOD)
    put(file, jwks(KEY))
    clocks.later(1)
    assert verify(accounts, GOOD)
    assert accounts.errors == ()


def key_file(**changes: Any) -> bytes:
    entry = {k: v for k, v in (KEY.jwk() | changes).items() if v is not MISSING}
    return json.dumps({"keys": [entry]}).encode()


def test_a_key_without_algorithm_means_what_its_kind_means() -> None:
    assert parse_jwks(key_file(alg=MISSING, use=MISSING), "key")["key-1"][1] == "RS256"


def koblitz_key() -> dict[str, Any]:
    """A good public key on a curve that clusters do not use."""
    public = ec.generate_private_key(ec.SECP256K1()).public_key()
    return {**ECAlgorithm.to_jwk(public, as_dict=True), "kid": "k"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"keys": {}}',
        b'{"keys": []}',
        b"[" * 5000,
        b"\xff",
        KEY.public_pem,
        key_file(alg="HS256"),
        key_file(alg="ES256"),
        key_file(alg="none"),
        key_file(kid=MISSING),
        key_file(use="enc"),
        key_file(kty="oct", k="c2VjcmV0"),
        key_file(kty="what"),
        key_file(n="!!"),
        key_file(n=""),
        key_file(n=5),
        json.dumps({"keys": [SigningKey.rsa("small", bits=1024).jwk()]}).encode(),
        json.dumps({"keys": [ELLIPTIC.jwk() | {"x": "AAAA"}]}).encode(),
        json.dumps({"keys": [koblitz_key()]}).encode(),
    ],
)
def test_a_file_without_usable_keys_is_refused(content: bytes) -> None:
    with pytest.raises(ConfigError, match=r"^api\.jwks_file: the file must be a JSON Web Key Set"):
        parse_jwks(content, "api.jwks_file")


def test_usable_keys_count_beside_others() -> None:
    both = {"keys": [{"kty": "oct", "kid": "x", "k": "c2VjcmV0"}, KEY.jwk(), {"kty": "EC", "kid": "y", "crv": "P-1"}]}
    assert list(parse_jwks(json.dumps(both).encode(), "key")) == ["key-1"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(["kty", "kid", "alg", "use", "n", "e", "crv", "x", "y", "d", "k"]),
        st.sampled_from(["RSA", "EC", "OKP", "RS256", "ES256", "EdDSA", "P-256", "Ed25519", "AQAB", "a"]) | json_values,
    )
)
def test_whatever_is_in_a_key_file_is_refused_and_nothing_worse(entry: dict[str, Any]) -> None:
    try:
        found = parse_jwks(json.dumps({"keys": [entry]}).encode(), "key")
    except ConfigError:
        return
    assert len(found) == 1


@pytest.fixture(scope="module")
def shared_doors(tmp_path_factory: pytest.TempPathFactory) -> ServiceAccounts:
    return doors(put(tmp_path_factory.mktemp("keys") / "jwks", jwks(ELLIPTIC)))


@given(st.dictionaries(st.sampled_from(list(claims())), json_values))
def test_whatever_is_signed_is_denied_and_nothing_worse(shared_doors: ServiceAccounts, changes: dict[str, Any]) -> None:
    payload = json.dumps({**claims(aud="elsewhere"), **changes}).encode()
    token = jwt.PyJWS().encode(payload, ELLIPTIC.private_key, "ES256", headers={"kid": "key-ec"})
    with pytest.raises(Denied):
        verify(shared_doors, token)
