import hashlib
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.clock import NS
from agent.core.ports import ConfigError
from agent.sidecar.tenancy.keys import KeyOwner, parse_engine_key, parse_keys

ONE, TWO = hashlib.sha256(b"one").hexdigest(), hashlib.sha256(b"two").hexdigest()


def test_a_file_names_the_tenant_of_each_key() -> None:
    table = parse_keys(
        f"# our keys\n\n{ONE}  acme\r\n  {TWO.upper()}\texpires=2027-01-31T01:00:00+01:00 Globex & Co\n".encode(), "k"
    )
    assert table.find(bytes.fromhex(ONE)) == KeyOwner("acme", None)
    assert table.find(bytes.fromhex(TWO)) == KeyOwner("Globex & Co", 1_801_353_600 * NS)
    assert table.find(hashlib.sha256(b"three").digest()) is None
    assert table.tenants == {"acme", "Globex & Co"}
    assert len(table) == 2


def test_a_file_of_comments_holds_no_keys() -> None:
    assert len(parse_keys(b"# none today\n", "k")) == 0


def test_a_tenant_may_have_several_keys() -> None:
    assert parse_keys(f"{ONE} acme\n{TWO} acme".encode(), "k").tenants == {"acme"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b" \n\t\n", "the file is empty"),
        (b"sk-secret-key acme", "line 1 must be"),
        (b"\n# x\nsk-secret-key", "line 3 must be"),
        (ONE.encode(), "line 1 must be"),
        (ONE[:-1].encode() + b" acme", "line 1 must be"),
        (ONE.encode() + b"0 acme", "line 1 must be"),
        (f"{ONE} {'a' * 65}".encode(), "must end with a tenant"),
        (f"{ONE} a\x01b".encode(), "must end with a tenant"),
        (f"{ONE} other".encode(), "`other` stands for the rest"),
        (f"{ONE} expires=2027-01-31T00:00:00Z".encode(), "must end with a tenant"),
        (f"{ONE} expires=2027-01-31T00:00:00 acme".encode(), "line 1: after `expires=`"),
        (f"{ONE} expires=soon acme".encode(), "line 1: after `expires=`"),
        (f"{ONE} expires= acme".encode(), "line 1: after `expires=`"),
        (f"{ONE} acme\n{ONE} globex".encode(), "line 2 has the same key as line 1"),
        (f"{ONE} ümlaut".encode(), "must be ASCII"),
        (b"\xff\xfe", "must be ASCII"),
        (b"\xef\xbb\xbf" + ONE.encode() + b" acme", "must be ASCII"),
    ],
)
def test_what_is_no_list_of_keys_is_refused_without_showing_it(content: bytes, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        parse_keys(content, "sidecar.tenancy.keys_file")
    assert caught.value.key == "sidecar.tenancy.keys_file"
    assert "secret" not in str(caught.value)
    assert ONE[:8] not in str(caught.value)


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=16), st.sampled_from([" acme", "", ONE]))
def test_a_key_written_by_mistake_is_never_shown(key: str, more: str) -> None:
    shown = ""
    try:
        parse_keys(f"{key}{more}\n".encode(), "k")
    except ConfigError as error:
        shown = "".join(traceback.format_exception(error))
    assert bool(shown) is not key.startswith("#")
    assert key not in shown


@given(st.binary(max_size=200))
def test_whatever_is_in_a_file_of_keys_is_refused_and_nothing_worse(content: bytes) -> None:
    try:
        parse_keys(content, "k")
    except ConfigError:
        pass


@pytest.mark.parametrize("content", [b"k", b" token-abc123\n", b"x" * 4096])
def test_the_engines_key_is_the_only_line(content: bytes) -> None:
    assert parse_engine_key(content, "k") == content.strip()


@pytest.mark.parametrize("content", [b"", b"\n", b"two words", b"two\nlines", b"\xff", b"x" * 4097, b"a\0b"])
def test_what_is_no_key_for_an_engine_is_refused(content: bytes) -> None:
    with pytest.raises(ConfigError, match="must hold the engine's key") as caught:
        parse_engine_key(content, "k")
    assert "words" not in str(caught.value)
