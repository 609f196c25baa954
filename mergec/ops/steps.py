"""The steps of a pipeline, in the order in which they usually stand: from models to deltas to one merged tensor."""

from __future__ import annotations

from collections.abc import Sequence

from mergec.graph import Node
from mergec.ops import basic, fuse, masks, trim
from mergec.ops import elect as election
from mergec.ops import rescale as rescaling
from mergec.ops.calibrate import CalibrationAlpha, calibrate_singular
from mergec.ops.elect import Election, ZeroSign
from mergec.ops.fourier import Cutoff, Filter, high_pass
from mergec.ops.fuse import Aggregate, Consensus, Lambda, Normalize, Weight
from mergec.ops.masks import Agreement, MaskLambda
from mergec.ops.matrix import AsMatrix, Vectors, fuse_vectors, is_matrix
from mergec.ops.parts import masked
from mergec.ops.pool import over_model
from mergec.ops.registry import Arithmetic, Draw, Each, ParameterError, each
from mergec.ops.rescale import Rescale
from mergec.ops.step import Deltas, Elected, Merged, Models, Rooted, Trimmed, step
from mergec.ops.svd import RankRatio, project_singular, rank_of
from mergec.ops.threshold import Extent, KeepCount, Quantile, threshold, trim_share
from mergec.ops.trim import Density, Epsilon, Gamma, WindowSize


@step()
def diff(working: Rooted) -> Deltas:
    """What each model changed: model - base."""
    return Deltas(working.base, tuple(basic.diff(model, working.base) for model in working.models))


@step(by="high_pass")
def filter_high_pass(
    working: Deltas, kind: Filter = "clean", cutoff: Cutoff = 0.1, *, as_matrix: AsMatrix = True
) -> Deltas:
    """Take the low frequencies from each delta that is a matrix, as an image (FR-Merging)."""
    if not is_matrix(working.base, as_matrix):
        return working
    return Deltas(working.base, tuple(high_pass(delta, kind, cutoff) for delta in working.deltas))


@step(onto="leading")
def project_leading(working: Deltas, rank_ratio: RankRatio = "equal", *, as_matrix: AsMatrix = True) -> Deltas:
    """Keep the largest singular values of each delta that is a matrix, a share of them."""
    if not is_matrix(working.base, as_matrix):
        return working
    rank = rank_of(working.base, rank_ratio, len(working.deltas))
    return Deltas(working.base, tuple(project_singular(delta, rank=rank) for delta in working.deltas))


@step(keep="largest")
def trim_largest(
    working: Deltas, *, density: Each[Density] = each(1.0), scope: Extent = "tensor", keep_count: KeepCount = "exact"
) -> Trimmed:
    """Keep the int(density * n) largest entries of each delta, at least one: of each tensor, or of the whole model."""
    pairs = enumerate(zip(working.deltas, density, strict=True))
    kept = tuple(trim_share(delta, share, slot, scope, keep_count) for slot, (delta, share) in pairs)
    return Trimmed(working.base, kept, working.deltas, None)


@step(keep="middle")
def trim_middle(
    working: Deltas, *, density: Each[Density] = each(1.0), gamma: Each[Gamma] = each(0.01), arithmetic: Arithmetic
) -> Trimmed:
    """Drop the int(gamma * n) largest entries of each delta, keep the next int(density * n)."""
    shares = zip(working.deltas, density, gamma, strict=True)
    kept = tuple(trim.trim_outliers(delta, share, top, arithmetic.mergekit) for delta, share, top in shares)
    return Trimmed(working.base, kept, working.deltas, None)


@step(keep="random")
def trim_random(working: Deltas, *, density: Each[Density] = each(1.0), draw: Draw) -> Trimmed:
    """Keep each entry of a delta with probability `density`; model i draws from slot i."""
    shares = enumerate(zip(working.deltas, density, strict=True))
    kept = tuple(trim.trim_random(delta, share, slot, draw) for slot, (delta, share) in shares)
    return Trimmed(working.base, kept, working.deltas, density)


@step(keep="ranked")
def trim_ranked(
    working: Deltas,
    *,
    density: Each[Density] = each(1.0),
    epsilon: Each[Epsilon] = each(0.15),
    window_size: Each[WindowSize] = each(None),
    draw: Draw,
) -> Trimmed:
    """Keep entries with a probability that grows with their rank in their row; model i draws from slot i."""
    spreads = [spread if window is None else window / 2 for spread, window in zip(epsilon, window_size, strict=True)]
    shares = enumerate(zip(working.deltas, density, spreads, strict=True))
    pairs = [trim.trim_ranked(delta, share, spread, slot, draw) for slot, (delta, share, spread) in shares]
    kept, chance = zip(*pairs, strict=True)
    return Trimmed(working.base, kept, working.deltas, chance)


@step(keep="wanted")
def trim_wanted(working: Deltas, *, mask_lambda: Each[MaskLambda] = each(0.4), agreement: Agreement = 2) -> Trimmed:
    """Keep the entries of all deltas that at least `agreement` models take of their sum, by their TALL masks."""
    mask = _wanted(masks.join(*working.deltas), working.deltas, mask_lambda, agreement)
    return Trimmed(working.base, _masked(working.deltas, mask), working.deltas, None)


@step(keep="trusted")
def trim_trusted(working: Deltas, *, quantile: Quantile = 0.99, scope: Extent = "tensor") -> Trimmed:
    """Keep the entries of all deltas in which changes of one model disturb the others least, a share of `quantile`."""
    strain = masks.entanglement(*working.deltas)
    wide = basic.cast(strain, dtype="float32") if strain.type.item_bytes < 4 else strain
    limit = threshold(wide, density=quantile, rule="quantile")
    if scope == "model":
        limit = over_model(limit, name="limit of the entanglement")
    return Trimmed(working.base, _masked(working.deltas, masks.below(wide, limit)), working.deltas, None)


