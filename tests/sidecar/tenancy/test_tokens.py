import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.clock import NS
from agent.core.ports import ConfigError
from agent.doors.identity import Denied
from agent.doors.service_accounts import LEEWAY_SECONDS
from agent.sidecar.tenancy import tokens as tenancy_tokens
from agent.sidecar.tenancy.settings import AccountTenantSettings, JwtSettings
from agent.sidecar.tenancy.tokens import (
    MAX_TOKEN_BYTES,
    SignedTokens,
    Verified,
    of_cluster,
    of_provider,
)
from tests.support.credentials import MISSING, SigningKey, claims, jwks, put
from tests.support.tenancy import (
    CLUSTER,
    NOW,
    PROVIDER,
    Clocks,
    account_settings,
    jwt_settings,
    provider_token,
)

SECOND = NOW // NS
STRANGER = SigningKey.rsa("stranger")


def provider(folder: Path, clocks: Clocks | None = None, **more: Any) -> SignedTokens:
    at = clocks or Clocks()
    return of_provider(JwtSettings(**jwt_settings(folder, **more)), key="t.jwt", boot_ns=lambda: at.boot)


def cluster(folder: Path, **more: Any) -> SignedTokens:
    settings = AccountTenantSettings(**account_settings(folder, **more))
    return of_cluster(settings, key="t.service_accounts", boot_ns=lambda: 0)


def verify(tokens: SignedTokens, token: str, now_ns: int = NOW) -> Verified | None:
    raw = token.encode()
    return tokens.verify(raw, hashlib.sha256(raw).digest(), now_ns)


def test_a_good_token_names_its_tenant_and_its_end(tmp_path: Path) -> None:
    tokens = provider(tmp_path)
    expected = Verified("acme", (SECOND + 3600 + LEEWAY_SECONDS) * NS)
    assert verify(tokens, provider_token()) == expected
    assert verify(tokens, provider_token(aud=["other", "llm"], nbf=SECOND, iat=SECOND - 9, jti="x")) == expected


@pytest.mark.parametrize("key", [PROVIDER, SigningKey.elliptic("ec")])
def test_keys_of_both_kinds_verify(tmp_path: Path, key: SigningKey) -> None:
    settings = jwt_settings(tmp_path)
    put(settings["jwks_file"], jwks(STRANGER, key))
    tokens = of_provider(JwtSettings(**settings), key="t.jwt")
    found = verify(tokens, key.sign({"iss": "https://id.example", "aud": "llm", "exp": SECOND + 9, "tenant": "a b"}))
    assert found is not None
    assert found.tenant == "a b"


@pytest.mark.parametrize(
    ("claim", "payload", "tenant"),
    [
        ("org", {"org": "acme"}, "acme"),
        ("org", {"org": 42}, "42"),
        ("org.id", {"org": {"id": "acme"}}, "acme"),
        ("org.id", {"org": {"id": "acme"}, "org.id": "plain"}, "plain"),
        ("https://id.example/tenant", {"https://id.example/tenant": "acme"}, "acme"),
    ],
)
def test_the_claim_can_be_chosen(tmp_path: Path, claim: str, payload: dict[str, Any], tenant: str) -> None:
    found = verify(provider(tmp_path, claim=claim), provider_token(**payload))
    assert found is not None
    assert found.tenant == tenant


UNFIT: list[tuple[dict[str, Any], str]] = [
    ({"exp": SECOND - LEEWAY_SECONDS}, "expired"),
    ({"exp": 0}, "expired"),
    ({"exp": None}, "no end"),
    ({"exp": True}, "`exp` is no instant"),
    ({"exp": str(SECOND + 60)}, "`exp` is no instant"),
    ({"nbf": SECOND + LEEWAY_SECONDS + 1}, "not valid yet"),
    ({"nbf": "now"}, "`nbf` is no instant"),
    ({"iat": SECOND + LEEWAY_SECONDS + 1}, "not valid yet"),
    ({"iss": "https://id.example/"}, "another issuer"),
    ({"iss": None}, "another issuer"),
    ({"aud": "llm2"}, "another audience"),
    ({"aud": "llm and others"}, "another audience"),
    ({"aud": []}, "another audience"),
    ({"aud": [["llm"]]}, "another audience"),
    ({"aud": None}, "another audience"),
    ({"tenant": None}, "no claim `tenant`"),
    ({"tenant": ["acme"]}, "no claim `tenant`"),
    ({"tenant": True}, "no claim `tenant`"),
    ({"tenant": 1.5}, "no claim `tenant`"),
    ({"tenant": ""}, "no name"),
    ({"tenant": "x" * 65}, "no name"),
    ({"tenant": "a\nb"}, "no name"),
    ({"tenant": "ümlaut"}, "no name"),
]


