"""The steps of a pipeline, in the order in which they usually stand: from models to deltas to one merged tensor."""

from __future__ import annotations

from mergec.ops import basic, fuse, trim
from mergec.ops import elect as election
from mergec.ops import rescale as rescaling
from mergec.ops.elect import Election
from mergec.ops.fuse import Lambda, Normalize, Weight
from mergec.ops.registry import Arithmetic, Draw, Each, ParameterError, each
from mergec.ops.rescale import Rescale
from mergec.ops.step import Deltas, Elected, Merged, Models, Rooted, Trimmed, step
from mergec.ops.threshold import Extent, KeepCount, trim_share
from mergec.ops.trim import Density, Epsilon, Gamma


@step()
def diff(working: Rooted) -> Deltas:
    """What each model changed: model - base."""
    return Deltas(working.base, tuple(basic.diff(model, working.base) for model in working.models))


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
    working: Deltas, *, density: Each[Density] = each(1.0), epsilon: Each[Epsilon] = each(0.15), draw: Draw
) -> Trimmed:
    """Keep entries with a probability that grows with their rank in their row; model i draws from slot i."""
    shares = enumerate(zip(working.deltas, density, epsilon, strict=True))
    pairs = [trim.trim_ranked(delta, share, spread, slot, draw) for slot, (delta, share, spread) in shares]
    kept, chance = zip(*pairs, strict=True)
    return Trimmed(working.base, kept, working.deltas, chance)


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
def elect(working: Deltas, by: Election = "sum", *, weight: Each[Weight] = each(1.0)) -> Elected:
    """Elect one sign per entry, by the sum of the weighted deltas or by how many have each sign."""
    sign = election.elect(*basic.weighed(working.deltas, weight), by=by)
    return Elected(working.base, working.deltas, sign)


@step(how="agreeing")
def fuse_agreeing(
    working: Elected, *, weight: Each[Weight], normalize: Normalize = False, lambda_: Lambda = 1.0
) -> Merged:
    """Add the weighted deltas that have the elected sign to the base."""
    return Merged(fuse.fuse_signed(working.base, working.sign, working.deltas, weight, normalize, lambda_))


@step(how="sum")
def fuse_sum(working: Deltas, *, weight: Each[Weight], normalize: Normalize = False, lambda_: Lambda = 1.0) -> Merged:
    """Add the weighted deltas to the base."""
    return Merged(fuse.fuse_deltas(working.base, working.deltas, weight, normalize, lambda_))


@step(how="average")
def fuse_average(working: Models, *, weight: Each[Weight], normalize: Normalize = True) -> Merged:
    """Average the models, weighted; no base is needed."""
    return Merged(fuse.fuse_models(working.models, weight, normalize))
