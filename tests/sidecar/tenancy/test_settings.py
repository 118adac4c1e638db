from typing import Any

import pytest
from pydantic import ValidationError

from agent.sidecar.tenancy.settings import TenancySettings

JWT = {"jwks_file": "keys.json", "issuer": "https://id.example", "audience": "llm"}


def test_nothing_is_needed() -> None:
    settings = TenancySettings()
    assert not settings.has_credentials
    assert settings.without_tenant == "allow"
    assert settings.body_user == "never"


@pytest.mark.parametrize("given", [{"keys_file": "k"}, {"jwt": JWT}, {"service_accounts": JWT}])
def test_each_kind_of_credentials_counts(given: dict[str, Any]) -> None:
    assert TenancySettings(**given).has_credentials
    assert TenancySettings(engine_key_file="e", **given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"trusted_hops": ["10.0.0.1/8"]}, "host bits set"),
        ({"trusted_hops": ["gateway"]}, "give a network such as"),
        ({"key_headers": []}, "at least 1"),
        ({"key_headers": ["x api key"]}, "cannot be the name of a header"),
        ({"more_headers": ["x:y"]}, "cannot be the name of a header"),
        ({"more_headers": ["x\r\ny"]}, "cannot be the name of a header"),
        ({"helicone": {"property": "my tenant"}}, "cannot be the name of a header"),
        ({"max_tenants": 0}, "greater than or equal to 1"),
        ({"body_user_prefix": "a b"}, "pattern"),
        ({"engine_key_file": "e"}, "give keys_file, jwt or service_accounts"),
        ({"engine_key_file": "e", "keys_file": "k", "credentials_to_engine": "keep"}, "leave credentials_to_engine"),
        ({"without_tenant": "refuse", "body_user": "anybody"}, "is no credential"),
        ({"tenants": 5}, "Extra inputs"),
    ],
)
def test_what_does_not_fit_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TenancySettings(**given)


def test_names_of_headers_are_kept_in_lower_case() -> None:
    settings = TenancySettings(key_headers=("Helicone-Auth",), more_headers=("X-Team",), helicone={"property": "Team"})
    assert (settings.key_headers, settings.more_headers) == (("helicone-auth",), ("x-team",))
    assert settings.helicone.property == "team"
