"""A namespace's own addresses: which count, and which comes first."""

import sys

import pytest

from agent.core.discovery.addresses import own_addresses

pytestmark = pytest.mark.skipif(
    sys.byteorder != "little", reason="the recorded routes are from a little-endian machine"
)

# The address of a node that reaches the world through eth0 (10.0.0.0/24), with a bridge of Docker's, loopback, a
# link-local one; and a neighbour's route that is none of its own.
TRIE = """Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 10.244.7.0
        /24 universe UNICAST
Local:
  +-- 0.0.0.0/0 3 0 5
     +-- 10.0.0.0/24 2 0 2
        |-- 10.0.0.2
           /32 host LOCAL
        |-- 10.0.0.255
           /32 link BROADCAST
     +-- 127.0.0.0/8 2 0 2
        +-- 127.0.0.0/31 1 0 0
           |-- 127.0.0.0
              /8 host LOCAL
           |-- 127.0.0.1
              /32 host LOCAL
     |-- 169.254.20.10
        /32 host LOCAL
     |-- 10.0.0.1
        /32 host LOCAL
     |-- 9.9.0.1
        /32 host LOCAL
"""
ROUTE = """Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
docker0	00000909	00000000	0001	0	0	0	0000FFFF	0	0	0
eth0	00000000	010000C0	0003	0	0	0	00000000	0	0	0
eth0	0000000A	00000000	0001	0	0	0	00FFFFFF	0	0	0
"""
SIX = """00000000000000000000000000000001 01 80 10 80       lo
fd000000000000000000000000000005 02 40 00 80     eth0
fd000000000000000000000000000006 02 40 00 60     eth0
fe80000000000000000000000000abcd 02 40 20 80     eth0
"""


def shown(*files: str) -> list[str]:
    return [str(address) for address in own_addresses(*files)]


def test_addresses_of_the_outward_network_come_first() -> None:
    assert shown(TRIE, SIX, ROUTE) == ["10.0.0.1", "10.0.0.2", "9.9.0.1", "fd00::5"]


def test_without_routes_the_order_is_that_of_numbers() -> None:
    assert shown(TRIE, "", "") == ["9.9.0.1", "10.0.0.1", "10.0.0.2"]


def test_a_namespace_with_loopback_alone_has_none() -> None:
    assert shown("Local:\n  |-- 127.0.0.1\n     /32 host LOCAL\n", SIX.splitlines()[0], "header\n") == []


def test_damaged_files_have_none() -> None:
    assert shown("", "", "") == shown("\0\0", "short line\n", "a b c\nd e\n") == []
