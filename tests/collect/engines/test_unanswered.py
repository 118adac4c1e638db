"""What went wrong with a GET -> words that say what to do (from real servers: test_engine_hostile.py)."""

import errno

import pytest

from agent.collect.engines.unanswered import cut_off, late, not_http, refused_tls, unconnected

URL = "http://e:1/metrics"


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("Bad status line:\n  Expected HTTP/:\n\n  b'\\x15\\x03\\x03\\x00\\x02\\x02F'\n    ^", "write https://"),
        ("400, message:\n  b'\\x00\\x00\\x12\\x04\\x00'", "gRPC port"),
        ("b'SSH-2.0-OpenSSH'", "SSH server"),
        ("b'-ERR unknown command'", "its first bytes are b'-ERR unknown command': is the port right?"),
        ("b'cut in an escape \\x0'", "expected: is the port right?"),
        ("Got more than 8190 bytes when reading: b'xxx'", "head of its answer is too large"),
        ("something new", "does not speak HTTP as expected: is the port right?"),
    ],
)
def test_no_http(message: str, words: str) -> None:
    failure = not_http(URL, message)
    assert words in failure.reason
    assert URL in failure.reason


def test_no_connection() -> None:
    assert "is the engine running" in unconnected(URL, OSError(errno.ECONNREFUSED, "refused")).reason
    assert "no route to host" in unconnected(URL, OSError(errno.EHOSTUNREACH, "no route to host")).reason


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)", "does not speak TLS: write http://"),
        (
            "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: certificate has expired (_ssl.c:1)",
            "is not trusted (certificate has expired)",
        ),
        ("[SSL: TLSV1_ALERT_PROTOCOL_VERSION] tlsv1 alert", "no TLS connection"),
    ],
)
def test_tls(error: str, words: str) -> None:
    assert words in refused_tls("https://e:1/metrics", OSError(error)).reason


def test_late_and_cut_off() -> None:
    assert late(URL, 4.0, 12, spoke=True).late
    assert "within 4 s (12 bytes came)" in late(URL, 4.0, 12, spoke=True).reason
    assert "write http://" in late("https://e", 4.0, 0, spoke=False).reason
    assert "write http://" not in late("https://e", 4.0, 0, spoke=True).reason
    assert "write https://" in cut_off(URL).reason
    assert "write https://" not in cut_off("https://e").reason


def test_not_one_byte() -> None:
    assert unconnected(URL, OSError(errno.ECONNREFUSED, "refused")).silent
    assert late(URL, 4.0, 0, spoke=False).silent
    assert not late(URL, 4.0, 0, spoke=True).silent
    assert not cut_off(URL).silent
    assert not not_http(URL, "b'SSH-2.0-OpenSSH'").silent
