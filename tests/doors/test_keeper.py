import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from agent.clock import NS, boot_ns
from agent.core.ports import ConfigError
from agent.doors.identity import ALL_SCOPES, Denied, Identity
from agent.doors.keeper import MAX_HEADER_CHARACTERS, Doorkeeper
from agent.doors.settings import AuthSettings
from tests.support.credentials import (
    AUDIENCE,
    ISSUER,
    SigningKey,
    basic,
    bearer,
    jwks,
    put,
    random_token,
    service_account_token,
)

TOKEN = "scrape-me-0123456789abcdef"
OTHER = "pay-me-0123456789abcdefgh"


def auth(folder: Path, **more: Any) -> AuthSettings:
    put(folder / "scraper", TOKEN.encode() + b"\n")
    put(folder / "billing", OTHER.encode() + b"\n")
    return AuthSettings(
        tokens=(
            {"name": "scraper", "file": folder / "scraper", "scopes": ["metrics"]},
            {"name": "billing", "file": folder / "billing", "scopes": ["cost"], "tenant": "acme"},
        ),
        **more,
    )


def keeper(settings: AuthSettings, *, loopback: bool = False, clock: Callable[[], int] = boot_ns) -> Doorkeeper:
    return Doorkeeper(settings, key="api.auth", loopback=loopback, boot_ns=clock)


@pytest.mark.parametrize(
    "header", [bearer(TOKEN), f"bearer  {TOKEN} ", basic(TOKEN), basic(TOKEN, ""), basic(TOKEN, "ü")]
)
def test_a_token_opens_as_bearer_and_as_the_password_of_basic(tmp_path: Path, header: str) -> None:
    who = keeper(auth(tmp_path)).identify(header)
    assert who == Identity(name="scraper", kind="token", scopes=frozenset({"metrics"}))
    assert who.allows("metrics")
    assert not who.allows("admin")


def test_a_tenants_token_says_the_tenant(tmp_path: Path) -> None:
    assert keeper(auth(tmp_path)).identify(bearer(OTHER)).tenant == "acme"


def test_a_password_may_hold_colons(tmp_path: Path) -> None:
    settings = auth(tmp_path)
    put(tmp_path / "scraper", b"a:b:c:d:e:f:g:h:i:j")
    assert keeper(settings).identify(basic("a:b:c:d:e:f:g:h:i:j")).name == "scraper"


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        " ",
        "Bearer",
        "Bearer ",
        TOKEN,
        f"Digest {TOKEN}",
        f"Token {TOKEN}",
        bearer(TOKEN[:-1]),
        bearer(TOKEN + "x"),
        bearer(TOKEN.upper()),
        bearer(f"{TOKEN}, Bearer {TOKEN}"),
        f"{bearer(TOKEN)}, {bearer(TOKEN)}",
        bearer(f"{TOKEN}\n"),
        bearer(f"{TOKEN}\x00"),
        bearer("тайна-тайна-тайна"),
        f"Bearer\t{TOKEN}",
        "Basic",
        "Basic !!!!",
        "Basic " + base64.b64encode(TOKEN.encode()).decode(),
        "Basic " + base64.b64encode(f"{TOKEN}:".encode()).decode(),
        basic(TOKEN)[:-3],
        basic(TOKEN).replace("Basic ", "Basic !"),
        bearer("x" * MAX_HEADER_CHARACTERS),
        bearer(base64.b64encode(TOKEN.encode()).decode()),
    ],
)
@pytest.mark.parametrize("loopback", [False, True])
def test_without_good_credentials_nobody_comes_in(tmp_path: Path, header: str | None, loopback: bool) -> None:
    with pytest.raises(Denied) as refused:
        keeper(auth(tmp_path), loopback=loopback).identify(header)
    assert refused.value.status == 401
    assert TOKEN not in refused.value.reason


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (bearer("x" * MAX_HEADER_CHARACTERS), "too long"),
        ("Bearer ", "holds no token"),
        (basic(""), "holds no token"),
        ("Digest x", "scheme Bearer or Basic"),
        ("Basic !", "not base64"),
        ("Bearer é", "ASCII"),
        (bearer("a.b.c"), "not known here"),
    ],
)
def test_a_refusal_says_what_is_wrong_with_the_header(tmp_path: Path, header: str, said: str) -> None:
    with pytest.raises(Denied, match=said):
        keeper(auth(tmp_path)).identify(header)


