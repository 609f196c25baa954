"""Transplant: a row for each token of another tokenizer, copied where the model has it, else approximated.

`kept` and `wanted` are indices as text (`ops/embed.py`), one number for each row of the result: the model's own row of
the same token, and the row itself where it is to be approximated. A row of neither is zeros. *Shared* rows are the kept
ones; what approximates from the donor writes a token as a combination of shared tokens in the donor's space, and takes
the same combination of the model's rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from mergec.graph import Node
from mergec.ops import random
from mergec.ops.embed import index_of, index_rows
from mergec.ops.op import Tile, op

if TYPE_CHECKING:
    from torch import Tensor

Scheme: TypeAlias = Literal["distance_proportional", "barycentric", "least_squares"]
Subword: TypeAlias = Literal["mean", "sum", "weighted_mean", "first_last"]
BATCH = 256  # of a fixed size, so that products have the same bits for any run
_FLOOR = 1e-6


def _shape(nodes: Sequence[Node], attrs: Mapping[str, Any]) -> tuple[tuple[int, ...], str]:
    return (index_rows(attrs["kept"]), *nodes[0].type.shape[1:]), nodes[0].type.dtype


def _scratch(node: Node) -> int:
    """Per entry of the result: shared rows of both tables, and for a batch its scores, basis and combinations."""
    shared, width = _given(node.attr("kept")), max(1, node.type.shape[-1])
    wide = max(table.type.shape[-1] for table in node.inputs)
    k = min(next((int(str(value)) for name, value in node.attrs if name == "k"), 1), shared)
    batch = BATCH * (4 * shared + 4 * k * (width + 2 * wide) + 4 * wide)
    taken = shared * (width + 2 * wide)
    item = node.type.item_bytes
    return 4 * item + ceil(item * (batch + taken) / max(1, node.type.numel))


def _given(index: str) -> int:
    """How many rows an index has something for."""
    return sum(int(run.partition("+")[2]) for run in index.split() if "+" in run)


def _copied(table: Tensor, kept: str) -> Tensor:
    """The rows that the model has, in their new places; zeros elsewhere."""
    import torch

    index = torch.from_numpy(index_of(kept)).to(table.device)
    result = table.new_zeros((len(index), *table.shape[1:]))
    result[index >= 0] = table[index[index >= 0]]
    return result


def _places(text: str, table: Tensor) -> Tensor:
    """The numbers of the rows that an index has something for."""
    import torch

    index = index_of(text)
    return torch.from_numpy(index[index >= 0]).to(table.device)


@op("whole", "part -> weight", scratch_bytes=_scratch, gives=_shape)
def transplant_plain(table: Tensor, *, kept: str, wanted: str, how: str, seed: int, stream: str, tile: Tile) -> Tensor:
    """Rows for new tokens of which nothing is known: `zero`, the `mean` of all rows, or `randn`: normal numbers."""
    result, places = _copied(table, kept), _places(wanted, table)
    if how == "mean":
        result[places] = table.double().mean(dim=0).to(table.dtype)
    elif how == "randn":
        numbers = random.normal(0, result.numel(), random.key(seed, stream, tile.name, ""), tile.device)
        result[places] = numbers.view(result.shape)[places].to(table.dtype)
    return result


@op("whole", "part -> weight", scratch_bytes=_scratch, gives=_shape)
def transplant_subword(table: Tensor, *, kept: str, pieces: tuple[tuple[int, ...], ...], how: str) -> Tensor:
    """Each new token from the rows of the pieces that the model's tokenizer cuts its text into.

    `pieces` are, for each, its row and the pieces' numbers. Weights of the `weighted_mean` grow from the first to the
    last piece, or the other way where `how` ends in `of a head`: a head predicts the first. `first_last` takes the
    row of the last piece, for a head that of the first.
    """
    result = _copied(table, kept)
    rule, _, where = how.partition(" of a ")
    for row, *numbers in pieces:
        rows = table[numbers].double()
        if rule == "first_last":
            made = rows[0 if where else -1]
        else:
            steps = range(1, len(numbers) + 1)
            weights = list(reversed(steps) if where else steps) if rule == "weighted_mean" else [1] * len(numbers)
            total = rows.new_tensor(weights, dtype=rows.dtype) @ rows
            made = total if rule == "sum" else total / sum(weights)
        result[row] = made.to(table.dtype)
    return result


@op("whole", "part part -> weight", scratch_bytes=_scratch, gives=_shape)
def transplant_omp(table: Tensor, donor: Tensor, *, kept: str, wanted: str, k: int) -> Tensor:
    """Orthogonal matching pursuit: each new token's donor row as a combination of k shared ones.

    The shared row that goes best with what is left is taken k times, what is left is then orthogonal to all that were
    taken; the coefficients are those of least squares. Goddard and Fernandes Neto, Training-Free Tokenizer
    Transplantation via Orthogonal Matching Pursuit, arXiv:2506.06607.
    """

    def combine(targets: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        chosen = pursue(targets, points, k)
        return chosen, _least_squares(points[chosen], targets)

    return _combined(table, donor, kept, wanted, combine)


@op("whole", "part part -> weight", scratch_bytes=_scratch, gives=_shape)
def transplant_nearest(
    table: Tensor, donor: Tensor, *, kept: str, wanted: str, k: int, scheme: Scheme, cosine: bool
) -> Tensor:
    """Interpolation: each new token as a combination of the k shared ones that are nearest to it in the donor's space.

    Weights by 1 / distance (`distance_proportional`), with sum 1 that come nearest (`barycentric`), or any that do
    (`least_squares`). Distances are Euclidean, or 1 - cosine. Of equal distances the lower number is nearer.
    """

    def combine(targets: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        far = _cosine_distances(targets, points) if cosine else _distances(targets, points)
        values, order = far.sort(dim=1, stable=True)
        chosen, near = order[:, :k], values[:, :k].double()
        if scheme == "least_squares":
            return chosen, _least_squares(points[chosen], targets)
        if scheme == "barycentric":
            return chosen, _barycentric(points[chosen], targets)
        weights = 1 - near if cosine else 1 / near.clamp_min(_FLOOR)
        return chosen, weights / weights.sum(dim=1, keepdim=True).clamp_min(_FLOOR)

    return _combined(table, donor, kept, wanted, combine)


def _combined(
    table: Tensor, donor: Tensor, kept: str, wanted: str, combine: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
) -> Tensor:
    """The result with wanted rows by combinations, a batch of a fixed size after the other."""
    import torch

    result, places = _copied(table, kept), _places(wanted, table)
    index = torch.from_numpy(index_of(kept)).to(table.device)
    shared = (index >= 0).nonzero()[:, 0]
    points, own = donor[shared], table[index[shared]]
    for start in range(0, len(places), BATCH):
        batch = places[start : start + BATCH]
        targets = points.new_zeros((BATCH, points.shape[1]))
        targets[: len(batch)] = donor[batch]
        chosen, coefficients = combine(targets, points)
        made = torch.bmm(coefficients.unsqueeze(1), own[chosen].double())[:, 0]
        result[batch] = made[: len(batch)].to(table.dtype)
    return result


def pursue(targets: Tensor, points: Tensor, k: int) -> Tensor:
    """The numbers of the k points that orthogonal matching pursuit takes for each target: [targets, k]."""
    import torch

    count, width = targets.shape
    basis = targets.new_zeros((count, k, width))
    chosen = torch.zeros((count, k), dtype=torch.int64, device=targets.device)
    rest = targets.clone()
    each = torch.arange(count, device=targets.device)
    for step in range(k):
        scores = (rest @ points.T).abs()
        scores[each[:, None], chosen[:, :step]] = -1
        chosen[:, step] = scores.argmax(dim=1)
        atom, before = points[chosen[:, step]], basis[:, :step]
        for _ in range(2):  # once is not enough in float32
            atom = atom - torch.bmm(torch.bmm(before, atom.unsqueeze(2)).transpose(1, 2), before)[:, 0]
        length = atom.norm(dim=1, keepdim=True)
        basis[:, step] = torch.where(length > _FLOOR * _FLOOR, atom / length, 0)
        rest = rest - (basis[:, step] * rest).sum(dim=1, keepdim=True) * basis[:, step]
    return chosen


def _least_squares(points: Tensor, targets: Tensor) -> Tensor:
    """The combination of each target's own points, [targets, k, width], that comes nearest to it, in float64."""
    import torch

    left, right = points.double().transpose(1, 2).cpu(), targets.double().unsqueeze(2).cpu()
    found: Tensor = torch.linalg.lstsq(left, right, driver="gelsd").solution
    return found[:, :, 0].to(targets.device)


def _barycentric(points: Tensor, targets: Tensor) -> Tensor:
    """The same with coefficients of sum 1: least squares of what is between the last point and the others."""
    import torch

    last = points[:, -1:].double()
    free = _least_squares(points[:, :-1].double() - last, targets.double() - last[:, 0])
    return torch.cat([free, 1 - free.sum(dim=1, keepdim=True)], dim=1)


def _distances(targets: Tensor, points: Tensor) -> Tensor:
    import torch

    return torch.cdist(targets, points, compute_mode="donot_use_mm_for_euclid_dist")


def _cosine_distances(targets: Tensor, points: Tensor) -> Tensor:
    lengths = targets.norm(dim=1)[:, None] * points.norm(dim=1)[None]
    far: Tensor = 1 - (targets @ points.T) / lengths.clamp_min(_FLOOR)
    return far
