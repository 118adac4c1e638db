import gc
import hashlib
import itertools
import os
import re
import subprocess
import traceback
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jwt import PyJWTError
from structlog.testing import capture_logs

from agent.clock import NS
from agent.core.metrics.samples import Sample
from agent.core.ports import ConfigError
from agent.doors.identity import Denied
from agent.doors.service_accounts import LEEWAY_SECONDS
from agent.sidecar.asks import Caller, Refusal
from agent.sidecar.tenancy.hops import REPEATED
from agent.sidecar.tenancy.keys import parse_keys
from agent.sidecar.tenancy.names import OTHER
from agent.sidecar.tenancy.settings import UNIX, TenancySettings
from agent.sidecar.tenancy.tenancy import RECHECK_NS, UNCHANGED, Tenancy
from tests.support.credentials import claims, jwks, put
from tests.support.tenancy import (
    CLUSTER,
    FAR,
    KEY,
    NOW,
    OTHER_KEY,
    PEER,
    PROVIDER,
    Clocks,
    account_settings,
    asked,
    digest,
    jwt_settings,
    keys_file,
    provider_token,
    tenancy,
    who,
)

NOBODY = Caller()
ACME = Caller("acme", "key", None)
OURS = {"x_engineroom_tenant": "team-a"}
SAID = Caller("team-a", "header", None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for files that no test changes."""
    return tmp_path_factory.mktemp("tenancy")


def all_sources(folder: Path, clocks: Clocks | None = None, **more: Any) -> Tenancy:
    return tenancy(
        clocks,
        keys_file=keys_file(folder),
        jwt=jwt_settings(folder),
        service_accounts=account_settings(folder),
        **{"trusted_hops": ["10.0.0.0/24"], "body_user": "anybody"} | more,
    )


# With nothing configured: as before there was tenancy


@pytest.mark.parametrize(
    ("loopback", "trust", "believed"),
    [
        (True, None, True),
        (False, None, False),
        (True, False, False),
        (False, True, True),
        (True, True, True),
        (False, False, False),
    ],
)
def test_by_default_the_tenant_header_is_believed_as_its_settings_say(
    loopback: bool, trust: bool | None, believed: bool
) -> None:
    of = tenancy(loopback=loopback, trust_tenant_header=trust)
    for peer in (FAR, "127.0.0.1", UNIX, "unknown"):
        assert who(of, peer, **OURS) == (SAID if believed else NOBODY)
    assert of.headers == ({b"x-engineroom-tenant"} if believed else frozenset())
    assert of.of_user(NOBODY, "acme", FAR) is NOBODY
    assert who(of, authorization=f"Bearer {KEY}", helicone_user_id="u", x_litellm_customer_id="c") == NOBODY
    assert (of.version, of.errors) == (1, ())


def test_the_headers_name_is_a_setting() -> None:
    of = tenancy(loopback=True, tenant_header="X-Team")
    assert who(of, x_team="a", **OURS) == Caller("a", "header")


@pytest.mark.parametrize("value", ["x" * 65, "a\x01b", "ü", "acme\0globex"])
def test_an_unusable_name_is_nobodys_and_not_for_the_body_to_say(value: str) -> None:
    of = tenancy(loopback=True, body_user="anybody")
    caller = who(of, x_engineroom_tenant=value)
    assert caller.tenant is None
    assert of.of_user(caller, "acme", FAR).tenant is None


# Keys


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer   {KEY} "},
        {"x_api_key": KEY},
        {"x_api_key": f"Bearer {KEY}"},
        {"api_key": KEY},
        {"authorization": "Bearer engine-key", "x_api_key": KEY},
        {"authorization": "Basic dTpw", "api_key": KEY},
        {"authorization": f"Bearer {KEY}", "x_api_key": OTHER_KEY},
    ],
)
def test_a_known_key_names_its_tenant(folder: Path, headers: dict[str, str]) -> None:
    assert who(tenancy(keys_file=keys_file(folder)), **headers) == ACME


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": KEY},
        {"authorization": f"Token {KEY}"},
        {"authorization": f"Bearer {OTHER_KEY}"},
        {"authorization": f"Bearer {KEY}x"},
        {"authorization": f"Bearer {KEY[:-1]}"},
        {"authorization": f"Bearer {KEY.upper()}"},
        {"authorization": f"Bearer {digest(KEY)}"},
        {"authorization": f"Bearer {KEY}\0Bearer {KEY}"},
        {"authorization": f"Bearer {KEY}, Bearer {KEY}"},
        {"x_api_key": "x" * 20_000},
        {"x_goog_api_key": KEY},
    ],
)
def test_what_is_no_known_key_names_nobody(folder: Path, headers: dict[str, str]) -> None:
    assert who(tenancy(keys_file=keys_file(folder)), **headers).tenant is None
    refused = asked(tenancy(keys_file=keys_file(folder), without_tenant="refuse"), **headers)
    assert isinstance(refused, Refusal)
    assert (refused.status, refused.code) == (401, "invalid_api_key")


def test_other_headers_may_carry_keys(folder: Path) -> None:
    of = tenancy(keys_file=keys_file(folder), key_headers=["Helicone-Auth", "x-litellm-api-key"])
    assert who(of, helicone_auth=f"Bearer {KEY}") == who(of, x_litellm_api_key=KEY) == ACME
    assert who(of, authorization=f"Bearer {KEY}") == NOBODY


def test_the_first_known_key_counts(tmp_path: Path) -> None:
    file = keys_file(tmp_path, f"{digest(KEY)} acme", f"{digest(OTHER_KEY)} globex")
    of = tenancy(keys_file=file)
    assert who(of, authorization=f"Bearer {OTHER_KEY}", x_api_key=KEY).tenant == "globex"


def test_a_key_ends_with_its_time(tmp_path: Path) -> None:
    file = keys_file(tmp_path, f"{digest(KEY)} expires=2020-01-01T00:00:00Z acme")
    ends = 1_577_836_800 * NS
    of = tenancy(keys_file=file, without_tenant="refuse")
    assert who(of, now_ns=ends - 1, x_api_key=KEY) == Caller("acme", "key", ends)
    refused = asked(of, now_ns=ends, x_api_key=KEY)
    assert isinstance(refused, Refusal)
    assert refused.message == "this API key has expired"


@pytest.mark.parametrize(("length", "tenant"), [(16_384, "acme"), (16_385, None)])
def test_a_key_has_a_longest_length(tmp_path: Path, length: int, tenant: str | None) -> None:
    of = tenancy(keys_file=keys_file(tmp_path, f"{digest('k' * length)} acme"))
    assert who(of, x_api_key="k" * length).tenant == tenant


# Tokens


def test_tokens_name_their_tenants(folder: Path) -> None:
    of = all_sources(folder)
    ends = (NOW // NS + 3600 + LEEWAY_SECONDS) * NS
    assert who(of, authorization=f"Bearer {provider_token()}") == Caller("acme", "jwt", ends)
    account = CLUSTER.sign(claims("team-b", now_ns=NOW, exp=NOW // NS + 3600))
    assert who(of, authorization=f"Bearer {account}") == Caller("team-b", "service_account", ends)
    assert who(of, x_api_key=provider_token()).source == "jwt"


def test_one_set_of_keys_may_serve_both_kinds_of_tokens(tmp_path: Path) -> None:
    both = put(tmp_path / "both", jwks(CLUSTER))
    of = tenancy(
        jwt={"jwks_file": both, "issuer": "https://id.example", "audience": "llm"},
        service_accounts=account_settings(tmp_path, jwks_file=both),
    )
    assert who(of, x_api_key=CLUSTER.sign(claims("team-b", now_ns=NOW))).tenant == "team-b"


def test_a_token_that_is_not_good_is_told_why(folder: Path) -> None:
    of = all_sources(folder, without_tenant="refuse", body_user="never")
    expired = asked(of, authorization=f"Bearer {provider_token(exp=0)}")
    assert isinstance(expired, Refusal)
    assert expired.message == "this token is not good here: it has expired"
    forged = asked(of, authorization=f"Bearer {provider_token()}x")
    assert isinstance(forged, Refusal)
    assert forged.message == "this API key or token is not known here"


def test_who_showed_a_token_that_is_not_good_yet_is_asked_again_soon(folder: Path) -> None:
    of = all_sources(folder)
    token = provider_token(nbf=NOW // NS + 60)
    caller = who(of, x_api_key=token)
    assert caller == Caller(None, None, NOW + RECHECK_NS)
    assert who(of, PEER, x_api_key=token, **OURS) == Caller("team-a", "header", NOW + RECHECK_NS)
    assert of.of_user(caller, "u", FAR) == Caller("u", "user", NOW + RECHECK_NS)
    assert who(of, now_ns=NOW + 60 * NS, x_api_key=token).tenant == "acme"


# Headers


def test_headers_of_a_trusted_hop_only_are_believed(folder: Path) -> None:
    of = all_sources(folder)
    assert who(of, PEER, **OURS) == SAID
    assert who(of, FAR, **OURS) == NOBODY
    assert of.headers == {b"authorization", b"x-api-key", b"api-key", b"x-engineroom-tenant"}


def test_a_unix_socket_may_be_trusted() -> None:
    of = tenancy(trusted_hops=[UNIX])
    assert (who(of, UNIX, **OURS), who(of, "127.0.0.1", **OURS)) == (SAID, NOBODY)


def test_credentials_count_before_headers_and_headers_before_the_body(folder: Path) -> None:
    of = all_sources(folder)
    assert who(of, PEER, x_api_key=KEY, **OURS) == ACME
    assert of.of_user(who(of, PEER, **OURS), "u", PEER) == SAID
    assert who(of, PEER, x_api_key=OTHER_KEY, **OURS).tenant == "team-a"


def test_headers_of_helicone_and_litellm_are_understood() -> None:
    of = tenancy(
        trusted_hops=["10.0.0.0/24"],
        helicone={"property": "Tenant", "user_id": True},
        litellm={"team": "id", "tag_prefix": "tenant:", "customer": True},
    )
    assert who(of, PEER, helicone_property_tenant="a").tenant == "a"
    assert who(of, PEER, helicone_user_id="jo@example.com").tenant == "jo@example.com"
    assert who(of, PEER, x_litellm_tags="prod,tenant:b").tenant == "b"
    assert who(of, PEER, x_litellm_end_user_id="c").tenant == "c"
    assert of.identify({b"x-litellm-user_api_key_team_id": b"t1"}, PEER, NOW) == Caller("t1", "header")
    assert who(of, FAR, helicone_user_id="jo@example.com", x_litellm_customer_id="c") == NOBODY


# The body's user


@pytest.mark.parametrize(
    ("setting", "peer", "tenant"),
    [
        ("never", PEER, None),
        ("never", FAR, None),
        ("trusted", PEER, "jo"),
        ("trusted", FAR, None),
        ("anybody", PEER, "jo"),
        ("anybody", FAR, "jo"),
    ],
)
def test_the_bodys_user_names_the_tenant_where_it_may(setting: str, peer: str, tenant: str | None) -> None:
    of = tenancy(trusted_hops=["10.0.0.0/24"], body_user=setting)
    assert of.of_user(NOBODY, " jo ", peer) == Caller(tenant, tenant and "user")


@pytest.mark.parametrize("user", [None, "", "  ", "x" * 65, "ü", "a\nb", "acme"])
def test_a_user_that_is_no_name_or_has_a_key_of_its_own_is_nobody(folder: Path, user: str | None) -> None:
    assert all_sources(folder).of_user(NOBODY, user, FAR) is NOBODY


def test_users_may_be_kept_apart_by_a_prefix(folder: Path) -> None:
    of = all_sources(folder, body_user_prefix="user:")
    assert of.of_user(NOBODY, "acme", FAR).tenant == "user:acme"
    assert of.of_user(NOBODY, "x" * 60, FAR) is NOBODY
    assert of.of_user(NOBODY, "  ", FAR) is NOBODY


# Few names


def test_further_tenants_are_grouped_and_those_with_keys_never(folder: Path) -> None:
    of = all_sources(folder, max_tenants=2)
    assert [who(of, PEER, x_engineroom_tenant=name).tenant for name in "abcab"] == ["a", "b", OTHER, "a", "b"]
    assert who(of, x_api_key=KEY).tenant == who(of, PEER, x_engineroom_tenant="acme").tenant == "acme"
    assert of.of_user(NOBODY, "d", FAR) == Caller(OTHER, "user")
    token = CLUSTER.sign(claims("team-b", now_ns=NOW))
    assert who(of, x_api_key=token)[:2] == (OTHER, "service_account")
    assert values(of, "engineroom_sidecar_tenants") == [3]
    assert values(of, "engineroom_sidecar_tenants_grouped_total") == [3]


def values(of: Tenancy, name: str) -> list[float]:
    return [sample.value for sample in of.samples("n") if sample.key.name == name]


# Refusals


@pytest.mark.parametrize("trust", [{"trusted_hops": ["10.0.0.0/24"]}, {"loopback": True}])
def test_without_a_tenant_a_request_may_be_refused(trust: dict[str, Any]) -> None:
    of = tenancy(without_tenant="refuse", **trust)
    assert who(of, PEER, **OURS) == SAID
    refused = asked(of, PEER)
    assert isinstance(refused, Refusal)
    assert refused == Refusal(401, "invalid_api_key", "the tenant of this request is not known: none was named")
    assert isinstance(asked(of, PEER, x_engineroom_tenant="x" * 65), Refusal)


def test_a_door_without_a_key_hole_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^sidecar\.tenancy\.without_tenant: .*nobody could come in"):
        tenancy(without_tenant="refuse")


@pytest.mark.parametrize("trust", [True, False])
def test_trust_is_said_once(trust: bool) -> None:
    with pytest.raises(ConfigError, match=r"^sidecar\.tenancy\.trusted_hops: "):
        tenancy(trusted_hops=["10.0.0.0/8"], trust_tenant_header=trust)


def test_refusals_are_counted_by_reason_and_seldom_logged(folder: Path) -> None:
    clocks = Clocks()
    of = all_sources(folder, clocks, without_tenant="refuse", body_user="never")
    with capture_logs() as logs:
        for _ in range(50):
            asked(of, FAR, x_api_key=OTHER_KEY)
            asked(of, FAR)
        asked(of, FAR, x_api_key=provider_token(exp=0))
        asked(of, "192.0.2.2")
    assert [(entry["event"], entry["peer"]) for entry in logs] == [("request_refused", FAR)] * 3 + [
        ("request_refused", "192.0.2.2")
    ]
    found = {sample.key.get("reason"): sample.value for sample in rejected(of)}
    assert found == {"unknown": 50, "missing": 51, "unfit": 1}


def rejected(of: Tenancy) -> list[Sample]:
    return [sample for sample in of.samples("") if sample.key.name == "engineroom_sidecar_credentials_rejected_total"]


# What the engine gets


def test_what_is_ours_is_taken_out_and_nothing_else(tmp_path: Path) -> None:
    of = tenancy(keys_file=keys_file(tmp_path), loopback=True)
    assert of.rewrite(ACME).drop == {b"authorization", b"x-api-key", b"api-key"}
    assert of.rewrite(ACME).add == ()
    assert of.rewrite(ACME) is of.rewrite(Caller("b", "jwt"))
    for caller in (NOBODY, SAID, Caller("u", "user")):
        assert of.rewrite(caller) is UNCHANGED
    kept = tenancy(keys_file=keys_file(tmp_path), credentials_to_engine="keep")
    assert kept.rewrite(ACME) is UNCHANGED


def test_the_engines_own_key_takes_the_place(tmp_path: Path) -> None:
    clocks = Clocks()
    file = put(tmp_path / "engine", b"token-abc123\n")
    of = tenancy(clocks, keys_file=keys_file(tmp_path), key_headers=["x-api-key"], engine_key_file=file)
    assert of.rewrite(ACME).add == (b"authorization: Bearer token-abc123",)
    assert of.rewrite(ACME).drop == {b"authorization", b"x-api-key"}
    assert "abc123" not in repr(of.rewrite(ACME))
    put(file, b"another-key")
    clocks.later()
    assert of.version == 2
    assert of.rewrite(ACME).add == (b"authorization: Bearer another-key",)


# Files


def test_a_changed_file_counts_soon(tmp_path: Path) -> None:
    clocks = Clocks()
    file = keys_file(tmp_path)
    of = tenancy(clocks, keys_file=file, max_tenants=1, trusted_hops=["10.0.0.0/24"])
    assert who(of, x_api_key=KEY) == ACME
    keys_file(tmp_path, f"{digest(OTHER_KEY)} globex")
    clocks.later(0.5)
    assert (of.version, who(of, x_api_key=KEY)) == (1, ACME)
    clocks.later(0.5)
    assert of.version == 2
    assert of.version == 2
    assert who(of, x_api_key=KEY).tenant is None
    assert who(of, x_api_key=OTHER_KEY).tenant == "globex"


@pytest.mark.parametrize("content", [None, b"", b"sk-in-plain-text acme", b"\xff"])
def test_while_a_file_cannot_be_used_its_last_content_counts(tmp_path: Path, content: bytes | None) -> None:
    clocks = Clocks()
    file = keys_file(tmp_path)
    of = tenancy(clocks, keys_file=file)
    file.unlink() if content is None else put(file, content)
    clocks.later(3600)
    assert (of.version, who(of, x_api_key=KEY)) == (1, ACME)
    (error,) = of.errors
    assert error.startswith("sidecar.tenancy.keys_file: ")
    assert "plain" not in error
    put(file, b"# all withdrawn\n")
    clocks.later()
    assert who(of, x_api_key=KEY).tenant is None
    assert (of.version, of.errors) == (2, ())


def test_every_file_changes_the_version(tmp_path: Path) -> None:
    clocks = Clocks()
    of = all_sources(tmp_path, clocks)
    assert of.version == 1
    for number, name in enumerate(("keys", "provider.jwks", "cluster.jwks"), start=2):
        put(tmp_path / name, (tmp_path / name).read_bytes() + b"\n")
        clocks.later()
        assert of.version == number
    put(tmp_path / "provider.jwks", b"gone")
    clocks.later()
    assert of.version == 4
    assert of.errors[0].startswith("sidecar.tenancy.jwt.jwks_file: ")


@pytest.mark.parametrize("setting", ["keys_file", "jwt.jwks_file", "service_accounts.jwks_file"])
def test_files_that_cannot_be_used_end_the_start(tmp_path: Path, setting: str) -> None:
    settings: dict[str, Any] = {
        "keys_file": keys_file(tmp_path),
        "jwt": jwt_settings(tmp_path),
        "service_accounts": account_settings(tmp_path),
    }
    section, _, rest = setting.partition(".")
    if rest:
        settings[section][rest] = tmp_path / "none"
    else:
        settings[section] = tmp_path / "none"
    with pytest.raises(ConfigError, match=rf"^sidecar\.tenancy\.{setting}: .*cannot be read"):
        tenancy(**settings)


# Properties

HEADERS = [
    b"authorization", b"x-api-key", b"api-key", b"x-engineroom-tenant", b"x-litellm-tags", b"x-litellm-customer-id",
    b"helicone-user-id", b"helicone-property-tenant", b"host",
]  # fmt: skip
EVERYTHING: dict[str, Any] = {
    "helicone": {"property": "Tenant", "user_id": True},
    "litellm": {"tag_prefix": "", "customer": True, "team": "id"},
}
values_of_headers = st.one_of(
    st.binary(max_size=80),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=70).map(str.encode),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8).map(
        lambda text: b"Bearer " + text.encode()
    ),
    st.sampled_from([b"Bearer " + provider_token(exp=0).encode(), KEY.encode() + REPEATED, digest(KEY).encode()]),
)
fields_of_requests = st.dictionaries(st.sampled_from(HEADERS), values_of_headers)


@pytest.fixture(scope="module")
def shared(folder: Path) -> Tenancy:
    return all_sources(folder, max_tenants=50, **EVERYTHING)


@given(fields_of_requests, st.text(max_size=70))
def test_no_tenant_is_called_what_it_must_not_be_and_asking_twice_gives_the_same(
    shared: Tenancy, fields: dict[bytes, bytes], user: str
) -> None:
    caller = shared.identify(fields, PEER, NOW)
    assert isinstance(caller, Caller)
    assert shared.identify(dict(reversed(fields.items())), PEER, NOW) == caller
    of_user = shared.of_user(caller, user, PEER)
    assert shared.of_user(caller, user, PEER) == of_user
    for found in (caller, of_user):
        assert found.tenant is None or (1 <= len(found.tenant) <= 64 and all(" " <= c <= "~" for c in found.tenant))
    assert len({*shared._names._kept}) <= 50


@given(fields_of_requests, st.ip_addresses().map(str) | st.text(max_size=20))
def test_headers_of_a_peer_that_is_not_trusted_never_matter(
    shared: Tenancy, fields: dict[bytes, bytes], peer: str
) -> None:
    if not peer.startswith(("10.0.0.", "::ffff:a00:", "::ffff:10.0.0.")):
        assert shared.identify(fields, peer, NOW).__class__ is Caller
        assert shared.identify(fields, peer, NOW)[:2] == (None, None)


@given(st.binary(max_size=100) | st.text(max_size=40).map(str.encode), st.sampled_from(HEADERS[:3]))
def test_a_wrong_key_never_gives_a_tenant(shared: Tenancy, key: bytes, header: bytes) -> None:
    if key.strip(b" \t").removeprefix(b"Bearer ").strip(b" \t") != KEY.encode():
        for value in (
            key,
            b"Bearer " + key,
            b"Bearer " + KEY.encode() + key.replace(b" ", b"_").replace(b"\t", b"_") + b".",
        ):
            found = shared.identify({header: value}, FAR, NOW)
            assert isinstance(found, Caller)
            assert found.tenant is None


SECRETS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=16, max_size=200)


@given(SECRETS | st.tuples(SECRETS, SECRETS, SECRETS).map(".".join), st.sampled_from(HEADERS[:3]))
def test_no_message_log_or_trace_holds_a_key(folder: Path, secret: str, header: bytes) -> None:
    of = all_sources(folder, without_tenant="refuse", body_user="never")
    with capture_logs() as logs:
        found = of.identify({header: f"Bearer {secret}".encode()}, FAR, NOW)
    assert isinstance(found, Refusal)
    assert len(logs) == 1
    assert secret not in f"{found} {logs} {of!r} {list(of.samples('n'))} {of.errors}"


def test_no_secret_is_kept(folder: Path) -> None:
    of = all_sources(folder)
    for secret in (KEY, OTHER_KEY, provider_token(), provider_token() + "x"):
        who(of, x_api_key=secret)
    kept = list(itertools.chain(*((*s.watched.current().good, *s.watched.current().strangers) for _, s in of._signed)))
    assert kept
    assert all(len(entry) == hashlib.sha256().digest_size for entry in kept)


def errors_in_memory() -> int:
    return sum(isinstance(found, Denied | PyJWTError) for found in gc.get_objects())


def test_nothing_keeps_a_request_alive_after_its_answer(folder: Path) -> None:
    """Neither a wrong key nor a token that is not good waits in a circle of objects for the garbage collector."""
    of = all_sources(folder)
    asked(of, x_api_key=OTHER_KEY)
    secrets = [b"wrong-key-0123456789", provider_token(exp=0).encode(), provider_token(jti="x").encode() + b"x"]
    gc.collect()
    gc.disable()
    before = errors_in_memory()
    try:
        for secret in secrets:
            of.identify({b"authorization": b"Bearer " + secret}, FAR, NOW)
        assert errors_in_memory() == before
    finally:
        gc.enable()


def test_a_failure_in_the_middle_would_not_show_a_key(folder: Path) -> None:
    of = all_sources(folder, without_tenant="refuse", body_user="never")
    refused = asked(of, x_api_key=PROVIDER.sign({"iss": "secret-issuer", "tenant": "x"}))
    assert isinstance(refused, Refusal)
    assert "secret-issuer" not in refused.message
    with pytest.raises(ConfigError) as caught:
        tenancy(keys_file=put(folder / "plain", KEY.encode()))
    assert KEY not in "".join(traceback.format_exception(caught.value))


# The page about it


PAGE = (Path(__file__).parents[3] / "docs" / "tenancy.md").read_text()


def test_the_settings_on_the_page_are_good_ones() -> None:
    given = [
        tree["sidecar"]["tenancy"]
        for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
        if "sidecar" in (tree := yaml.safe_load(text))
    ]
    assert len(given) == 3
    for settings in given:
        assert TenancySettings(**settings)


def test_the_file_of_keys_on_the_page_is_a_good_one() -> None:
    (text,) = re.findall(r"```\n(# SHA-256.*?)```", PAGE, re.DOTALL)
    assert parse_keys(text.encode(), "k").tenants == {"acme", "Globex & Co"}


def test_the_command_on_the_page_makes_a_line_that_counts(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "tenancy.md").read_text()
    (command,) = re.findall(r"^    (echo .*) >> ", page, re.MULTILINE)
    made = subprocess.run(["sh", "-c", command], env={**os.environ, "KEY": KEY}, capture_output=True, check=True)
    assert who(tenancy(keys_file=put(tmp_path / "keys", made.stdout)), x_api_key=KEY) == ACME
