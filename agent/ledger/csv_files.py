"""A CSV file from anywhere in, its lines with their numbers out, one at a time: files of any length fit.

Understood: UTF-8 with or without its mark, UTF-16 with its mark, any encoding that is named; commas, semicolons,
tabs or bars; both ends of line. What a line means is for others to say; what it cannot mean is refused here.
"""

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from agent.core.cost.money import exact
from agent.core.ports import ConfigError

DELIMITERS = ",;\t|"
LONGEST_FIELD = 100_000
LONGEST_LINE = 1_000_000
SHOWN_REFUSALS = 20
_FORMULA = re.compile(r"[=@\t\r]|[+-](?![\d.])")
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII)


@dataclass(slots=True)
class Refusals:
    """Lines that were left out, and why: the first few, and how many there are."""

    count: int = 0
    first: list[tuple[int, str]] = field(default_factory=list)

    def add(self, line: int, reason: str) -> None:
        """Remember one line; `line` counts from 1, the header."""
        self.count += 1
        if len(self.first) < SHOWN_REFUSALS:
            self.first.append((line, reason))


@dataclass(slots=True)
class Line:
    """One line: `number` in the file, cells by column name (as in the header, without spaces around)."""

    number: int
    cells: dict[str, str]

    def text(self, column: str | None) -> str:
        """A cell, '' where there is none. Raises `ValueError` for a spreadsheet formula."""
        value = self.cells.get(column, "").strip() if column else ""
        if _FORMULA.match(value):
            raise ValueError(f"{column}: {_short(value)} is a spreadsheet formula; expected plain text")
        return value

    def number_of(self, column: str | None, decimal: str = ".") -> Fraction | None:
        """A cell as an exact number, None where it is empty. Raises `ValueError` that says what is wrong."""
        written = self.cells.get(column, "").strip() if column else ""
        return number(written, column or "", decimal) if written else None


def number(written: str, column: str, decimal: str = ".") -> Fraction:
    """Text as an exact number. Raises `ValueError`: for formulas, separators of thousands, and what is no number."""
    if written.startswith(("=", "@")):
        raise ValueError(f"{column}: {_short(written)} is a spreadsheet formula; expected a number")
    other = "," if decimal == "." else "."
    if other in written:
        raise ValueError(
            f"{column}: {_short(written)} has a {other!r}; expected digits and {decimal!r} only "
            f"(for numbers such as {'1234,56' if decimal == '.' else '1234.56'}: --decimal '{other}')"
        )
    plain = written.replace(decimal, ".")
    if not _NUMBER.fullmatch(plain):
        raise ValueError(f"{column}: {_short(written)} is not a number; expected digits such as 1234{decimal}56")
    return exact(plain)


class CsvFile:
    """An open CSV file. `columns` are those of the header. Raises `ConfigError` when it is no table at all."""

    def __init__(self, path: Path, *, encoding: str | None = None, delimiter: str | None = None) -> None:
        self.path = path
        self.refusals = Refusals()
        self._blank = 0  # lines before the header
        self._reader: io.TextIOWrapper | None = None
        try:
            self._raw = path.open("rb")
        except OSError as error:
            raise ConfigError(str(path), f"cannot be read: {error.strerror}") from error
        try:
            self.encoding = encoding or _encoding(self._raw.read(4))
            self._raw.seek(0)
            self._reader = io.TextIOWrapper(self._raw, encoding=self.encoding, errors="strict", newline="")
            self._text = self._bounded()
            head = self._header()
            self.delimiter = delimiter or max(DELIMITERS, key=head.count)
            self.columns = next(csv.reader([head], delimiter=self.delimiter), [])
        except LookupError as error:
            self.close()
            raise ConfigError("--encoding", f"{encoding!r} is unknown; expected such as utf-8 or gb18030") from error
        except (ValueError, csv.Error) as error:
            self.close()
            raise ConfigError(str(path), f"cannot be read: {self._explain(error)}") from error
        except ConfigError:
            self.close()
            raise
        self.columns = [name.strip() for name in self.columns]
        twice = sorted({name for name in self.columns if name and self.columns.count(name) > 1})
        if twice:
            self.close()
            raise ConfigError(str(path), f"has the column {twice[0]!r} twice; expected each once")

    def _header(self) -> str:
        for line in self._text:
            if "\0" in line:
                raise ConfigError(str(self.path), f"is not text as {self.encoding}; name its --encoding")
            if line.strip("\ufeff \t\r\n"):
                return line.strip("\ufeff\r\n")
            self._blank += 1
        raise ConfigError(str(self.path), "has no header; expected a CSV file whose first line names the columns")

    def _bounded(self) -> Iterator[str]:
        """Lines, of which no one can fill the memory."""
        assert self._reader is not None  # it is open
        while line := self._reader.readline(LONGEST_LINE):
            if len(line) >= LONGEST_LINE:
                raise ConfigError(str(self.path), f"has a line of more than {LONGEST_LINE:,} characters; is it CSV?")
            yield line

    def lines(self) -> Iterator[Line]:
        """Every line that has the header's columns; the others are refused. Raises `ConfigError` for a bad byte."""
        limit = csv.field_size_limit(LONGEST_FIELD)
        at = self._blank + 1
        reader = csv.reader(self._text, delimiter=self.delimiter, strict=True)
        try:
            while True:
                number = at + reader.line_num + 1
                try:
                    cells = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    self.refusals.add(number, f"is not CSV: {error} (a quotation mark that is not closed?)")
                    continue
                except ValueError as error:
                    raise ConfigError(str(self.path), f"cannot be read: {self._explain(error)}") from error
                line = self._line(number, cells)
                if line is not None:
                    yield line
        finally:
            csv.field_size_limit(limit)

    def _line(self, number: int, cells: Sequence[str]) -> Line | None:
        if not any(cell.strip() for cell in cells):
            return None
        if any("\0" in cell for cell in cells):
            self.refusals.add(number, "has a zero byte in it")
            return None
        extra = [cell for cell in cells[len(self.columns) :] if cell.strip()]
        if extra or len(cells) < min(2, len(self.columns)):
            self.refusals.add(number, f"has {len(cells)} columns; the header has {len(self.columns)}")
            return None
        return Line(number, dict(zip(self.columns, cells, strict=False)))

    def _explain(self, error: Exception) -> str:
        if not isinstance(error, UnicodeError):
            return str(error)
        where = self._undecodable()
        what = f"line {where} is" if where else "it is"
        name = "UTF-8" if self._is_utf8() else self.encoding
        return f"{what} not {name}; save it as UTF-8, or name its --encoding, such as gb18030 or cp1252"

    def _is_utf8(self) -> bool:
        return self.encoding.replace("-", "").lower().startswith("utf8")

    def _undecodable(self) -> int | None:
        """The first line whose bytes are wrong: text is decoded in blocks, which know nothing of lines."""
        if not self._is_utf8():
            return None
        with self.path.open("rb") as raw:
            at = 0
            while line := raw.readline(LONGEST_LINE):
                at += 1
                try:
                    line.decode("utf-8")
                except UnicodeDecodeError:
                    return at
        return None

    def close(self) -> None:
        """Let go of the file."""
        if self._reader is not None:
            self._reader.close()
        self._raw.close()

    def __enter__(self) -> "CsvFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _encoding(first: bytes) -> str:
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    return "utf-8-sig"


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")
