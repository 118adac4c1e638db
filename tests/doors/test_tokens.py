import hashlib
from pathlib import Path

import pytest

from agent.clock import NS
from agent.core.ports import ConfigError
from agent.doors.settings import TokenSettings
from agent.doors.tokens import LAPSE_SECONDS, StaticTokens, parse_token
from tests.support.credentials import Projected, put

OLD, NEW = b"old-0123456789abcdef", b"new-0123456789abcdef"


class Clock:
    now = 5 * NS

    def __call__(self) -> int:
        return self.now

    def later(self, seconds: float = 1.0) -> None:
        self.now += int(seconds * NS)


def tokens(clock: Clock, *files: Path) -> StaticTokens:
    settings = [TokenSettings(name=f"t{n}", file=file, scopes=("metrics",)) for n, file in enumerate(files)]
    return StaticTokens(settings, key="api.auth.tokens", boot_ns=clock)


def name(of: StaticTokens, token: bytes) -> str | None:
    found = of.find(hashlib.sha256(token).digest())
    return found.name if found else None


@pytest.mark.parametrize("text", [OLD, OLD + b"\n", OLD + b"\r\n", b"\n " + OLD + b" \t\n", b"x" * 16, b"x" * 4096])
def test_a_token_is_the_files_only_line(text: bytes) -> None:
    assert parse_token(text, "key") == text.strip()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"fifteen-letters", "16 to 4096 characters, not 15"),
        (b"x" * 4097, "not 4097"),
        (OLD + b"\n" + NEW, "one line"),
        (b"two words 0123456789", "without spaces"),
        ("пароль-пароль-пароль".encode(), "ASCII"),
        (b"\xff" * 20, "ASCII"),
        (b"nul\x00nul-0123456789abc", "printable"),
        (b"\xef\xbb\xbf" + OLD, "ASCII"),
    ],
)
def test_what_is_no_token_is_refused_without_showing_it(text: bytes, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        parse_token(text, "api.auth.tokens.0.file")
    assert caught.value.key == "api.auth.tokens.0.file"
    shown = str(caught.value)
    assert not text.strip() or text.decode("latin-1").strip() not in shown


def test_a_changed_file_ends_the_old_token_within_a_second(tmp_path: Path) -> None:
    clock, volume = Clock(), Projected(tmp_path / "volume", token=OLD)
    known = tokens(clock, volume / "token")
    volume.update(token=NEW)
    clock.later()
    assert (name(known, OLD), name(known, NEW)) == (None, "t0")


@pytest.mark.parametrize("content", [None, b"", b"short"])
def test_a_token_that_is_taken_away_ends_after_a_while(tmp_path: Path, content: bytes | None) -> None:
    clock, file = Clock(), put(tmp_path / "a", OLD)
    known = tokens(clock, file)
    file.unlink() if content is None else put(file, content)
    clock.later(LAPSE_SECONDS - 1)
    assert name(known, OLD) == "t0"  # somebody may be just writing it
    assert known.errors[0].startswith("api.auth.tokens.0.file: ")
    clock.later()
    assert name(known, OLD) is None
    assert name(known, b"") is None
    put(file, NEW)
    clock.later()
    assert (name(known, NEW), known.errors) == ("t0", ())


def test_the_same_token_in_two_files_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^api\.auth\.tokens\.1\.file: .* holds the same token as `t0`"):
        tokens(Clock(), put(tmp_path / "a", OLD), put(tmp_path / "b", OLD + b"\n"))


def test_should_two_become_the_same_later_the_first_entry_counts(tmp_path: Path) -> None:
    clock, first = Clock(), put(tmp_path / "a", OLD)
    known = tokens(clock, first, put(tmp_path / "b", NEW))
    put(first, NEW)
    clock.later()
    assert name(known, NEW) == "t0"
