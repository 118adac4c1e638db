"""Static tokens: files with one secret each in, the identity of who sends one of them out."""

import hashlib
import hmac
import os
from collections.abc import Callable, Sequence

from agent import clock
from agent.core.ports import ConfigError
from agent.doors.identity import Identity
from agent.doors.settings import TokenSettings
from agent.doors.watched import Watched

MIN_CHARACTERS = 16
MAX_CHARACTERS = 4096
LAPSE_SECONDS = 30.0


def parse_token(content: bytes, key: str) -> bytes:
    """The token in a file: its only line. Raises `ConfigError` about `key`, without anything of the content."""
    token = content.strip(b" \t\r\n")
    if not token:
        raise ConfigError(key, "the file is empty; it must hold one token, such as `openssl rand -base64 32` prints")
    if not all(0x21 <= byte <= 0x7E for byte in token):
        raise ConfigError(key, "the file must hold one line of printable ASCII characters without spaces, the token")
    if not MIN_CHARACTERS <= len(token) <= MAX_CHARACTERS:
        raise ConfigError(
            key,
            f"the token must have {MIN_CHARACTERS} to {MAX_CHARACTERS} characters, not {len(token)}; make one with "
            "`openssl rand -base64 32`",
        )
    return token


class StaticTokens:
    """All tokens of one listener. Raises `ConfigError` for a file that holds no token, or the same as another.

    A changed file counts within a second and ends the old token. A file that is gone, empty or otherwise no token
    leaves the last one in force for `LAPSE_SECONDS`: long enough for whoever is just writing it, and not for ever.
    """

    def __init__(
        self, settings: Sequence[TokenSettings], *, key: str, boot_ns: Callable[[], int] = clock.boot_ns
    ) -> None:
        self._entries: list[tuple[Watched[bytes], Identity]] = []
        first: dict[bytes, str] = {}
        for number, token in enumerate(settings):
            place = f"{key}.{number}.file"
            nobody = os.urandom(32)  # the digest of no token that anybody knows
            watched = Watched({place: token.file}, _digest_for(place), lapse=(LAPSE_SECONDS, nobody), boot_ns=boot_ns)
            other = first.setdefault(watched.current(), token.name)
            if other != token.name:
                raise ConfigError(place, f"{token.file} holds the same token as `{other}`; give each its own")
            identity = Identity(name=token.name, kind="token", scopes=frozenset(token.scopes), tenant=token.tenant)
            self._entries.append((watched, identity))

    @property
    def errors(self) -> tuple[str, ...]:
        """What is wrong with the files now; see `Watched.error`."""
        return tuple(error for watched, _ in self._entries if (error := watched.error))

    def find(self, digest: bytes) -> Identity | None:
        """Whose token has this SHA-256. Takes equally long for every digest: all entries are compared, in full."""
        found = None
        for watched, identity in reversed(self._entries):  # the first entry wins, should two become the same
            if hmac.compare_digest(watched.current(), digest):
                found = identity
        return found


def _digest_for(key: str) -> Callable[[bytes], bytes]:
    return lambda content: hashlib.sha256(parse_token(content, key)).digest()
