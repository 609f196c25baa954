"""Line: the tiles of a sweep, taken in order by any number of hands; what must happen in that order waits its turn."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager

from mergec.ops.op import Tile


class Line:
    """Tiles that are handed out in order, each to one hand; a hand iterates over those that it is given.

    The first is finished before others are handed out, so that what is made once for all of them is there.
    `emitted` counts the entries that were emitted so far.
    """

    def __init__(self, tiles: Iterable[Tile]) -> None:
        self._tiles = iter(tiles)
        self._changed = threading.Condition()
        self._numbers: dict[int, int] = {}
        self._turns: dict[Hashable, int] = {}
        self._has_first = False
        self._error: BaseException | None = None
        self.emitted = 0

    def __iter__(self) -> Iterator[Tile]:
        while (tile := self._take()) is not None:
            yield tile
            if not self._has_first:
                with self._changed:
                    self._has_first = True
                    self._changed.notify_all()

    def _take(self) -> Tile | None:
        with self._changed:
            self._await(lambda: self._has_first or not self._numbers)
            tile = next(self._tiles, None)
            if tile is not None:
                self._numbers[tile.start] = len(self._numbers)
            return tile

    @contextmanager
    def turn(self, key: Hashable, tile: Tile) -> Iterator[None]:
        """Inside, all earlier tiles had their turn with this key, and no later one has."""
        number = self._numbers[tile.start]
        with self._changed:
            self._await(lambda: self._turns.get(key, 0) == number)
        yield
        with self._changed:
            self._turns[key] = number + 1
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Give up: every hand that waits, or wants another tile, is met with the error."""
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    def _await(self, is_due: Callable[[], bool]) -> None:
        self._changed.wait_for(lambda: self._error is not None or is_due())
        if self._error is not None:
            raise self._error
