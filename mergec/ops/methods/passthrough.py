"""Passthrough: one model's tensors as they are, or scaled."""

from typing import Annotated

from pydantic import Field

from mergec.graph import Node
from mergec.ops.basic import scale as scaled
from mergec.ops.registry import Each, each, method

Scale = Annotated[float | None, Field(allow_inf_nan=False, description="factor on the tensor; left out: 1")]


@method("https://github.com/arcee-ai/mergekit#passthrough", base="input", models=(1, 1))
def passthrough(models: tuple[Node, ...], *, scale: Each[Scale] = each(None)) -> Node:
    """Copy the tensors of one model, byte for byte, or times `scale`.

    result = scale * x. A scale of 0 removes what a projection adds to the residual stream.

    Elsewhere: mergekit decodes and rounds what could be copied.
    """
    (only,), (factor,) = models, scale
    return only if factor is None else scaled(only, factor=factor)
