"""Transplant: a row for each token of another tokenizer, copied where the model has it, else approximated.

`kept` and `wanted` are indices as text (`ops/embed.py`), one number for each row of the result: the model's own row of
the same token, and the row itself where it is to be approximated. A row of neither is zeros. *Shared* rows are the kept
ones; what approximates from the donor finds how a token lies among the shared ones in the donor's space, and puts it
so in the model's. Rows that are made get `noise` times normal numbers and are multiplied by `scale`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import ceil
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from mergec.graph import Node
from mergec.ops import random
from mergec.ops.embed import index_of, index_rows
from mergec.ops.op import Tile, op

if TYPE_CHECKING:
    from torch import Tensor

    Make = Callable[[Tensor], Tensor]
    """Numbers of rows -> these rows, float64."""

Scheme: TypeAlias = Literal["distance_proportional", "barycentric", "least_squares"]
Subword: TypeAlias = Literal["mean", "sum", "weighted_mean", "first_last"]
BATCH = 128  # of a fixed size, so that products have the same bits for any run
_BLOCK = 2048  # rows that are copied or added at once
_FEW = 8  # targets whose points are in float64 at once
_FLOOR = 1e-6
_DEPENDENT = 1e-5  # what is left of a float32 row after projections, at most, if it lies in the others' span


def _shape(nodes: Sequence[Node], attrs: Mapping[str, Any]) -> tuple[tuple[int, ...], str]:
    return (index_rows(attrs["kept"]), *nodes[0].type.shape[1:]), nodes[0].type.dtype


def _scratch(node: Node) -> int:
    """Bytes per entry of the result: indices, blocks of rows, and what the approximation has of its own."""
    own, donor, item = node.inputs[0].type.shape[-1], node.inputs[-1].type.shape[-1], node.type.item_bytes
    shared, attrs = _given(node.attr("kept")), dict(node.attrs)
    k = min(int(str(attrs.get("k", 1))), shared)
    needed = 64 * node.type.shape[0] + 16 * _BLOCK * (own + donor) + 160 * BATCH * own
    if node.op == "transplant_drawn":
        needed += 32 * own * own
    elif node.op == "transplant_rotated":
        needed += 32 * (own * own + donor * donor + own * donor)
    elif node.op != "transplant_subword":
        needed += item * shared * (donor + 1) + BATCH * shared * (3 * item + 16) + 32 * _FEW * k * donor
        needed += BATCH * k * (item * donor + 16 * k) * (node.op == "transplant_omp")
    return ceil(needed / max(1, node.type.numel))


def _given(index: str) -> int:
    """How many rows an index has something for."""
    return sum(int(run.partition("+")[2]) for run in index.split() if "+" in run)


def _biased(nodes: Sequence[Node], attrs: Mapping[str, Any]) -> tuple[tuple[int, ...], str]:
    return (*nodes[0].type.shape[:-1], index_rows(attrs["kept"])), nodes[0].type.dtype


@op("whole", "part -> weight", scratch_bytes=48, gives=_biased)
def transplant_bias(bias: Tensor, *, kept: str) -> Tensor:
    """The numbers of known tokens, zero for others; axes before that of the tokens have length 1."""
    index = _index(kept, bias)
    result = bias.new_zeros((*bias.shape[:-1], len(index)))
    result.view(-1)[index >= 0] = bias.reshape(-1)[index[index >= 0]]
    return result


@op("whole", "part -> weight", scratch_bytes=_scratch, gives=_shape)
def transplant_drawn(
    table: Tensor, *, kept: str, wanted: str, how: str, noise: float, scale: float, seed: int, tile: Tile
) -> Tensor:
    """Rows for new tokens of which nothing is known.

    `zero`; the `mean` of all rows; `randn`: standard normal numbers; `john_hewitt`: normal with the mean and the
    covariance of the model's rows, https://nlp.stanford.edu/~johnhew/vocab-expansion.html. The covariance's symmetric
    root is taken, so that it may have any rank.
    """
    width = table.shape[1]
    centre = _mean(table) if how in ("mean", "john_hewitt") else table.new_zeros(width).double()
    root = _root(table, centre) if how == "john_hewitt" else None

    def make(rows: Tensor) -> Tensor:
        if how in ("mean", "zero"):
            return centre.expand(len(rows), width)
        numbers = _normal(rows, width, seed, "tokens", tile)
        return numbers if root is None else centre + numbers @ root

    return _made(table, kept, wanted, make, noise, scale, seed, tile)


@op("whole", "part -> weight", scratch_bytes=_scratch, gives=_shape)
def transplant_subword(
    table: Tensor,
    *,
    kept: str,
    pieces: tuple[tuple[int, ...], ...],
    how: Subword,
    is_head: bool,
    noise: float,
    scale: float,
    seed: int,
    tile: Tile,
) -> Tensor:
    """Each new token from the rows of the pieces that the model's tokenizer cuts its text into.

    `pieces` are, for each, its row and the pieces' numbers. Weights of the `weighted_mean` grow from the first to the
    last piece, for a head the other way: it predicts the first. `first_last` takes the row of the last piece, for a
    head that of the first.
    """
    import torch

    numbers_of = {row: list(numbers) for row, *numbers in pieces}

    def combined(row: int) -> Tensor:
        found = table[numbers_of[row]].double()
        if how == "first_last":
            return found[0 if is_head else -1]
        steps = range(1, len(found) + 1)
        weights = list(reversed(steps) if is_head else steps) if how == "weighted_mean" else [1] * len(found)
        total: Tensor = torch.tensor(weights, dtype=found.dtype, device=found.device) @ found
        return total if how == "sum" else total / sum(weights)

    def make(rows: Tensor) -> Tensor:
        return torch.stack([combined(row) for row in rows.tolist()])

    wanted = torch.tensor(list(numbers_of), device=table.device)
    return _made(table, kept, wanted, make, noise, scale, seed, tile)


@op("whole", "part part -> weight", scratch_bytes=_scratch, gives=_shape)
def transplant_omp(
    table: Tensor, donor: Tensor, *, kept: str, wanted: str, k: int, noise: float, scale: float, seed: int, tile: Tile
) -> Tensor:
    """Orthogonal matching pursuit: each new token's donor row as a combination of k shared ones.

    The shared row that goes best with what is left is taken k times, what is left is then orthogonal to all that were
    taken; the coefficients are those of least squares. Goddard and Fernandes Neto, Training-Free Tokenizer
    Transplantation via Orthogonal Matching Pursuit, arXiv:2506.06607.
    """
    shared, own = _shared(table, kept)
    points = donor[shared]

    def make(rows: Tensor) -> Tensor:
        return _combined(table, own, *pursue(donor[rows], points, k))

    return _made(table, kept, wanted, make, noise, scale, seed, tile)


@op("whole", "part part -> weight", scratch_bytes=_scratch, gives=_shape)
def transplant_nearest(
    table: Tensor,
    donor: Tensor,
    *,
    kept: str,
    wanted: str,
    k: int,
    scheme: Scheme,
    cosine: bool,
    noise: float,
    scale: float,
    seed: int,
    tile: Tile,
) -> Tensor:
    """Interpolation: each new token as a combination of the k shared ones that are nearest to it in the donor's space.

    Weights by 1 / distance (`distance_proportional`; by the cosine itself), with sum 1 that come nearest
    (`barycentric`), or any that do (`least_squares`). Distances are Euclidean, or 1 - cosine.
    """
    import torch

    shared, own = _shared(table, kept)
    points = donor[shared]
    lengths = torch.linalg.vector_norm(points, dim=1)

    def weights(target: Tensor, near: Tensor) -> Tensor:
        if scheme == "least_squares":
            return _least_squares(near, target)
        if scheme == "barycentric":  # around their mean only coefficients of sum 0 matter
            return 1 / k + _least_squares(near - near.mean(dim=0), target - near.mean(dim=0))
        found = torch.nn.functional.cosine_similarity(near, target[None]) if cosine else 1 / _far(near, target)
        return found / found.sum().clamp_min(_FLOOR)

    def make(rows: Tensor) -> Tensor:
        targets = donor[rows]
        scores = targets @ points.T
        scores = scores / lengths.clamp_min(_FLOOR) if cosine else scores.mul_(2).sub_(lengths * lengths)
        chosen = scores.topk(k, dim=1).indices
        pairs = zip(targets, chosen, strict=True)
        found = torch.stack([weights(target.double(), points[some].double()) for target, some in pairs])
        return _combined(table, own, chosen, found)

    return _made(table, kept, wanted, make, noise, scale, seed, tile)


@op("whole", "part part -> weight", scratch_bytes=_scratch, gives=_shape)
def transplant_rotated(
    table: Tensor, donor: Tensor, *, kept: str, wanted: str, noise: float, scale: float, seed: int, tile: Tile
) -> Tensor:
    """Landmark PCA: the donor's space rotated onto the model's, so that shared tokens come nearest to their rows.

    Both are centred at the mean of the shared rows and cut to as many principal components as both have; the rotation
    between these is that of Procrustes: of A^T B = U S V^T it is U V^T (Schönemann 1966).
    """
    import torch

    shared, own = _shared(table, kept)
    start, end = _mean(donor, shared), _mean(table, own)
    squares = [torch.zeros((n, m), dtype=torch.float64, device=table.device) for n, m in _pairs(donor, table)]
    for some, mine in zip(_split(shared, _BLOCK), _split(own, _BLOCK), strict=True):
        left, right = donor[some].double() - start, table[mine].double() - end
        for total, (one, other) in zip(squares, ((left, left), (right, right), (left, right)), strict=True):
            total += one.T @ other
    bases = [torch.linalg.eigh(total) for total in squares[:2]]
    parts = min(int((values > 1e-10 * values[-1]).sum()) for values, _ in bases)
    before, after = (vectors[:, len(vectors) - parts :] for _, vectors in bases)
    turned, _, back = torch.linalg.svd(before.T @ squares[2] @ after)
    rotation = before @ turned @ back @ after.T

    def make(rows: Tensor) -> Tensor:
        moved: Tensor = (donor[rows].double() - start) @ rotation + end
        return moved

    return _made(table, kept, wanted, make, noise, scale, seed, tile)


def _pairs(left: Tensor, right: Tensor) -> tuple[tuple[int, int], ...]:
    a, b = left.shape[1], right.shape[1]
    return (a, a), (b, b), (a, b)


def _made(
    table: Tensor, kept: str, wanted: str | Tensor, make: Make, noise: float, scale: float, seed: int, tile: Tile
) -> Tensor:
    """The result: rows that the model has in their new places, those that are wanted made batch by batch."""
    result = table.new_zeros((index_rows(kept), table.shape[1]))
    places, own = _shared(table, kept)
    for some, mine in zip(_split(places, _BLOCK), _split(own, _BLOCK), strict=True):
        result[some] = table[mine]
    rows = _shared(table, wanted)[0] if isinstance(wanted, str) else wanted
    for batch in _split(rows, BATCH):
        made = make(batch)
        if noise:
            made = made + noise * _normal(batch, table.shape[1], seed, "tokens noise", tile)
        result[batch] = (made * scale).to(table.dtype)
    return result


def _index(text: str, table: Tensor) -> Tensor:
    import torch

    return torch.from_numpy(index_of(text)).to(table.device)


def _shared(table: Tensor, kept: str) -> tuple[Tensor, Tensor]:
    """The rows of the result that an index has something for, and what it has for them."""
    index = _index(kept, table)
    return (index >= 0).nonzero()[:, 0], index[index >= 0]


def _blocks(table: Tensor, rows: Tensor | None = None) -> Iterator[Tensor]:
    """All rows of a table, or some, in float64, block by block."""
    if rows is None:
        yield from (block.double() for block in _split(table, _BLOCK))
    else:
        yield from (table[block].double() for block in _split(rows, _BLOCK))


def _split(rows: Tensor, most: int) -> list[Tensor]:
    return [rows[start : start + most] for start in range(0, len(rows), most)]


def _mean(table: Tensor, rows: Tensor | None = None) -> Tensor:
    total = table.new_zeros(table.shape[1]).double()
    for block in _blocks(table, rows):
        total += block.sum(dim=0)
    return total / (len(table) if rows is None else len(rows))


def _root(table: Tensor, centre: Tensor) -> Tensor:
    """The symmetric root of the covariance of a table's rows."""
    import torch

    total = torch.zeros((len(centre), len(centre)), dtype=torch.float64, device=table.device)
    for block in _blocks(table):
        total += (block - centre).T @ (block - centre)
    values, vectors = torch.linalg.eigh(total / len(table))
    root: Tensor = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    return root


