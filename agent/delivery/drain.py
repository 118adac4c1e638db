"""What is under way when the program ends may end by itself, for a bounded time."""

from collections.abc import Iterator
from contextlib import contextmanager

import anyio


class Drain:
    """Scopes that a cancellation from outside does not reach until `begin` has run out."""

    def __init__(self) -> None:
        self.begun = False
        self._until = float("inf")
        self._scopes: set[anyio.CancelScope] = set()

    @contextmanager
    def scope(self, seconds: float = float("inf")) -> Iterator[anyio.CancelScope]:
        """A shield of at most `seconds`. Its `cancelled_caught` says that the time was over."""
        deadline = min(anyio.current_time() + seconds, self._until)
        with anyio.CancelScope(deadline=deadline, shield=True) as scope:
            self._scopes.add(scope)
            try:
                yield scope
            finally:
                self._scopes.discard(scope)

    def begin(self, seconds: float) -> None:
        """From now on every scope has `seconds` left."""
        self.begun = True
        self._until = anyio.current_time() + seconds
        for scope in self._scopes:
            scope.deadline = min(scope.deadline, self._until)
