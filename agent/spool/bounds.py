"""How much of the volume each stream may take: bytes taken in, room or the reason why there is none out."""

import threading
from collections.abc import Mapping
from pathlib import Path

from agent.spool.files import Files

GUARANTEED_PART = 0.5  # of what is left when every stream has its least


class Bounds:
    """One budget for the streams of a spool. Each has `least_bytes`; half of the rest is theirs by weight, the other
    half is for who comes first.

    A stream that fills up can so never take what another one needs to go on. Methods may be called from any thread.
    """

    def __init__(
        self,
        folder: Path,
        files: Files,
        *,
        max_bytes: int,
        min_free_bytes: int,
        weights: Mapping[str, float],
        least_bytes: int = 0,
    ) -> None:
        self._folder = folder
        self._files = files
        self.max_bytes = max_bytes
        self.min_free_bytes = min_free_bytes
        whole = sum(weights.values())
        part = 1.0 if len(weights) == 1 else GUARANTEED_PART
        rest = max_bytes - least_bytes * len(weights)
        self._guaranteed = {name: least_bytes + int(rest * part * weight / whole) for name, weight in weights.items()}
        self._pool = max_bytes - sum(self._guaranteed.values())
        self._used = dict.fromkeys(weights, 0)
        self._lock = threading.Lock()

    def take(self, stream: str, size: int) -> str:
        """Take `size` bytes for a stream. Empty when they are its own now, else the reason why not."""
        free = self._files.free_bytes(self._folder)
        if free - size < self.min_free_bytes:
            return f"less than {self.min_free_bytes} bytes would stay free on the volume"
        with self._lock:
            used = self._used | {stream: self._used[stream] + size}
            if sum(max(0, used[name] - self._guaranteed[name]) for name in used) > self._pool:
                return f"the stream has taken {self._used[stream]} bytes, and its share leaves no more"
            self._used = used
        return ""

    def count(self, stream: str, size: int) -> None:
        """Bytes that a stream has anyway: found at the start, or (negative) given back."""
        with self._lock:
            self._used[stream] += size

    def used(self, stream: str) -> int:
        return self._used[stream]

    def limit(self, stream: str) -> int:
        """The most this stream can reach while the others stay within what is guaranteed to them."""
        return self._guaranteed[stream] + self._pool

    def under_floor(self) -> bool:
        """Whether the volume has less free than must remain."""
        return self._files.free_bytes(self._folder) < self.min_free_bytes
