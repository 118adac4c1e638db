"""A file of hashed API keys in, the tenant of a key out; and the engine's own key.

The hash is a plain SHA-256: keys are random and long, so there is nothing to guess, and each request can afford it.
"""

import hmac
import re
from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from agent.clock import NS
from agent.core.ports import ConfigError
from agent.sidecar.tenancy.names import OTHER, safe_name

MAX_KEY_BYTES = 4096
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_EXPIRES = "expires="
_FORM = "`<SHA-256 in hexadecimal> [expires=2027-01-31T00:00:00Z] <tenant>`"


class KeyOwner(NamedTuple):
    """Whose key it is, and until when (Unix ns; None: no end)."""

    tenant: str
    expires_at_ns: int | None


class KeyTable:
    """One state of the file of keys. `tenants`: all names in it."""

    def __init__(self, owners: dict[bytes, KeyOwner]) -> None:
        self._owners = {digest: (digest, owner) for digest, owner in owners.items()}
        self.tenants = frozenset(owner.tenant for owner in owners.values())

    def __len__(self) -> int:
        return len(self._owners)

    def find(self, digest: bytes) -> KeyOwner | None:
        """The owner of the key with this SHA-256.

        The look-up goes by Python's keyed hash of the digest, which nobody outside can steer; the digests themselves
        are compared in constant time.
        """
        found = self._owners.get(digest)
        if found is None or not hmac.compare_digest(found[0], digest):
            return None
        return found[1]


NO_KEYS = KeyTable({})


def parse_keys(content: bytes, key: str) -> KeyTable:
    """The keys in a file. Raises `ConfigError` about `key` with a line's number, and nothing of the content: somebody
    may have written a key itself there.

    A file of comments only holds no keys. An empty one is refused: it is rather being written just now.
    """
    if not content.strip():
        raise ConfigError(key, "the file is empty; to have no keys, write a line that begins with #")
    try:
        text = content.decode("ascii")
    except UnicodeDecodeError:
        raise ConfigError(key, "the file must be ASCII") from None
    owners: dict[bytes, KeyOwner] = {}
    lines: dict[bytes, int] = {}
    for number, line in _lines(text):
        digest, owner = _entry(line, number, key)
        if digest in owners:
            raise ConfigError(key, f"line {number} has the same key as line {lines[digest]}; leave one out")
        owners[digest], lines[digest] = owner, number
    return KeyTable(owners)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.split("\n"), start=1):
        stripped = line.strip(" \t\r")
        if stripped and not stripped.startswith("#"):
            yield number, stripped


def _entry(line: str, number: int, key: str) -> tuple[bytes, KeyOwner]:
    parts = line.split(maxsplit=1)
    if not _DIGEST.fullmatch(parts[0]) or len(parts) != 2:
        raise ConfigError(key, f"line {number} must be {_FORM}; never write the key itself")
    name, expires_at_ns = parts[1], None
    if name.startswith(_EXPIRES):
        instant, _, name = name.partition(" ")
        expires_at_ns = _instant_ns(instant.removeprefix(_EXPIRES), number, key)
    tenant = safe_name(name)
    if tenant is None or tenant == OTHER:
        raise ConfigError(
            key,
            f"line {number} must end with a tenant of 1 to 64 printable characters, and `{OTHER}` stands for the rest",
        )
    return bytes.fromhex(parts[0]), KeyOwner(tenant, expires_at_ns)


def _instant_ns(text: str, number: int, key: str) -> int:
    try:
        instant = datetime.fromisoformat(text)
        if instant.tzinfo is None:
            raise ValueError("no zone")
        return int(instant.timestamp()) * NS
    except (ValueError, OverflowError):
        raise ConfigError(
            key, f"line {number}: after `expires=` comes an instant with its zone, such as 2027-01-31T00:00:00Z"
        ) from None


def parse_engine_key(content: bytes, key: str) -> bytes:
    """The engine's own key: the only line of its file. Raises `ConfigError`, without anything of the content."""
    found = content.strip(b" \t\r\n")
    if not 0 < len(found) <= MAX_KEY_BYTES or not all(0x21 <= byte <= 0x7E for byte in found):
        raise ConfigError(
            key, f"the file must hold the engine's key: one line of 1 to {MAX_KEY_BYTES} characters without spaces"
        )
    return found
