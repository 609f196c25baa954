"""Line: tiles are handed out once each, turns come in their order whoever computes, and nobody waits for ever."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import pytest

from mergec.execute.line import Line
from mergec.ops.op import Tile

TILES = [Tile("w", start, start + 10, 1) for start in range(0, 400, 10)]


def by_hands(number: int, hand: Callable[[], None]) -> list[BaseException]:
    """Errors of so many threads that do the same."""
    errors: list[BaseException] = []

    def one() -> None:
        try:
            hand()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=one, daemon=True) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert not any(thread.is_alive() for thread in threads)
    return errors


@pytest.mark.parametrize("hands", [1, 2, 5])
def test_every_tile_is_computed_once_and_has_its_turns_in_order(hands: int) -> None:
    line, computed, turns = Line(TILES), list[int](), dict[str, list[int]](a=[], b=[])

    def hand() -> None:
        for tile in line:
            computed.append(tile.start)
            time.sleep(random.random() * 0.002)
            for key in "ab":
                with line.turn(key, tile):
                    time.sleep(random.random() * 0.001)
                    turns[key].append(tile.start)

    assert not by_hands(hands, hand)
    order = [tile.start for tile in TILES]
    assert sorted(computed) == order
    assert turns == {"a": order, "b": order}


def test_the_first_tile_is_finished_before_the_second_begins() -> None:
    line, seen = Line(TILES), list[str]()

    def hand() -> None:
        for tile in line:
            seen.append(f"begin {tile.start}")
            time.sleep(0.01 if tile.start == 0 else 0)
            seen.append(f"end {tile.start}")

    assert not by_hands(4, hand)
    assert seen[:2] == ["begin 0", "end 0"]


def test_tiles_are_computed_side_by_side() -> None:
    line, together = Line(TILES[:3]), threading.Barrier(2)

    def hand() -> None:
        for tile in line:
            if tile.start:
                together.wait(timeout=20)

    assert not by_hands(2, hand)


@pytest.mark.parametrize("at", [0, 10, 390])
def test_a_hand_that_fails_takes_the_others_with_it(at: int) -> None:
    line, failure = Line(TILES), ValueError("tile")

    def hand() -> None:
        try:
            for tile in line:
                if tile.start == at:
                    raise failure
                with line.turn("a", tile):
                    pass
        except BaseException as error:
            line.fail(error)
            raise

    errors = by_hands(3, hand)
    assert errors
    assert set(errors) == {failure}