def _normal(rows: Tensor, width: int, seed: int, stream: str, tile: Tile) -> Tensor:
    """The normal numbers of some rows of a tensor, float64, whatever other rows are drawn."""
    import torch

    key = random.key(seed, stream, tile.name, "")
    drawn = [random.normal(row * width, (row + 1) * width, key, tile.device) for row in rows.tolist()]
    return torch.stack(drawn)


def _combined(table: Tensor, own: Tensor, chosen: Tensor, coefficients: Tensor) -> Tensor:
    """Combinations of the model's rows of shared tokens, added one after the other."""
    total = table.new_zeros((len(chosen), table.shape[1])).double()
    for place in range(chosen.shape[1]):
        total += coefficients[:, place, None] * table[own[chosen[:, place]]].double()
    return total


def pursue(targets: Tensor, points: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k points that orthogonal matching pursuit takes for each target, and their coefficients: [targets, k] each.

    A point in the span of those before it - there are more of them than dimensions, or two are alike - gets 0.
    """
    import torch

    count, width = targets.shape
    basis = targets.new_zeros((count, k, width))
    triangle = torch.zeros((count, k, k), dtype=torch.float64, device=targets.device)
    along = torch.zeros((count, k, 1), dtype=torch.float64, device=targets.device)
    chosen = torch.zeros((count, k), dtype=torch.int64, device=targets.device)
    rest = targets.clone()
    each = torch.arange(count, device=targets.device)
    for step in range(k):
        scores = (rest @ points.T).abs_()
        scores[each[:, None], chosen[:, :step]] = -1
        chosen[:, step] = scores.argmax(dim=1)
        atom, before = points[chosen[:, step]], basis[:, :step]
        whole = atom.norm(dim=1, keepdim=True)
        for _ in range(2):  # once is not enough in float32
            shares = torch.bmm(before, atom.unsqueeze(2))
            triangle[:, :step, step] += shares[:, :, 0].double()
            atom = atom - torch.bmm(shares.transpose(1, 2), before)[:, 0]
        length = atom.norm(dim=1, keepdim=True)
        is_new = length > _DEPENDENT * whole
        basis[:, step] = torch.where(is_new, atom / length, 0)
        triangle[:, step, step] = torch.where(is_new, length, 1)[:, 0].double()
        share = (basis[:, step] * rest).sum(dim=1, keepdim=True)
        along[:, step] = share.double()
        rest = rest - share * basis[:, step]
    return chosen, torch.linalg.solve_triangular(triangle, along, upper=True)[:, :, 0]


def _least_squares(points: Tensor, target: Tensor) -> Tensor:
    """The shortest of the coefficients by which points, [k, width], come nearest to a target; all float64."""
    import torch

    values, vectors = torch.linalg.eigh(points @ points.T)
    inverse = torch.where(values > 1e-13 * values[-1], 1 / values, 0)
    found: Tensor = (vectors * inverse) @ (vectors.T @ (points @ target))
    return found


def _far(points: Tensor, target: Tensor) -> Tensor:
    distances: Tensor = (points - target).norm(dim=1).clamp_min(_FLOOR)
    return distances