def test_what_nobody_in_particular_may_do(tmp_path: Path) -> None:
    nothing, open_to_all = AuthSettings(), AuthSettings(allow_unauthenticated=True)
    assert keeper(nothing, loopback=True).identify(None).scopes == ALL_SCOPES
    assert keeper(open_to_all, loopback=True).identify(None).scopes == ALL_SCOPES
    assert keeper(open_to_all).identify(None).scopes == ALL_SCOPES - {"admin"}
    assert keeper(open_to_all).identify(None).kind == "anonymous"
    both = keeper(auth(tmp_path, allow_unauthenticated=True), loopback=True)
    assert both.identify(None).scopes == ALL_SCOPES - {"admin"}
    assert both.identify(bearer(TOKEN)).name == "scraper"
    with pytest.raises(Denied):  # who tries with a wrong one is told so
        both.identify(bearer(random_token()))
    with pytest.raises(Denied):  # an empty header is a wrong one too: somebody's template has failed
        both.identify("")
    with pytest.raises(Denied):  # such a listener is never opened; were it, nobody comes in
        keeper(nothing).identify(None)
    assert keeper(nothing, loopback=True).identify(bearer(TOKEN)).kind == "anonymous"


def test_a_certificates_name_opens_where_it_is_listed(tmp_path: Path) -> None:
    name = "spiffe://cluster.local/ns/monitoring/sa/prometheus"
    settings = auth(
        tmp_path, certificates=({"name": name, "scopes": ["metrics"]}, {"name": "ops", "scopes": ["admin"]})
    )
    doors = keeper(settings, loopback=True)
    assert doors.identify(None, ("x", name)).name == name
    assert doors.identify(None, (name, "ops")).kind == "certificate"
    assert doors.identify(None, ("ops",)).scopes == {"admin"}
    assert doors.identify(bearer(TOKEN), ("ops",)).name == "scraper"  # the header counts first
    for names in [(), ("OPS",), ("ops.example",), ("",)]:
        with pytest.raises(Denied):
            doors.identify(None, names)
    with pytest.raises(Denied):  # and a wrong header is not mended by a certificate
        doors.identify(bearer(random_token()), ("ops",))


def test_a_service_account_opens_beside_tokens(tmp_path: Path) -> None:
    key = SigningKey.rsa()
    accounts = {
        "jwks_file": put(tmp_path / "jwks", jwks(key)),
        "issuer": ISSUER,
        "audience": AUDIENCE,
        "accounts": [{"namespace": "inference", "name": "*", "scopes": ["ingest"]}],
    }
    doors = keeper(auth(tmp_path, service_accounts=accounts))
    token = service_account_token(key)
    for header in (bearer(token), basic(token)):
        assert doors.identify(header).name == "inference/engineroom-sidecar"
    assert doors.identify(bearer(TOKEN)).name == "scraper"
    with pytest.raises(Denied):
        doors.identify(bearer(service_account_token(SigningKey.rsa("another"))))
    assert doors.errors == ()


def test_errors_name_the_files_that_do_not_count(tmp_path: Path) -> None:
    now = [boot_ns()]
    doors = keeper(auth(tmp_path), clock=lambda: now[0])
    put(tmp_path / "scraper", b"short-secret")
    now[0] += NS
    with structlog.testing.capture_logs() as logs:
        assert [error.partition(":")[0] for error in doors.errors] == ["api.auth.tokens.0.file"]
    assert "short-secret" not in str(logs) + str(doors.errors)


def test_a_file_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    settings = auth(tmp_path)
    (tmp_path / "billing").unlink()
    with pytest.raises(ConfigError, match=r"^api\.auth\.tokens\.1\.file: .*billing cannot be read: No such file"):
        keeper(settings)


def test_nothing_shows_a_secret(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as logs:
        settings = auth(tmp_path)
        doors = keeper(settings)
        shown = [repr(doors), repr(vars(doors)), repr(settings), repr(doors.identify(bearer(TOKEN)))]
        with pytest.raises(Denied) as refused:
            doors.identify(bearer(OTHER + "x"))
    assert not any(secret in str(shown) + str(logs) + repr(refused.value) for secret in (TOKEN, OTHER))


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Doorkeeper:
    folder = tmp_path_factory.mktemp("doors")
    accounts = {
        "jwks_file": put(folder / "jwks", jwks(SigningKey.rsa())),
        "issuer": ISSUER,
        "audience": AUDIENCE,
        "accounts": [{"namespace": "inference", "name": "*", "scopes": ["ingest"]}],
    }
    return keeper(auth(folder, service_accounts=accounts, certificates=({"name": "a", "scopes": ["metrics"]},)))


parts = st.text(st.characters(codec="ascii"), max_size=40) | st.binary(max_size=40).map(
    lambda b: base64.urlsafe_b64encode(b).decode().rstrip("=")
)


@given(
    st.text()
    | st.builds("{} {}".format, st.sampled_from(["Bearer", "basic", "BASIC"]), st.text())
    | st.builds("Bearer {}.{}.{}".format, parts, parts, parts)
    | st.binary().map(lambda b: "Basic " + base64.b64encode(b).decode()),
    st.lists(st.text(min_size=2), max_size=2),
)
def test_whatever_is_sent_is_denied_and_nothing_worse(everything: Doorkeeper, header: str, names: list[str]) -> None:
    with pytest.raises(Denied) as refused:
        everything.identify(header, names)
    assert refused.value.status == 401
