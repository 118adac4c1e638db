"""CSV as people send it: marks, encodings, separators, broken quotes, formulas; and files that fill no memory."""

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from agent.core.ports import ConfigError
from agent.ledger.csv_files import LONGEST_LINE, SHOWN_REFUSALS, CsvFile, Line, number


def read(tmp_path: Path, data: bytes | str, **options: str) -> tuple[CsvFile, list[Line]]:
    file = tmp_path / "some.csv"
    file.write_bytes(data.encode() if isinstance(data, str) else data)
    with CsvFile(file, **options) as table:  # type: ignore[arg-type]
        return table, list(table.lines())


TEXT = "a,b\nx,1\n\u4ef7,2\n"


@pytest.mark.parametrize(
    "data",
    [
        TEXT.encode(),
        TEXT.encode("utf-8-sig"),
        TEXT.encode("utf-16"),
        b"\xfe\xff" + TEXT.encode("utf-16-be"),
        TEXT.replace("\n", "\r\n").encode(),
        TEXT.replace(",", ";").encode(),
        TEXT.replace(",", "\t").encode(),
        TEXT.replace(",", "|").encode(),
        ("\n\n" + TEXT.replace("x,1", "\n\nx,1")).encode(),
        TEXT.rstrip("\n").encode(),
        TEXT.replace("a,b", " a , b ").encode(),
        TEXT.replace("x", '"x"').encode(),
    ],
)
def test_the_same_table_in_every_dress(tmp_path: Path, data: bytes) -> None:
    table, lines = read(tmp_path, data)
    assert table.columns == ["a", "b"]
    assert [line.cells for line in lines] == [{"a": "x", "b": "1"}, {"a": "\u4ef7", "b": "2"}]
    assert table.refusals.count == 0


def test_other_encodings_are_named(tmp_path: Path) -> None:
    _, lines = read(tmp_path, TEXT.encode("gb18030"), encoding="gb18030")
    assert lines[1].cells["a"] == "\u4ef7"
    with pytest.raises(ConfigError, match=r"cannot be read: line 3 is not UTF-8; .*--encoding"):
        read(tmp_path, b"a,b\nx,1\n" + "caf\u00e9,2\n".encode("cp1252") + b"x,1\n" * 9000)
    with pytest.raises(ConfigError, match="is unknown"):
        read(tmp_path, TEXT, encoding="utf-17")
    with pytest.raises(ConfigError, match="is not text"):
        read(tmp_path, "a,b\nx,1\n".encode("utf-16-le"))


@pytest.mark.parametrize("data", ["", "\n \n", "a,b,a\n"])
def test_what_is_no_table(tmp_path: Path, data: str) -> None:
    with pytest.raises(ConfigError, match=r"no header|twice"):
        read(tmp_path, data)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        CsvFile(tmp_path / "nowhere.csv")


def test_lines_that_cannot_be_used_have_their_number(tmp_path: Path) -> None:
    table, lines = read(tmp_path, 'a,b\nx,1\nx,1,2\nx\n"y"z,1\n,,\nx,\0\nx,1,\n')
    assert [line.number for line in lines] == [2, 8]
    assert [(line, reason.split(" (")[0]) for line, reason in table.refusals.first] == [
        (3, "has 3 columns; the header has 2"),
        (4, "has 1 columns; the header has 2"),
        (5, "is not CSV: ',' expected after '\"'"),
        (7, "has a zero byte in it"),
    ]


def test_lines_are_counted_over_quoted_ends_of_line(tmp_path: Path) -> None:
    _, lines = read(tmp_path, 'a,b\n"x\ny",1\nz,2\n')
    assert [(line.number, line.cells["a"]) for line in lines] == [(2, "x\ny"), (4, "z")]


def test_a_quotation_mark_that_is_never_closed_ends_with_its_limit(tmp_path: Path) -> None:
    table, lines = read(tmp_path, 'a,b\nx,1\n"y,1\n' + "z,1\n" * 60_000)
    assert table.refusals.count >= 1
    assert "not closed" in table.refusals.first[0][1]
    assert table.refusals.first[0][0] == 3
    assert len(lines) > 30_000


def test_a_line_without_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="more than 1,000,000 characters"):
        read(tmp_path, "a,b\n" + "x" * (LONGEST_LINE + 1))


def test_only_the_first_refusals_are_kept(tmp_path: Path) -> None:
    table, _ = read(tmp_path, "a,b\n" + "x\n" * 1000)
    assert table.refusals.count == 1000
    assert len(table.refusals.first) == SHOWN_REFUSALS


@pytest.mark.parametrize(
    ("written", "decimal", "value"),
    [
        ("1", ".", 1), ("-1.5", ".", "-3/2"), ("+.5", ".", "1/2"), ("1e-9", ".", "1/1000000000"), ("1,5", ",", "3/2"),
        ("0.123456789012345678901234567890", ".", "0.12345678901234567890123456789"),
    ],
)  # fmt: skip
def test_numbers_are_exact(written: str, decimal: str, value: int | str) -> None:
    assert number(written, "x", decimal) == Fraction(value)


@pytest.mark.parametrize(
    ("written", "decimal", "told"),
    [
        ("1,234.50", ".", "has a ','"), ("1.234,50", ",", "has a '.'"), ("1,5", ".", "--decimal ','"),
        ("=1+2", ".", "formula"), ("@SUM(A1)", ".", "formula"), ("1 000", ".", "not a number"),
        ("nan", ".", "not a number"), ("inf", ".", "not a number"), ("-", ".", "not a number"),
        ("1e99", ".", "finite"), ("1e999999999", ".", "not a number"), ("\u0661", ".", "not a number"),
        ("0x10", ".", "not a number"), ("1_000", ".", "not a number"), ("$5", ".", "not a number"),
    ],
)  # fmt: skip
def test_what_is_no_number_is_said(written: str, decimal: str, told: str) -> None:
    with pytest.raises(ValueError, match=r"^(x: |expected)") as refused:
        number(written, "x", decimal)
    assert told in str(refused.value)


@pytest.mark.parametrize("text", ["=1+1", "@x", "+cmd|' /C calc'!A1", "-x", "=HYPERLINK(1)"])
def test_formulas_are_no_names(text: str) -> None:
    with pytest.raises(ValueError, match="formula"):
        Line(2, {"a": text}).text("a")


def test_a_name_may_begin_like_a_number(tmp_path: Path) -> None:
    assert [Line(2, {"a": text}).text("a") for text in ("-5", "+4 h", " x ")] == ["-5", "+4 h", "x"]
    assert Line(2, {"a": "x"}).text(None) == Line(2, {"a": "x"}).text("b") == ""


def test_a_million_lines_take_no_more_memory_than_a_thousand(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom agent.ledger.csv_files import CsvFile\n"
        "with CsvFile(Path(sys.argv[1])) as table:\n    n = sum(1 for _ in table.lines())\n"
        "status = Path('/proc/self/status').read_text()\n"
        "print(n, status.partition('VmHWM:')[2].split()[0])"
    )
    seen = []
    for count in (1_000, 1_000_000):
        file = tmp_path / f"{count}.csv"
        file.write_text("date,sku,amount,currency\n" + "2026-03-01,gpu-h100,12.3456789,USD\n" * count)
        done = subprocess.run([sys.executable, "-c", program, file], capture_output=True, text=True, check=True)
        lines, kib = map(int, done.stdout.split())
        assert lines == count
        seen.append(kib)
    assert seen[1] - seen[0] < 4 * 1024