@pytest.mark.parametrize(("changes", "said"), UNFIT)
def test_a_well_signed_token_that_does_not_fit_is_denied(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    token = jwt.PyJWS().encode(
        json.dumps(
            {"iss": "https://id.example", "aud": "llm", "exp": SECOND + 3600, "tenant": "acme"} | changes
        ).encode(),
        PROVIDER.private_key,
        "RS256",
        headers={"kid": "provider"},
    )
    with pytest.raises(Denied, match=said):
        verify(provider(tmp_path), token)


@pytest.mark.parametrize("exp", [1e300, 10**40, 1 << 62])
def test_an_end_far_away_stays_a_number_that_can_be_kept(tmp_path: Path, exp: float) -> None:
    found = verify(provider(tmp_path), provider_token(exp=exp))
    assert found is not None
    assert NOW < found.until_ns < 1 << 63


@pytest.mark.parametrize("payload", [b"", b"[]", b"null", b"{", b"[" * 2500, b"\xff\xfe"])
def test_a_well_signed_payload_that_is_no_claims_is_denied(tmp_path: Path, payload: bytes) -> None:
    token = jwt.PyJWS().encode(payload, PROVIDER.private_key, "RS256", headers={"kid": "provider"})
    with pytest.raises(Denied, match="cannot be read"):
        verify(provider(tmp_path), token)


def part(content: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()


GOOD = provider_token()
HEAD, BODY, SIGNATURE = GOOD.split(".")
FORGED = {
    "algorithm none": f"{part({'alg': 'none', 'kid': 'provider'})}.{BODY}.",
    "none with a signature": f"{part({'alg': 'none', 'kid': 'provider'})}.{BODY}.{SIGNATURE}",
    "another algorithm": jwt.encode({"tenant": "acme"}, PROVIDER.private_key, "RS512", headers={"kid": "provider"}),
    "another key under a known id": STRANGER.sign({"tenant": "acme"}, headers={"kid": "provider"}),
    "an unknown key": STRANGER.sign({"tenant": "acme"}),
    "brings its key": STRANGER.sign({"tenant": "acme"}, headers={"kid": "provider", "jwk": STRANGER.jwk()}),
    "no key id": jwt.encode({"tenant": "acme"}, PROVIDER.private_key, "RS256"),
    "other claims": f"{HEAD}.{part({'tenant': 'globex'})}.{SIGNATURE}",
    "no signature": f"{HEAD}.{BODY}.",
    "more": f"{GOOD}AAAA",
    "dots": "..",
    "garbage": "!!.%%.??",
    "deep": f"{base64.urlsafe_b64encode(b'[' * 2000).decode()}.{BODY}.{SIGNATURE}",
    "long": f"{HEAD}.{'A' * MAX_TOKEN_BYTES}.{SIGNATURE}",
}


@pytest.mark.parametrize("case", FORGED)
def test_a_token_of_somebody_else_is_a_stranger(tmp_path: Path, case: str) -> None:
    tokens = provider(tmp_path)
    assert verify(tokens, FORGED[case]) is None
    assert verify(tokens, FORGED[case]) is None


def test_accounts_are_tenants_by_namespace_or_name(tmp_path: Path) -> None:
    token = CLUSTER.sign(claims("team-a", "batch", now_ns=NOW))
    found = verify(cluster(tmp_path), token)
    assert found == Verified("team-a", (SECOND + 3607 + LEEWAY_SECONDS) * NS)
    named = verify(cluster(tmp_path, tenant="account"), token)
    assert named is not None
    assert named.tenant == "team-a/batch"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sub": "system:serviceaccount:team-a:other"}, "different accounts"),
        ({"sub": MISSING}, "different accounts"),
        ({"kubernetes.io": MISSING}, "not that of a service account"),
        ({"kubernetes.io": {"namespace": "team-a"}}, "not that of a service account"),
        ({"kubernetes.io": {"namespace": 5, "serviceaccount": {"name": "batch"}}}, "not that of a service account"),
        ({"aud": ["https://kubernetes.default.svc"]}, "another audience"),
    ],
)
def test_what_is_no_token_of_an_account_is_denied(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(Denied, match=said):
        verify(cluster(tmp_path), CLUSTER.sign(claims("team-a", "batch", now_ns=NOW, **changes)))


def test_a_name_that_is_too_long_is_not_cut(tmp_path: Path) -> None:
    token = CLUSTER.sign(claims("a" * 32, "b" * 32, now_ns=NOW))
    with pytest.raises(Denied, match="no name"):
        verify(cluster(tmp_path, tenant="account"), token)


class Counting:
    """Verifies as PyJWT does, and counts."""

    def __init__(self) -> None:
        self.jws = jwt.PyJWS()
        self.times = 0

    def decode_complete(self, *args: Any, **more: Any) -> Any:
        self.times += 1
        return self.jws.decode_complete(*args, **more)


@pytest.fixture
def counted(tmp_path: Path) -> tuple[SignedTokens, Counting]:
    tokens, counting = provider(tmp_path), Counting()
    tokens._jws = counting  # type: ignore[assignment]
    return tokens, counting


def test_a_token_is_verified_once_until_its_end(counted: tuple[SignedTokens, Counting]) -> None:
    tokens, counting = counted
    token = provider_token(exp=SECOND + 5)
    ends = NOW + (5 + LEEWAY_SECONDS) * NS
    assert verify(tokens, token) == verify(tokens, token, ends - 1)
    assert counting.times == 1
    with pytest.raises(Denied, match="expired"):
        verify(tokens, token, ends)


def test_a_forged_token_costs_one_verification(counted: tuple[SignedTokens, Counting]) -> None:
    tokens, counting = counted
    for _ in range(3):
        assert verify(tokens, FORGED["another key under a known id"]) is None
    assert counting.times == 1


def test_few_tokens_are_remembered_and_those_in_use_stay(
    counted: tuple[SignedTokens, Counting], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenancy_tokens, "MAX_REMEMBERED", 8)
    tokens, counting = counted
    for number in range(12):
        assert verify(tokens, GOOD)
        assert verify(tokens, provider_token(jti=str(number)))
        assert verify(tokens, f"{HEAD}.{BODY}.{number:04}") is None
    keys = tokens.watched.current()
    assert (len(keys.good), len(keys.strangers)) == (8, 8)
    assert counting.times == 1 + 12 + 12


def test_other_keys_end_what_the_old_ones_signed_and_know_who_was_a_stranger(tmp_path: Path) -> None:
    clocks = Clocks()
    tokens = provider(tmp_path, clocks)
    later = STRANGER.sign({"iss": "https://id.example", "aud": "llm", "exp": SECOND + 60, "tenant": "acme"})
    assert verify(tokens, GOOD)
    assert verify(tokens, later) is None
    put(tmp_path / "provider.jwks", jwks(STRANGER))
    clocks.later(1)
    assert verify(tokens, later)
    assert verify(tokens, GOOD) is None


@pytest.mark.parametrize("make", [provider, cluster])
def test_a_file_without_keys_is_refused(tmp_path: Path, make: Callable[..., SignedTokens]) -> None:
    file = put(tmp_path / "empty", b'{"keys": []}')
    with pytest.raises(ConfigError, match=r"^t\.\w+\.jwks_file: the file must be a JSON Web Key Set"):
        make(tmp_path, jwks_file=file)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def of_ec(tmp_path_factory: pytest.TempPathFactory) -> SignedTokens:
    return cluster(tmp_path_factory.mktemp("keys"))


@given(st.dictionaries(st.sampled_from(list(claims())), json_values, min_size=1))
def test_whatever_is_signed_is_a_tenant_or_denied_and_nothing_worse(
    of_ec: SignedTokens, changes: dict[str, Any]
) -> None:
    payload = json.dumps(claims("team-a", now_ns=NOW) | changes).encode()
    token = jwt.PyJWS().encode(payload, CLUSTER.private_key, "ES256", headers={"kid": "cluster"})
    try:
        found = verify(of_ec, token)
    except Denied:
        return
    assert found is not None
    assert found.tenant == "team-a"
