"""Processes of engines in; the shapes of the models that they were started with, told to the tariff.

The files are another program's, on a file system that may hang: they are read in a thread, once for each start of an
engine.
"""

from collections.abc import Callable, Iterable

import anyio.to_thread

from agent.core.board import Board
from agent.core.cost.constants import WorkConstants
from agent.core.cost.shapes import ModelShape

ReadShape = Callable[[Iterable[int]], ModelShape | None]


class ModelShapes:
    """One per agent. `read` finds the shape of whatever model these processes name; it blocks."""

    def __init__(self, work: WorkConstants, board: Board, read: ReadShape) -> None:
        self._work = work
        self._board = board
        self._read = read
        self._looked: dict[str, tuple[int, ...]] = {}  # engine -> the processes that were looked at

    async def step(self) -> None:
        """Look at engines whose processes are new."""
        statuses = {name: snapshot.status for name, snapshot in self._board.engines.items()}
        for gone in self._looked.keys() - statuses.keys():
            del self._looked[gone]
        for name, status in statuses.items():
            if status.pids and self._looked.get(name) != status.pids:
                self._looked[name] = status.pids
                found = await anyio.to_thread.run_sync(self._read, status.pids)
                self._work.tell_shapes(name, "model_folder", {} if found is None else {"": found})
