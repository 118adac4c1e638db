"""Names of tenants: text that somebody sent in, names that are safe to keep, and few enough of them, out. Pure."""

from collections.abc import Set as AbstractSet

MAX_NAME = 64
OTHER = "other"


def safe_name(text: str) -> str | None:
    """A name of 1 to 64 printable ASCII characters, less the blanks around it; None for anything else.

    Nothing is cut or replaced: a changed name would be somebody else's.
    """
    name = text.strip(" \t")
    return name if 0 < len(name) <= MAX_NAME and name.isascii() and name.isprintable() else None


class Names:
    """Tells at most `most` names apart, for the length of the process. Later ones are `OTHER`, and stay so.

    None is ever forgotten: a crowd of new names can then neither push out the old ones nor make series without end.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: set[str] = set()
        self.grouped = 0  # how often a name became `OTHER`

    def __len__(self) -> int:
        return len(self._kept)

    def admit(self, name: str, listed: AbstractSet[str] = frozenset()) -> str:
        """The name to go by. Those in `listed` are always known and take no room."""
        if name in listed or name in self._kept:
            return name
        if len(self._kept) >= self._most:
            self.grouped += 1
            return OTHER
        self._kept.add(name)
        return name
