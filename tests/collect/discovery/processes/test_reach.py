"""Which address of a server may be asked: one that is surely its own, or none and why."""

from ipaddress import ip_address

import pytest

from agent.collect.discovery.processes.networks import Network
from agent.collect.discovery.processes.reach import places, reach
from agent.core.discovery.sockets import Listener

OWN = Network(inode=1, addresses=(ip_address("10.0.0.1"), ip_address("172.17.0.1"), ip_address("fd00::1")))
POD = Network(inode=2, addresses=(ip_address("10.244.0.5"), ip_address("172.17.0.1"), ip_address("fd00::5")))


def at(*addresses: str) -> list[Listener]:
    return [Listener(ip_address(one), 8000, inode) for inode, one in enumerate(addresses)]


@pytest.mark.parametrize(
    ("addresses", "host"),
    [
        (["0.0.0.0"], "127.0.0.1"),
        (["::"], "[::1]"),
        (["::", "0.0.0.0"], "127.0.0.1"),
        (["127.0.0.1"], "127.0.0.1"),
        (["127.0.0.3"], "127.0.0.3"),
        (["10.0.0.1"], "10.0.0.1"),
        (["10.0.0.1", "127.0.0.1"], "127.0.0.1"),
        (["fd00::1"], "[fd00::1]"),
    ],
)
def test_in_our_own_network(addresses: list[str], host: str) -> None:
    assert reach(at(*addresses), OWN, OWN).host == host


@pytest.mark.parametrize(
    ("addresses", "host"),
    [
        (["0.0.0.0"], "10.244.0.5"),
        (["::"], "[fd00::5]"),
        (["10.244.0.5"], "10.244.0.5"),
        (["127.0.0.1", "10.244.0.5"], "10.244.0.5"),
        (["127.0.0.1"], ""),
        (["172.17.0.1"], ""),  # ours, too: it would lead to us
        (["10.244.9.9"], ""),  # not its own
    ],
)
def test_in_another_network(addresses: list[str], host: str) -> None:
    found = reach(at(*addresses), POD, OWN)
    assert found.host == host
    assert bool(found.why) != bool(host)
    assert found.shown in (host, "10.244.0.5")


def test_a_socket_for_ipv6_is_asked_over_ipv4_where_there_is_nothing_else() -> None:
    four = Network(inode=2, addresses=(ip_address("10.244.0.5"),))
    assert reach(at("::"), four, OWN).host == "10.244.0.5"
    six = Network(inode=2, addresses=(ip_address("fd00::5"),))
    assert reach(at("0.0.0.0"), six, OWN).host == ""


def test_words() -> None:
    assert "sidecar" in reach(at("127.0.0.1"), POD, OWN).why
    assert "no address that leads there" in reach(at("0.0.0.0"), Network(inode=2), OWN).why
    assert "10.244.9.9" in reach(at("10.244.9.9"), POD, OWN).why
    starting = reach([], POD, OWN)
    assert "does not listen yet" in starting.why
    assert starting.shown == "10.244.0.5"
    assert reach(at("0.0.0.0"), POD, None).host == "10.244.0.5"


def test_places_are_all_addresses_at_which_it_could_have_been_configured() -> None:
    assert places(at("0.0.0.0"), OWN, OWN) == {"127.0.0.1:8000", "10.0.0.1:8000", "172.17.0.1:8000", "fd00::1:8000"}
    assert places(at("127.0.0.1"), OWN, OWN) == {"127.0.0.1:8000"}
    assert places(at("127.0.0.1", "10.244.0.5"), POD, OWN) == {"10.244.0.5:8000"}
    assert places([], POD, OWN) == frozenset()
