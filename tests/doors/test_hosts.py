"""Host headers that are answered, and those that are not."""

import socket

import pytest

from agent.doors.hosts import host_allowed, own_names


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:9440",
        "LOCALHOST",
        "x.localhost",
        "127.0.0.1:9440",
        "10.1.2.3",
        "[::1]:9440",
        "[fe80::1]",
        "::1",
        "node-a:9440",
        "Node-A.",
        "localhost.",
    ],
)
def test_own_names_are_answered(host: str):
    assert host_allowed(host, frozenset({"node-a"}))


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "evil.example:9440",
        "127.0.0.1.evil.example",
        "node-a.evil",
        "localhost.evil",
        "[evil]",
        "0x7f.1",
    ],
)
def test_other_names_are_not(host: str):
    assert not host_allowed(host, frozenset({"node-a"}))


def test_this_machine_is_known_by_its_names():
    assert own_names() == {socket.gethostname().lower()}
    assert own_names("Node-A") == {socket.gethostname().lower(), "node-a"}
