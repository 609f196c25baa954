"""Bits: choose entries by masking their bits; where torch chooses between two values it branches at every entry."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def integers(values: Tensor) -> Tensor:
    """The bits of floating-point values as signed integers of the same width."""
    import torch

    return values.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[values.dtype.itemsize])


def keep(values: Tensor, kept: Tensor) -> Tensor:
    """The values where `kept` is true, +0 elsewhere - also in place of an infinity, which a product would not give.

    Takes a tenth of the time of torch.where, which is not vectorised.
    """
    return _mask(kept, values).bitwise_and_(integers(values)).view(values.dtype)


def constant(number: float, kept: Tensor, like: Tensor) -> Tensor:
    """A number where `kept` is true, 0 elsewhere, in the dtype of `like`."""
    return _mask(kept, like).bitwise_and_(int(integers(like.new_tensor([number])))).view(like.dtype)


def _mask(kept: Tensor, like: Tensor) -> Tensor:
    """All bits where true, none where false."""
    import torch

    return kept.view(torch.int8).to(integers(like).dtype).neg_()
