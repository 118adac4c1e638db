"""Items that a destination will never take, with the reason: into a stream of their own, and back when asked.

A letter is durable before the item is settled as dead, and an item is back in its stream before the letter is settled:
a crash between the two leaves a copy too many, never one too few.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import msgspec
from msgspec import Struct

from agent.clock import unix_ns
from agent.core.http_outcome import bounded_reason
from agent.spool.stream import ItemTooLarge

VERSION = 1


class DeadLetter(Struct, frozen=True, kw_only=True):
    """One item given up. `item` are the bytes as they lay in `stream`; `sequence` its number there."""

    version: int = VERSION
    stream: str
    destination: str
    reason: str
    at_ns: int  # wall clock
    sequence: int
    item: bytes


class Refused(NamedTuple):
    """An item on its way to the dead letters."""

    sequence: int
    item: bytes
    reason: str


class LetterStream(Protocol):
    """What dead letters need of a stream."""

    async def append(self, items: Sequence[bytes]) -> None: ...
    def settle(self, sequences: Sequence[int], result: str) -> None: ...


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(DeadLetter)


def read_letter(data: bytes) -> DeadLetter:
    """A letter from its bytes. Raises `ValueError` when they are none, or were written by a newer version."""
    try:
        letter = _decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise ValueError(f"this is not a dead letter: {error}") from None
    if letter.version > VERSION:
        raise ValueError(
            f"this dead letter has version {letter.version}; this program reads up to {VERSION}: update it"
        )
    return letter


class DeadLetters:
    """The dead letters of one stream to one destination."""

    def __init__(
        self, letters: LetterStream, stream: str, destination: str, now_ns: Callable[[], int] = unix_ns
    ) -> None:
        self._letters = letters
        self._stream = stream
        self.destination = destination
        self._now_ns = now_ns

    async def bury(self, refused: Sequence[Refused]) -> list[int]:
        """Returns when the letters are durable; waits for room. What it returns: numbers too large for a letter."""
        letters = [self._letter(one) for one in refused]
        try:
            await self._letters.append(letters)
        except ItemTooLarge:
            if len(refused) == 1:
                return [refused[0].sequence]
            middle = len(refused) // 2
            return await self.bury(refused[:middle]) + await self.bury(refused[middle:])
        return []

    def _letter(self, one: Refused) -> bytes:
        letter = DeadLetter(
            stream=self._stream,
            destination=self.destination,
            reason=bounded_reason(one.reason),
            at_ns=self._now_ns(),
            sequence=one.sequence,
            item=one.item,
        )
        return _encoder.encode(letter)


async def replay(
    sequences: Sequence[int], letters: Sequence[DeadLetter], dead: LetterStream, stream: LetterStream
) -> int:
    """Give the items of these letters to `stream` again and take the letters out of `dead`; how many.

    `sequences` are the letters' own numbers in `dead`. Waits until the items are durable.
    """
    if letters:
        await stream.append([letter.item for letter in letters])
        dead.settle(sequences, "delivered")
    return len(letters)
