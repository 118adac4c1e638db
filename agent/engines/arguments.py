"""The command line of a server in, single options of it out, as its argument parser would read them."""

from collections.abc import Sequence


def option(argv: Sequence[str], *names: str) -> str | None:
    """Value of the last of `names` that is given, as `--name value` or `--name=value`; `_` and `-` are the same."""
    wanted = {_spelling(name) for name in names}
    found = None
    for at, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if not name.startswith("-") or _spelling(name) not in wanted:
            continue
        if equals:
            found = value
        elif at + 1 < len(argv):
            found = argv[at + 1]
    return found


def number(argv: Sequence[str], *names: str) -> int | None:
    """The same as a whole number; None when it is none."""
    text = option(argv, *names)
    return int(text) if text is not None and text.isascii() and text.isdecimal() else None


def given(argv: Sequence[str], *names: str) -> bool:
    """Whether one of the options is there, with or without a value."""
    wanted = {_spelling(name) for name in names}
    return any(word.startswith("-") and _spelling(word.partition("=")[0]) in wanted for word in argv)


def _spelling(name: str) -> str:
    return name.replace("_", "-")
