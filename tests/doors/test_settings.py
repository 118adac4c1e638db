from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from agent.core.ports import ConfigError
from agent.doors import settings
from agent.doors.settings import (
    AuthSettings,
    ClientTlsSettings,
    LimitSettings,
    ServiceAccountSettings,
    TlsSettings,
    is_loopback,
    require_credentials,
)

TOKEN = {"name": "a", "file": "a", "scopes": ["metrics"]}
ACCOUNT = {"namespace": "n", "name": "a", "scopes": ["ingest"]}
ACCOUNTS = {"jwks_file": "jwks", "issuer": "i", "audience": "a"}


def test_defaults_are_open_to_this_machine_only() -> None:
    auth = AuthSettings()
    assert (auth.configured, auth.allow_unauthenticated, TlsSettings().enabled) == (False, False, False)
    assert LimitSettings().burst >= LimitSettings().requests_per_second


def test_paths_are_relative_to_the_file_that_names_them() -> None:
    read = AuthSettings.model_validate({"tokens": [TOKEN]}, context={"folder": Path("/etc/engineroom")})
    assert read.tokens[0].file == Path("/etc/engineroom/a")
    assert read.configured


@pytest.mark.parametrize(
    ("auth", "said"),
    [
        ({"tokens": [TOKEN, TOKEN]}, "the token name `a` is there 2 times"),
        ({"tokens": [TOKEN | {"scopes": []}]}, "at least 1 item"),
        ({"tokens": [TOKEN | {"scopes": ["root"]}]}, "'metrics', 'cost', 'ingest' or 'admin'"),
        ({"tokens": [TOKEN | {"token": "x"}]}, "Extra inputs"),
        ({"tokens": [TOKEN | {"tenant": "acme"}]}, "the scope `metrics` reaches every tenant's data"),
        ({"tokens": [TOKEN | {"tenant": "acme", "scopes": ["cost", "admin"]}]}, "the scope `admin` reaches"),
        ({"tokens": [TOKEN | {"tenant": "", "scopes": ["cost"]}]}, "at least 1 character"),
        ({"service_accounts": ACCOUNTS | {"accounts": []}}, "at least 1 item"),
        ({"service_accounts": ACCOUNTS | {"accounts": [ACCOUNT, ACCOUNT]}}, "service account `n/a` is there 2 times"),
        ({"service_accounts": ACCOUNTS | {"accounts": [ACCOUNT | {"namespace": "*"}]}}, "should match pattern"),
        ({"service_accounts": ACCOUNTS | {"accounts": [ACCOUNT | {"name": "a*"}]}}, "should match pattern"),
        ({"service_accounts": ACCOUNTS | {"accounts": [ACCOUNT], "issuer": ""}}, "at least 1 character"),
        ({"certificates": [{"name": "a", "scopes": ["admin"]}] * 2}, "the certificate name `a` is there 2 times"),
    ],
)
def test_mistakes_in_auth_are_told(auth: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        AuthSettings.model_validate(auth)


def test_an_account_may_be_every_account_of_a_namespace() -> None:
    accounts = ServiceAccountSettings.model_validate(ACCOUNTS | {"accounts": [ACCOUNT, ACCOUNT | {"name": "*"}]})
    assert [account.name for account in accounts.accounts] == ["a", "*"]


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        (TlsSettings, {"certificate_file": "a"}, "give both or neither"),
        (TlsSettings, {"key_file": "a"}, "give both or neither"),
        (TlsSettings, {"client_ca_file": "a"}, "client_ca_file needs certificate_file"),
        (ClientTlsSettings, {"key_file": "a"}, "give both or neither"),
    ],
)
def test_tls_files_go_together(kind: type[BaseModel], given: dict[str, str], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        kind.model_validate(given)


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1:9440", True),
        ("127.8.8.8:1", True),
        ("[::1]:9440", True),
        ("localhost:9440", True),
        ("LocalHost:9440", True),
        ("0.0.0.0:9440", False),
        ("[::]:9440", False),
        ("10.0.0.1:9440", False),
        ("node-1:9440", False),
        ("localhost.example:9440", False),
    ],
)
def test_elsewhere_than_on_loopback_credentials_are_needed(address: str, loopback: bool) -> None:
    assert is_loopback(address) is loopback
    require_credentials("api", address, AuthSettings(allow_unauthenticated=True))
    require_credentials("api", address, AuthSettings.model_validate({"tokens": [TOKEN]}))
    if loopback:
        require_credentials("api", address, AuthSettings())
        return
    with pytest.raises(ConfigError) as caught:
        require_credentials("sidecar", address, AuthSettings(), listen_key="admin_listen")
    assert caught.value.key == "sidecar.admin_listen"
    for part in (address, "sidecar.auth (tokens,", "127.0.0.1", "sidecar.auth.allow_unauthenticated: true"):
        assert part in caught.value.expected


def test_certificates_need_an_authority() -> None:
    auth = AuthSettings.model_validate({"certificates": [{"name": "a", "scopes": ["metrics"]}]})
    tls = TlsSettings.model_validate({"certificate_file": "a", "key_file": "b"})
    for without in (None, TlsSettings(), tls):
        with pytest.raises(ConfigError, match=r"^api\.auth\.certificates: .*api\.tls\.client_ca_file"):
            require_credentials("api", "127.0.0.1:1", auth, without)
    require_credentials("api", "0.0.0.0:1", auth, tls.model_copy(update={"client_ca_file": Path("c")}))


def test_every_setting_is_described() -> None:
    sections = [value for value in vars(settings).values() if isinstance(value, type) and issubclass(value, BaseModel)]
    assert len(sections) > 8
    assert not [f"{s.__name__}.{name}" for s in sections for name, f in s.model_fields.items() if not f.description]
