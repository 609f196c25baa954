"""FREE-Merging: a backbone of high-pass filtered deltas, and for each task its few largest changes."""

import math
from typing import Annotated, Literal

from pydantic import Field

from mergec.graph import Node
from mergec.ops.artifact import Artifact
from mergec.ops.basic import diff, weigh
from mergec.ops.fourier import Cutoff, Filter, high_pass
from mergec.ops.fuse import Lambda, Weight, fuse_deltas
from mergec.ops.masks import join, keep_largest, keep_rows
from mergec.ops.matrix import AsMatrix, is_matrix
from mergec.ops.parts import entries_at, masked, places, ratio
from mergec.ops.registry import Each, each, method
from mergec.ops.rescale import l1

Keep = Annotated[float, Field(ge=0, le=1, description="share of a delta's entries that an expert keeps")]
KeepPer = Annotated[
    Literal["rows", "tensor"], Field(description="among which entries the largest are kept: of a row, or of a tensor")
]
ExpertScale = Annotated[
    Annotated[float, Field(allow_inf_nan=False)] | Literal["auto"],
    Field(description="factor on what an expert keeps; auto: one per task, from the sizes of what is kept and passed"),
]
Combine = Annotated[
    Literal["add", "replace"],
    Field(description="where backbone and expert both change an entry: add both, or take the expert's alone"),
]


@method("arXiv:2411.16815")
def free(
    base: Node,
    models: tuple[Node, ...],
    *,
    weight: Each[Weight] = each(1.0),
    filter: Filter = "clean",
    cutoff: Cutoff = 0.1,
    as_matrix: AsMatrix = True,
    lambda_: Lambda = 1.0,
    keep: Keep = 0.01,
    keep_per: KeepPer = "rows",
    expert_scale: ExpertScale = "auto",
    combine: Combine = "add",
) -> Artifact:
    """Add up the high frequencies of all deltas, and give each task the largest entries of its own delta on top.

    result = backbone + scale_t * top(x_t - base), backbone = base + lambda * sum(weight_i * highpass(x_i - base)).
    top keeps int(keep * columns) entries of each row, or int(keep * n) of a tensor, equal ones by lowest index.
    scale_t = -log10(keep) / keep * sum(mean |top|) / sum(mean |highpass(x_t - base)|), sums over the tensors of the
    model, if `expert_scale` is auto; 0 / 0 is 1.

    Elsewhere: the expert of the authors' code for language models is always zero, since it keeps the slice [n:-0];
    that for classifiers multiplies it by 10, that for images by scale_t, as here.
    """
    deltas = [diff(model, base) for model in models]
    passed = [high_pass(one, filter, cutoff) for one in deltas] if is_matrix(base, as_matrix) else deltas
    backbone = fuse_deltas(base, passed, weight, False, lambda_)
    merged = join(*(weigh(one, weight=share * lambda_) for one, share in zip(passed, weight, strict=True)))
    experts: list[dict[str, Node]] = [{} for _ in models]
    for parts, delta, high in zip(experts, deltas, passed, strict=True):
        mask, count = _largest(delta, keep, keep_per)
        if expert_scale == "auto" and keep:
            share = 1 / max(1, base.type.numel)
            parts["ratio"] = ratio(l1(masked(delta, mask)), l1(high), factors=(-math.log10(keep) / keep * share, share))
        if count:
            parts["values"] = entries_at(_scaled(delta, expert_scale), mask, count=count)
            parts["indices"] = places(mask, count=count)
        if count and combine == "replace":
            parts["replaced"] = entries_at(merged, mask, count=count)
    return Artifact(backbone, experts)


def _scaled(delta: Node, factor: float | str) -> Node:
    return delta if isinstance(factor, str) else weigh(delta, weight=factor)


def _largest(delta: Node, keep: float, per: str) -> tuple[Node, int]:
    """Which entries are kept, and how many in all."""
    width = delta.type.row if per == "rows" else delta.type.numel
    count = int(keep * width)
    kept = keep_rows(delta, count=count) if per == "rows" else keep_largest(delta, count)
    return kept, count * (delta.type.numel // max(1, width))
