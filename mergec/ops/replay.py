"""Replay: the numbers that torch's generator gives one after the other from a seed, found at any position of them.

mergekit draws so: one number per entry, tensor by tensor in the order of their names, in a tensor model by model.
"""

from __future__ import annotations

import bisect
import threading
from collections import OrderedDict
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from mergec.ops.random import LEVELS

if TYPE_CHECKING:
    from torch import Tensor

STREAM = "mt19937"
"""The stream of draws that are replayed; their slot is the position of the first."""

_EVERY = 1 << 24  # states are kept at multiples of this, so that no position is far from one
_CHUNK = 1 << 20
_MOVING = 64


def replayed(seed: int, start: int, stop: int) -> Tensor:
    """The numbers at positions [start, stop) after `torch.manual_seed(seed)`, int32 from 0 to LEVELS - 1."""
    import torch

    return (_tape(seed).read(start, stop) * LEVELS).to(torch.int32)


def as_drawn(density: float, dtype: Any) -> float:
    """A keep probability as mergekit compares numbers to it: in float32, or in bfloat16 for deltas in that."""
    import torch

    return float(torch.tensor(density, dtype=torch.bfloat16 if dtype == torch.bfloat16 else torch.float32))


@lru_cache(maxsize=4)
def _tape(seed: int) -> _Tape:
    return _Tape(seed)


class _Tape:
    """A generator's states at some positions: fixed ones, and those at which reading ended lately."""

    def __init__(self, seed: int) -> None:
        import torch

        self._lock = threading.Lock()
        self._fixed = [torch.Generator().manual_seed(seed).get_state()]
        self._moving: OrderedDict[int, Tensor] = OrderedDict()

    def read(self, start: int, stop: int) -> Tensor:
        import torch

        generator = torch.Generator()
        generator.set_state(self._state_at(start))
        numbers = torch.rand(stop - start, generator=generator)
        with self._lock:
            self._moving[stop] = generator.get_state()
            while len(self._moving) > _MOVING:
                self._moving.popitem(last=False)
        return numbers

    def _state_at(self, position: int) -> Tensor:
        """The state before the number at a position; what lies between it and a known one is drawn and forgotten."""
        import torch

        with self._lock:
            known = sorted(self._moving)
            near = bisect.bisect_right(known, position)
            begin = min(position // _EVERY, len(self._fixed) - 1) * _EVERY
            state = self._fixed[begin // _EVERY]
            if near and known[near - 1] >= begin:
                begin = known[near - 1]
                state = self._moving[begin]
            if begin == position:
                return state
            generator = torch.Generator()
            generator.set_state(state)
            while begin < position:
                step = min(_CHUNK, position - begin, _EVERY - begin % _EVERY)
                torch.rand(step, generator=generator)
                begin += step
                if begin == len(self._fixed) * _EVERY:
                    self._fixed.append(generator.get_state())
            return generator.get_state()
