"""One line of a metrics page in, its series and value out: Prometheus text and OpenMetrics, read leniently."""

import re
from typing import NamedTuple


class MalformedLine(Exception):
    """The line is no sample; the message says what is wrong with it, for people."""


class ParsedLine(NamedTuple):
    """A sample line. `plain`: the line is what precedes the value, one space and the value, and nothing else."""

    name: str
    labels: tuple[tuple[str, str], ...]
    value: float
    plain: bool


_NAME = re.compile(r"[ \t]*([a-zA-Z_:][a-zA-Z0-9_:]*)?")
# One entry between the braces: name="value", or a quoted name (metric or label) as Prometheus 3 writes it.
_ENTRY = re.compile(
    r'[ \t]*(?:([a-zA-Z_][a-zA-Z0-9_]*)|"([^"\\]*(?:\\.[^"\\]*)*)")'
    r'[ \t]*(?:=[ \t]*"([^"\\]*(?:\\.[^"\\]*)*)")?[ \t]*(,|\}|$)'
)
# What nearly every line looks like: nothing escaped, no needless spaces.
_USUAL = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-zA-Z_][a-zA-Z0-9_]*="[^"\\]*"(?:,|(?=\})))*)\})?')
_USUAL_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="([^"\\]*)"')
_CLOSE = re.compile(r"[ \t]*\}")
_ESCAPE = re.compile(r'\\([\\n"])')
_UNESCAPED = {"\\": "\\", "n": "\n", '"': '"'}
MAX_LINE_BYTES = 64 * 1024
_SHOWN_CHARACTERS = 80  # of a bad line, in messages


def parse_value(text: bytes | str) -> float:
    """The number of a sample. Raises ValueError; Python's digit grouping ("1_000") is not a number here."""
    value = float(text)
    if (b"_" if isinstance(text, bytes) else "_") in text:  # type: ignore[operator]  # both sides share their type
        raise ValueError("digit grouping")
    return value


def parse_line(line: bytes) -> ParsedLine:
    """Read one sample line whole. Timestamps and exemplars are checked lightly and ignored. Raises MalformedLine."""
    if len(line) > MAX_LINE_BYTES:
        raise MalformedLine(f"longer than {MAX_LINE_BYTES} bytes: {shown(line)}")
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise MalformedLine(f"not UTF-8: {shown(line)}") from None
    return _parse_usual(text) or _parse_any(text, line)


def _parse_usual(text: str) -> ParsedLine | None:
    head, _, number = text.rpartition(" ")
    match = _USUAL.fullmatch(head)
    if match is None:
        return None
    labels = _USUAL_LABEL.findall(match[2]) if match[2] else []
    if len(labels) > 1 and len({name for name, _ in labels}) < len(labels):
        return None
    try:
        return ParsedLine(match[1], tuple(labels), parse_value(number), plain=True)
    except ValueError:
        return None


def _parse_any(text: str, line: bytes) -> ParsedLine:
    match = _NAME.match(text)
    name = (match and match[1]) or ""
    end = at = match.end() if match else 0
    labels: tuple[tuple[str, str], ...] = ()
    while text[at : at + 1] in (" ", "\t"):
        at += 1
    if text.startswith("{", at):
        name, labels, end = _parse_labels(text, at + 1, name, line)
    if not name:
        raise MalformedLine(f"no metric name: {shown(line)}")
    number, _, tail = text[end:].replace("\t", " ").strip(" ").partition(" ")
    try:
        value = parse_value(number)
    except ValueError:
        raise MalformedLine(f"{number[:20]!r} is not a number: {shown(line)}") from None
    _check_tail(tail.strip(" "), line)
    return ParsedLine(name, labels, value, plain=text[end:] == f" {number}")


def _parse_labels(text: str, at: int, name: str, line: bytes) -> tuple[str, tuple[tuple[str, str], ...], int]:
    found: dict[str, str] = {}
    closed = _CLOSE.match(text, at)
    while closed is None:
        entry = _ENTRY.match(text, at)
        if entry is None or not entry[4]:
            raise MalformedLine(f"labels are not closed or not quoted: {shown(line)}")
        plain_name, quoted_name, value = entry[1], entry[2], entry[3]
        key = plain_name if quoted_name is None else _unescape(quoted_name)
        if value is None:
            if quoted_name is None or name or found:
                raise MalformedLine(f"label {key!r} has no value: {shown(line)}")
            name = key
        elif key in found:
            raise MalformedLine(f"label {key!r} is given twice: {shown(line)}")
        else:
            found[key] = _unescape(value)
        at = entry.end()
        if entry[4] == "}":
            break
        closed = _CLOSE.match(text, at)
    if closed is not None:
        at = closed.end()
    return name, tuple(found.items()), at


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda m: _UNESCAPED[m[1]], text) if "\\" in text else text


def _check_tail(tail: str, line: bytes) -> None:
    """What may follow the value: a timestamp, an exemplar, both, or nothing."""
    if not tail or tail.startswith("#"):
        return
    timestamp, _, more = tail.partition(" ")
    try:
        float(timestamp)
    except ValueError:
        raise MalformedLine(f"{timestamp[:20]!r} after the value is no timestamp: {shown(line)}") from None
    more = more.strip(" ")
    if more and not more.startswith("#"):
        raise MalformedLine(f"text after the timestamp: {shown(line)}")


def shown(line: bytes) -> str:
    """The beginning of a line, fit for a message."""
    text = line[: _SHOWN_CHARACTERS + 1].decode(errors="replace")
    safe = "".join(c if c.isprintable() else "?" for c in text[:_SHOWN_CHARACTERS])
    return f"`{safe}`" if len(text) <= _SHOWN_CHARACTERS else f"`{safe}...`"
