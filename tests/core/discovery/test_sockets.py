"""Lines of /proc/net/tcp: which sockets listen, and that reading stops behind them."""

import sys
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.discovery.sockets import Listener, parse_listeners
from tests.support.proc_tree import ESTABLISHED, TCP_HEADER, tcp_line


@pytest.mark.skipif(sys.byteorder != "little", reason="the recorded lines are from a little-endian machine")
def test_recorded_lines_of_both_families() -> None:
    rest = "00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0"
    lines = [
        TCP_HEADER,
        f"   0: 00000000:1F40 {rest} 77 1 0\n",
        f"   1: 0100007F:1F90 {rest} 78 1 0\n",
        f"   2: 00000000000000000000000001000000:0050 {rest} 80 1 0\n",
        f"   3: 0000000000000000FFFF00000100007F:0051 {rest} 81 1 0\n",
    ]
    assert parse_listeners(lines) == [
        Listener(IPv4Address("0.0.0.0"), 8000, 77),
        Listener(IPv4Address("127.0.0.1"), 8080, 78),
        Listener(IPv6Address("::1"), 80, 80),
        Listener(IPv4Address("127.0.0.1"), 81, 81),
    ]


def test_nothing_is_read_behind_the_listening_sockets() -> None:
    def lines() -> Iterator[str]:
        yield TCP_HEADER
        yield ESTABLISHED.replace(" 01 ", " 03 ")  # half open: old kernels print these between
        yield tcp_line("127.0.0.1", 1, 5)
        yield ESTABLISHED
        pytest.fail("tens of thousands of connections are not read")

    assert [one.inode for one in parse_listeners(lines())] == [5]


def test_what_is_no_such_file_has_no_sockets() -> None:
    assert parse_listeners([]) == []
    assert parse_listeners(["", "one two\n"]) == []


@given(st.ip_addresses(), st.integers(0, 65535), st.integers(1, 2**32))
def test_any_address_and_port_come_back(address: object, port: int, inode: int) -> None:
    (found,) = parse_listeners([tcp_line(str(address), port, inode)])
    expected = ip_address(str(address))
    mapped = expected.ipv4_mapped if isinstance(expected, IPv6Address) else None
    assert found == Listener(mapped or expected, port, inode)
