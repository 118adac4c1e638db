"""Texts of labels and annotations: a small, exact part of Prometheus' template language, checked when it is loaded.

In: a text such as ``GPU {{ $labels.gpu }} at {{ $value | printf "%.1f" }} °C``; out: the text Prometheus would write.
Whatever is not in this part is refused by name, so a rule file never reads differently on the node.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Value = str | float


class TemplateError(ValueError):
    """The text uses something this part of the language does not have. The message names it."""


@dataclass(frozen=True, slots=True)
class Template:
    """A checked text. `parts` are literal texts and the sources of actions; `render` never fails."""

    source: str
    _parts: tuple[str | Callable[[Mapping[str, str], float], Value], ...]

    def render(self, labels: Mapping[str, str], value: float) -> str:
        """The text for one alert. A label that is missing reads as the empty string, as in Prometheus."""
        return "".join(p if isinstance(p, str) else _show(p(labels, value)) for p in self._parts)


_ACTION = re.compile(r"\{\{(-(?=\s))?(.*?)((?<=\s)-)?\}\}", re.DOTALL)
_TOKEN = re.compile(
    r"""\s*(?:(?P<pipe>\|)|(?P<value>\$value\b|\.Value\b)|(?P<label>(?:\$labels|\.Labels)\.(?P<labelname>\w+))
    |(?P<text>"(?:[^"\\\n]|\\.)*"|`[^`]*`)|(?P<number>[-+]?\d+(?:\.\d+)?)|(?P<name>[A-Za-z_]\w*)|(?P<other>\S+))""",
    re.VERBOSE,
)
_VERB = re.compile(r"%(?:%|(?:\.(\d{1,2}))?([a-zA-Z])|(.?))")
_ESCAPES = {"n": "\n", "t": "\t", '"': '"', "\\": "\\"}

_Node = Callable[[Mapping[str, str], float], Value]
_Typed = tuple[type, _Node]


def compile_template(source: str) -> Template:
    """Check a text. Raises `TemplateError` naming what is not supported."""
    parts: list[str | _Node] = []
    at = 0
    for match in _ACTION.finditer(source):
        before = source[at : match.start()]
        parts.append(before.rstrip(" \t\r\n") if match.group(1) else before)
        parts.append(_pipeline(match.group(2)))
        at = match.end()
        if match.group(3):
            rest = source[at:]
            at += len(rest) - len(rest.lstrip(" \t\r\n"))
    rest = source[at:]
    if "{{" in rest:
        raise TemplateError("`{{` without its `}}`")
    parts.append(rest)
    return Template(source, tuple(p for p in parts if p != ""))


def _pipeline(text: str) -> _Node:
    commands: list[list[re.Match[str]]] = [[]]
    for token in _TOKEN.finditer(text.rstrip()):
        if token.group("pipe"):
            commands.append([])
        else:
            commands[-1].append(token)
    result: _Typed | None = None
    for command in commands:
        if not command:
            raise TemplateError(f"`{{{{{text}}}}}` has an empty part")
        result = _command(command, result)
    if result is None:
        raise TemplateError("an empty action")
    return result[1]


def _command(tokens: list[re.Match[str]], piped: _Typed | None) -> _Typed:
    first, rest = tokens[0], tokens[1:]
    name = first.group("name")
    if name is None:
        if rest or piped is not None:
            raise TemplateError(f"`{first.group().strip()}` is not a function")
        return _operand(first)
    if name != "printf" and name not in _FUNCTIONS:
        raise TemplateError(f"function `{name}` is not supported; there are: printf, {', '.join(sorted(_FUNCTIONS))}")
    arguments = [_operand(token) for token in rest]
    if piped is not None:
        arguments.append(piped)
    if name == "printf":
        return _printf(rest, arguments)
    takes, function = _FUNCTIONS[name]
    if len(arguments) != 1 or arguments[0][0] is not takes:
        raise TemplateError(f"`{name}` takes one {'number' if takes is float else 'text'}")
    inner = arguments[0][1]
    return str, lambda labels, value: function(inner(labels, value))


def _operand(token: re.Match[str]) -> _Typed:
    if token.group("value"):
        return float, lambda _labels, value: value
    if label := token.group("labelname"):
        return str, lambda labels, _value: labels.get(label, "")
    if text := token.group("text"):
        literal = _unquote(text)
        return str, lambda _labels, _value: literal
    # A bare number is an untyped constant in Go; a whole one would print unlike a float, so it is not offered.
    raise TemplateError(
        f"`{token.group().strip()}` is not supported; there are: $value, $labels.<name>, texts in quotes"
    )


def _unquote(text: str) -> str:
    if text[0] == "`":
        return text[1:-1]

    def replace(match: re.Match[str]) -> str:
        if match.group(1) not in _ESCAPES:
            raise TemplateError(f"escape `\\{match.group(1)}` is not supported")
        return _ESCAPES[match.group(1)]

    return re.sub(r"\\(.)", replace, text[1:-1])


