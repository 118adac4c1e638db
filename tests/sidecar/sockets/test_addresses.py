"""What may stand in `listen` and `upstream`, and which Host the engine gets."""

import pytest

from agent.sidecar.sockets.addresses import Address, Place, host_for_engine, host_value, parse_listen, parse_upstream

SOCKET = Address(path="/run/engine.sock")


@pytest.mark.parametrize(
    ("text", "wanted", "authority", "name"),
    [
        ("http://127.0.0.1:8000", Address("127.0.0.1", 8000), "127.0.0.1:8000", "127.0.0.1:8000"),
        ("http://engine/", Address("engine", 80), "engine:80", "engine:80"),
        (
            "https://Engine.example",
            Address("engine.example", 443, tls=True),
            "engine.example:443",
            "engine.example:443",
        ),
        ("https://[::1]:8443", Address("::1", 8443, tls=True), "[::1]:8443", "[::1]:8443"),
        ("http://[fe80::1%25eth0]:80", Address("fe80::1%eth0", 80), "[fe80::1]:80", "[fe80::1]:80"),
        ("http://bücher:80", Address("xn--bcher-kva", 80), "xn--bcher-kva:80", "xn--bcher-kva:80"),
        ("unix:/run/engine.sock", SOCKET, "localhost", "unix:/run/engine.sock"),
        ("unix:///run/engine.sock", SOCKET, "localhost", "unix:/run/engine.sock"),
        ("http+unix://%2Frun%2Fengine.sock", SOCKET, "localhost", "unix:/run/engine.sock"),
        ("http+unix:///run/engine.sock", SOCKET, "localhost", "unix:/run/engine.sock"),
    ],
)
def test_upstream(text: str, wanted: Address, authority: str, name: str) -> None:
    found = parse_upstream(text)
    assert (found, found.authority, found.name) == (wanted, authority, name)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1:8000",
        "ftp://engine",
        "http://",
        "http://engine/v1",
        "http://engine?x=1",
        "http://engine:0",
        "http://engine:70000",
        "http://engine:x",
        "http://" + "a" * 64 + ".example",
        "unix:",
        "unix:run/engine.sock",
        "unix:/run/",
        "unix:@abstract",
        "unix:/" + "x" * 107,
        "http+unix://engine.sock",
        "http+unix://%2Frun%2Fx.sock?y",
    ],
)
def test_no_upstream(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|may have|cannot be"):
        parse_upstream(text)


def test_a_password_is_not_repeated() -> None:
    with pytest.raises(ValueError, match="password") as raised:
        parse_upstream("http://user:secret@engine:80")
    assert "secret" not in str(raised.value)


def test_listen() -> None:
    assert parse_listen("127.0.0.1:9480") == Place("127.0.0.1", 9480)
    assert parse_listen("[::]:0") == Place("::", 0)
    assert parse_listen("unix:/run/sidecar.sock") == Place(path="/run/sidecar.sock")
    for text in ("9480", ":9480", "unix:sidecar.sock"):
        with pytest.raises(ValueError, match="expected"):
            parse_listen(text)


def test_what_only_this_machine_reaches() -> None:
    local = [Place("127.0.0.9"), Place("::1"), Place("localhost"), Place("a.localhost"), Place(path="/x")]
    assert all(place.is_local for place in local)
    assert not any(place.is_local for place in (Place("0.0.0.0"), Place("::"), Place("10.0.0.1"), Place("engine")))
    assert SOCKET.is_local
    assert Address("localhost", 1).is_local
    assert not Address("engine", 1).is_local


LOOPBACK, REMOTE, SECURE = Address("127.0.0.1", 11434), Address("engine", 8000), Address("engine", 443, tls=True)
HERE, EVERYWHERE = Place("127.0.0.1", 9480), Place("0.0.0.0", 9480)


@pytest.mark.parametrize(
    ("choice", "address", "listen", "wanted"),
    [
        ("auto", LOOPBACK, EVERYWHERE, b"127.0.0.1:11434"),
        ("auto", SOCKET, EVERYWHERE, b"localhost"),
        ("auto", LOOPBACK, HERE, None),
        ("auto", LOOPBACK, Place(path="/x"), None),
        ("auto", REMOTE, EVERYWHERE, None),
        ("auto", SECURE, EVERYWHERE, b"engine:443"),
        ("keep", LOOPBACK, EVERYWHERE, None),
        ("engine", REMOTE, HERE, b"engine:8000"),
        ("localhost:11434", REMOTE, HERE, b"localhost:11434"),
    ],
)
def test_host(choice: str, address: Address, listen: Place, wanted: bytes | None) -> None:
    assert host_for_engine(host_value(choice), address, listen) == wanted


@pytest.mark.parametrize("text", ["", "a b", "a\r\nx: y", "http://a", "a:port", "é", "[::1", "a\n"])
def test_no_host(text: str) -> None:
    with pytest.raises(ValueError, match="expected auto"):
        host_value(text)