def _wanted(joint: Node, deltas: Sequence[Node], mask_lambda: Sequence[float], agreement: int) -> Node:
    if agreement > len(deltas):
        what = f"{agreement} models are to agree, and the merge has {len(deltas)}"
        raise ParameterError("agreement", what, f"expected {len(deltas)} or less")
    return masks.wanted(joint, *deltas, thresholds=tuple(mask_lambda), least=agreement)


def _masked(deltas: Sequence[Node], mask: Node) -> tuple[Node, ...]:
    return tuple(masked(delta, mask) for delta in deltas)


@step()
def rescale(working: Trimmed, by: Rescale = True, *, arithmetic: Arithmetic) -> Deltas:
    """Give back what the trim took: each entry's expected value, or each delta's L1 norm.

    `true` divides by the keep probability after a random trim (l1 under compat: mergekit), and restores the norm
    after another one.
    """
    if working.chance is None and by == "inverse_prob":
        what = "'inverse_prob' divides by the keep probability, and the trim before it keeps no entry by chance"
        raise ParameterError("by", what, "use l1, or trim: random")
    rule = rescaling.norm_rule(by) if working.chance is None else rescaling.drop_rule(by, arithmetic)
    chance = working.chance or (None,) * len(working.deltas)
    parts = zip(working.before, working.deltas, chance, strict=True)
    return Deltas(working.base, tuple(rescaling.rescale(delta, kept, rule, p) for delta, kept, p in parts))


@step()
def elect(
    working: Deltas,
    by: Election = "sum",
    zero_sign: ZeroSign = "plus",
    *,
    weight: Each[Weight] = each(1.0),
    scope: Extent = "tensor",
) -> Elected:
    """Elect one sign per entry, by the sum of the weighted deltas, or by how many have each sign."""
    sign = election.elected(basic.weighed(working.deltas, weight), by, zero_sign, scope)
    return Elected(working.base, working.deltas, sign)


@step(how="agreeing")
def fuse_agreeing(
    working: Elected,
    *,
    weight: Each[Weight] = each(1.0),
    normalize: Normalize = False,
    lambda_: Lambda = 1.0,
    aggregate: Aggregate = None,
) -> Merged:
    """Add the weighted deltas that have the elected sign to the base."""
    base, sign, deltas = working.base, working.sign, working.deltas
    return Merged(fuse.fuse_agreed(base, sign, deltas, weight, normalize, lambda_, aggregate))


@step(how="sum")
def fuse_sum(
    working: Deltas, *, weight: Each[Weight] = each(1.0), normalize: Normalize = False, lambda_: Lambda = 1.0
) -> Merged:
    """Add the weighted deltas to the base."""
    return Merged(fuse.fuse_deltas(working.base, working.deltas, weight, normalize, lambda_))


@step(how="largest", commutative=False)
def fuse_largest(working: Deltas, *, weight: Each[Weight] = each(1.0), lambda_: Lambda = 1.0) -> Merged:
    """Add the weighted delta of the largest magnitude to the base, entry by entry."""
    return Merged(fuse.fuse_largest(working.base, *basic.weighed(working.deltas, weight), factor=lambda_))


@step(how="matrices")
def fuse_matrices(
    working: Deltas,
    *,
    weight: Each[Weight] = each(1.0),
    consensus: Consensus = "none",
    as_matrix: AsMatrix = True,
    vectors: Vectors = "sum",
    lambda_: Lambda = 1.0,
) -> Merged:
    """Add the weighted deltas of matrices to the base, those that have the elected sign or all; `vectors` otherwise."""
    if is_matrix(working.base, as_matrix):
        return Merged(fuse.fuse_consensus(working.base, working.deltas, weight, lambda_, consensus))
    return Merged(fuse_vectors(working.base, working.deltas, weight, lambda_, vectors, consensus))


@step(how="average")
def fuse_average(working: Models, *, weight: Each[Weight] = each(1.0), normalize: Normalize = True) -> Merged:
    """Average the models, weighted; no base is needed."""
    return Merged(fuse.fuse_models(working.models, weight, normalize))


@step(by="svc")
def post_svc(working: Merged, alpha: CalibrationAlpha = 0.1, as_matrix: AsMatrix = True) -> Merged:
    """Calibrate the singular values of the merged delta by what each model contributes along their directions (SVC)."""
    base = working.base
    if base is None or not is_matrix(base, as_matrix) or working.result is base:
        return working
    calibrated = calibrate_singular(basic.diff(working.result, base), *working.deltas, alpha=alpha)
    return Merged(fuse.fuse_sum(base, calibrated, weights=(), normalize=False, factor=1.0))


@step(by="consensus_mask")
def post_consensus_mask(working: Merged, mask_lambda: MaskLambda = 0.4, agreement: Agreement = 2) -> Merged:
    """Go back to the base in entries that fewer than `agreement` models take of the merged delta (consensus).

    A model takes an entry where its TALL mask holds: |d_i| > mask_lambda * |merged delta - d_i|, d_i = x_i - base.
    After ties with aggregate: sum this is consensus TIES. Wang et al., arXiv:2405.07813, section 4.
    """
    base, result = working.base, working.result
    if base is None or result is base:
        return working
    mask = _wanted(basic.diff(result, base), working.deltas, [mask_lambda] * len(working.deltas), agreement)
    return Merged(masks.revert(result, base, mask))
