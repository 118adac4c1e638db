import pytest

from agent.cli.text import age, cut, instant, plain, size, table, width


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (8 << 20, "8.0 MiB"),
        (3 << 30, "3.0 GiB"),
        (5 << 50, "5120.0 TiB"),
    ],
)
def test_size(count: int, shown: str) -> None:
    assert size(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.25, "0.2 s"), (59.9, "59.9 s"), (61, "1 min 1 s"), (3600, "1 h 0 min"), (200_000, "2 d 7 h")],
)
def test_age(seconds: float, shown: str) -> None:
    assert age(seconds) == shown


def test_instant() -> None:
    assert instant(1_795_440_000_999_999_999) == "2026-11-23 13:20:00Z"
    assert instant(2**63) == "9223372036854775808 ns" or instant(2**63).startswith("2262-")
    assert instant(2**80) == f"{2**80} ns"


def test_what_could_steer_a_terminal_is_written_as_an_escape() -> None:
    assert plain("a\x1b[31mb\nc\u202e é") == "a\\x1b[31mb\\nc\\u202e é"


def test_columns_line_up() -> None:
    assert table(("name", "n"), [("a", "1"), ("long", "1,000")], "lr") == ["name      n", "a         1", "long  1,000"]


def test_a_cut_line_says_so() -> None:
    assert cut("abcdef", 6) == "abcdef"
    assert cut("abcdef", 5) == "abcd…"
    assert cut("abcdef", None) == "abcdef"


def test_lines_are_cut_only_where_somebody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert width() is None  # pytest's stdout is no terminal
    monkeypatch.setenv("COLUMNS", "66")
    assert width() == 66