def _printf(tokens: list[re.Match[str]], arguments: list[_Typed]) -> _Typed:
    if not tokens or not tokens[0].group("text"):
        raise TemplateError('`printf` needs its format first, in quotes, as in `printf "%.2f" $value`')
    pieces: list[str | Callable[[Value], str]] = []
    values = arguments[1:]
    form, at, used = _unquote(tokens[0].group("text")), 0, 0
    for match in _VERB.finditer(form):
        pieces.append(form[at : match.start()])
        at = match.end()
        if match.group() == "%%":
            pieces.append("%")
            continue
        precision, verb = match.group(1), match.group(2)
        wanted = {"f": float, "e": float, "g": float, "s": str}.get(verb or "")
        if verb == "v" and precision is None:
            pieces.append(_show)
        elif wanted is None or (wanted is str and precision is not None):
            raise TemplateError(f"`{match.group()}` in printf is not supported; there are: %.2f %.2e %.2g %v %s %%")
        elif used < len(values) and values[used][0] is not wanted:
            raise TemplateError(f"`{match.group()}` in printf does not fit its argument")
        else:
            pieces.append(_formatter(verb, precision))
        used += 1
    pieces.append(form[at:])
    if used != len(values):
        raise TemplateError(f"printf has {used} verbs for {len(values)} arguments")
    nodes = [node for _, node in values]

    def run(labels: Mapping[str, str], value: float) -> str:
        given = iter(nodes)
        return "".join(p if isinstance(p, str) else p(next(given)(labels, value)) for p in pieces)

    return str, run


def _formatter(verb: str, precision: str | None) -> Callable[[Value], str]:
    if verb == "s" or (verb == "g" and precision is None):
        return _show
    form = f"%.{precision or 6}{verb}"
    return lambda value: _odd(float(value)) or form % value


def _odd(value: float) -> str:
    """Go's names of what is no finite number; the empty string for the rest."""
    if math.isnan(value):
        return "NaN"
    return ("+Inf" if value > 0 else "-Inf") if math.isinf(value) else ""


def _show(value: Value) -> str:
    """Go's `%v`: shortest digits that read back equal; an exponent below 1e-4 and from 1e6 on."""
    if isinstance(value, str):
        return value
    if odd := _odd(value):
        return odd
    digits, exponent = _shortest(value)
    if -4 <= exponent < 6:
        sign, number = ("-", -value) if math.copysign(1.0, value) < 0 else ("", value)
        return sign + (f"{number:.{max(0, len(digits) - 1 - exponent)}f}")
    sign = "-" if value < 0 else ""
    mantissa = digits[0] + ("." + digits[1:] if len(digits) > 1 else "")
    return f"{sign}{mantissa}e{'+' if exponent >= 0 else '-'}{abs(exponent):02d}"


def _shortest(value: float) -> tuple[str, int]:
    """Significant digits of the shortest exact form, and the exponent of the first one."""
    if value == 0:
        return "0", 0
    mantissa, _, exponent = f"{abs(value)!r}".partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = whole + fraction
    first = len(digits) - len(digits.lstrip("0"))
    return digits.strip("0"), int(exponent or 0) + len(whole) - 1 - first


def _short(value: float) -> str:
    return _odd(value) or f"{value:.4g}"


def _down(value: float, step: float, prefixes: tuple[str, ...]) -> str:
    prefix = ""
    for larger in prefixes:
        if abs(value) < step:
            break
        prefix, value = larger, value / step
    return _short(value) + prefix


def _up(value: float) -> str:
    prefix = ""
    for smaller in ("m", "u", "n", "p", "f", "a", "z", "y"):
        if abs(value) >= 1:
            break
        prefix, value = smaller, value * 1000
    return _short(value) + prefix


def humanize(value: float) -> str:
    """Four digits and a metric prefix: 1234567 is `1.235M`."""
    if value == 0 or not math.isfinite(value):
        return _short(value)
    return _down(value, 1000, ("k", "M", "G", "T", "P", "E", "Z", "Y")) if abs(value) >= 1 else _up(value)


def humanize1024(value: float) -> str:
    """Four digits and a binary prefix: 1536 is `1.5ki`."""
    if abs(value) <= 1 or not math.isfinite(value):
        return _short(value)
    return _down(value, 1024, ("ki", "Mi", "Gi", "Ti", "Pi", "Ei", "Zi", "Yi"))


def humanize_duration(seconds: float) -> str:
    """Seconds as `1d 2h 3m 4s`; below a minute with four digits, below a second with a prefix."""
    if not math.isfinite(seconds):
        return _short(seconds)
    if seconds == 0:
        return _short(seconds) + "s"
    if abs(seconds) < 1:
        return _up(seconds) + "s"
    sign = "-" if seconds < 0 else ""
    minutes, rest = divmod(int(abs(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{sign}{days}d {hours}h {minutes}m {rest}s"
    if hours:
        return f"{sign}{hours}h {minutes}m {rest}s"
    return f"{sign}{minutes}m {rest}s" if minutes else f"{sign}{_short(abs(seconds))}s"


def humanize_percentage(ratio: float) -> str:
    """A ratio as a percentage with four digits: 0.0123 is `1.23%`."""
    return _short(ratio * 100) + "%"


_FUNCTIONS: dict[str, tuple[type, Callable[..., str]]] = {
    "humanize": (float, humanize),
    "humanize1024": (float, humanize1024),
    "humanizeDuration": (float, humanize_duration),
    "humanizePercentage": (float, humanize_percentage),
    "toLower": (str, str.lower),
    "toUpper": (str, str.upper),
}
