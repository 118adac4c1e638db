import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sidecar.tenancy.hops import REPEATED, Hops, TenantHeaders
from agent.sidecar.tenancy.settings import UNIX, TenancySettings


@pytest.mark.parametrize(
    ("networks", "peer", "trusted"),
    [
        (["10.0.0.0/8"], "10.255.0.1", True),
        (["10.0.0.0/8"], "11.0.0.1", False),
        (["10.0.0.0/8"], "::ffff:10.1.2.3", True),
        (["10.0.0.1"], "10.0.0.1", True),
        (["10.0.0.1"], "10.0.0.2", False),
        (["2001:db8::/32"], "2001:db8::1", True),
        (["2001:db8::/32"], "2001:db9::1", False),
        (["fe80::/10"], "fe80::1%eth0", True),
        (["0.0.0.0/0"], "::1", False),
        (["::1", "127.0.0.0/8"], "127.0.0.1", True),
        (["0.0.0.0/0", "::/0"], UNIX, False),
        ([UNIX], UNIX, True),
        ([UNIX], "127.0.0.1", False),
        ([UNIX, "127.0.0.1"], "127.0.0.1", True),
        ([], "127.0.0.1", False),
        (["10.0.0.0/8"], "unknown", False),
        (["10.0.0.0/8"], "", False),
        (["10.0.0.0/8"], "10.0.0.1, 10.0.0.2", False),
    ],
)
def test_who_is_believed(networks: list[str], peer: str, trusted: bool) -> None:
    hops = Hops(networks, everybody=True)
    assert hops.trusts(peer) is trusted
    assert hops.any is bool(networks)


@pytest.mark.parametrize("everybody", [True, False])
@pytest.mark.parametrize("peer", ["127.0.0.1", "8.8.8.8", UNIX, "unknown"])
def test_without_networks_everybody_or_nobody_is(everybody: bool, peer: str) -> None:
    hops = Hops(None, everybody=everybody)
    assert hops.trusts(peer) is hops.any is everybody


@given(st.ip_addresses(), st.lists(st.ip_addresses(network="10.0.0.0/8") | st.ip_addresses(v=6), max_size=4))
def test_an_address_is_trusted_if_it_is_in_a_network(peer: Any, networks: list[Any]) -> None:
    given_networks = [str(ipaddress.ip_network(f"{a}/{8 if a.version == 4 else 3}", strict=False)) for a in networks]
    plain = getattr(peer, "ipv4_mapped", None) or peer
    expected = any(plain in ipaddress.ip_network(text) for text in given_networks)
    assert Hops(given_networks, everybody=False).trusts(str(peer)) is expected


def name(headers: dict[str, bytes], **settings: Any) -> str | None:
    fields = {key.encode(): value for key, value in headers.items()}
    return TenantHeaders(TenancySettings(**settings), "X-Engineroom-Tenant").name(fields)


EVERYTHING: dict[str, Any] = {
    "more_headers": ["X-Team"],
    "helicone": {"property": "Tenant", "user_id": True},
    "litellm": {"team": "alias", "tag_prefix": "tenant:", "customer": True},
}
ORDER = {
    "x-engineroom-tenant": b"own",
    "x-team": b"more",
    "x-litellm-user_api_key_team_alias": b"team",
    "helicone-property-tenant": b"property",
    "x-litellm-tags": b"prod, tenant:tagged ,tenant:second",
    "x-litellm-customer-id": b"customer",
    "x-litellm-end-user-id": b"end-user",
    "helicone-user-id": b"user",
}
NAMED = ["own", "more", "team", "property", "tagged", "customer", "end-user", "user"]


def test_headers_count_in_their_order() -> None:
    left = dict(ORDER)
    for expected in NAMED:
        assert name(left, **EVERYTHING) == expected
        del left[next(iter(left))]
    assert name(left, **EVERYTHING) is None


def test_by_default_only_our_own_header_counts() -> None:
    assert name(ORDER) == "own"
    assert name(ORDER, own_header=False) is None
    assert TenantHeaders(TenancySettings(), "X-Engineroom-Tenant").names == {b"x-engineroom-tenant"}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"more_headers": ["x-team"]}, "more"),
        ({"helicone": {"property": "Tenant"}}, "property"),
        ({"helicone": {"property": "Team"}}, None),
        ({"helicone": {"user_id": True}}, "user"),
        ({"litellm": {"team": "alias"}}, "team"),
        ({"litellm": {"team": "id"}}, None),
        ({"litellm": {"tag_prefix": "tenant:"}}, "tagged"),
        ({"litellm": {"tag_prefix": "team:"}}, None),
        ({"litellm": {"tag_prefix": ""}}, "prod"),
        ({"litellm": {"customer": True}}, "customer"),
    ],
)
def test_each_kind_has_its_switch(settings: dict[str, Any], expected: str | None) -> None:
    assert name(ORDER, own_header=False, **settings) == expected
    headers = TenantHeaders(TenancySettings(own_header=False, **settings), "x")
    assert len(headers.names) == (2 if settings.get("litellm", {}).get("customer") else 1)


@pytest.mark.parametrize("value", [b"x" * 65, b"\xc3\xbc", b"a\x01", b"acme" + REPEATED + b"globex", b"a" + REPEATED])
def test_an_unusable_name_is_nobodys_and_ends_the_search(value: bytes) -> None:
    assert name({**ORDER, "x-engineroom-tenant": value}, **EVERYTHING) == ""
    assert name({"x-litellm-tags": b"tenant:" + value.replace(REPEATED, b"\x02")}, **EVERYTHING) == ""


def test_an_empty_header_says_nothing() -> None:
    assert name({**ORDER, "x-engineroom-tenant": b" "}, **EVERYTHING) == "more"


def test_a_list_of_tags_may_come_in_several_headers() -> None:
    tags = REPEATED.join((b"prod,a", b"tenant:acme"))
    assert name({"x-litellm-tags": tags}, litellm={"tag_prefix": "tenant:"}) == "acme"
