"""Mixture: the tensors and the config of a mixture of experts, from the headers of the dense models it is made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from mergec.compiler.families import DENSE, FAMILIES, MATRICES, Counts, Family
from mergec.compiler.inventory import Inventory, head_of, table_of
from mergec.compiler.models import Model
from mergec.compiler.names import Layer, few, is_embedding, layer_counts_of, layers_of, natural
from mergec.compiler.routers import Maker, router_maker
from mergec.compiler.source import Source
from mergec.errors import Place, Problem, did_you_mean
from mergec.recipe.bound import Bound
from mergec.recipe.experts import DRAWN
from mergec.recipe.schema import Recipe

_BLOCK = ".mlp."
Rows: TypeAlias = dict[str, tuple[Source, ...]]
Blocks: TypeAlias = Mapping[str, Mapping[str, Source]]
"""The tensors of each layer's MLP: by the layer's name, `model.layers.3`, then by the part's, `up_proj`."""


def mixture(
    recipe: Recipe, bounds: Sequence[Bound], models: Mapping[str, Model]
) -> tuple[list[tuple[Bound, Inventory]], list[Problem]]:
    """What each bound makes - the base's tensors, each expert's, the routers - or all that does not fit."""
    family, problems = family_of(recipe, models)
    if family is None:
        return [], problems
    dense, experts, routers = bounds[0], bounds[1:-1], bounds[-1]
    base = models[dense.inputs[0].reference]
    table = table_of(base, head_of([base]))
    layers = layers_of(table, layer_counts_of(base.checkpoint.config))
    blocks = _blocks(table, layers)
    problems = [*_unfit_base(family, base, table, blocks), *_unfit(base, blocks, experts, models)]
    embedding = next((source for name, source in table.items() if is_embedding(name)), None)
    make, wrong = router_maker(recipe, base, embedding)
    if problems or make is None:
        return [], [*problems, *wrong]
    kept: Rows = {name: (source,) for name, source in table.items() if _BLOCK not in name}
    made: list[Rows] = [kept, *(_expert_rows(family, blocks, n, one, recipe, models) for n, one in enumerate(experts))]
    made.append(dict(_router_rows(family, blocks, recipe, make)))
    own = _with_dtype(recipe, next(iter(blocks.values()))[MATRICES[-1]].dtype)
    placed = layers_of([name for rows in made for name in rows], layer_counts_of(base.checkpoint.config))
    parts = []
    for number, (bound, rows) in enumerate(zip((dense, *experts, routers), made, strict=True)):
        ordered = {name: rows[name] for name in sorted(rows, key=natural)}
        found = {name: placed[name] for name in ordered if name in placed}
        dropped = tuple(_dropped(recipe)) if number == 0 else ()
        parts.append((bound if number == 0 else replace(bound, recipe=own), Inventory(ordered, found, dropped, False)))
    return parts, []


def _with_dtype(recipe: Recipe, dtype: str) -> Recipe:
    """The recipe for experts and routers: they are stored as the base's MLPs are, unless it says otherwise."""
    is_said = recipe.dtype or recipe.out_dtype
    return recipe if is_said else recipe.model_copy(update={"out_dtype": dtype})


def _blocks(table: Mapping[str, Source], layers: Mapping[str, Layer]) -> dict[str, dict[str, Source]]:
    """The MLPs of a model's layers."""
    blocks: dict[str, dict[str, Source]] = {}
    for name in sorted(table, key=natural):
        layer, found, rest = name.partition(_BLOCK)
        if found and name in layers:
            blocks.setdefault(layer, {})[rest.removesuffix(".weight")] = table[name]
    return blocks


def mixture_config(recipe: Recipe, models: Mapping[str, Model], config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the mixture, where `config` is the base's."""
    family, _ = family_of(recipe, models)
    base = models[recipe.references[0]]
    if family is None:
        raise ValueError("a mixture of no family has no config")
    blocks = _blocks(base.tensors, layers_of(base.tensors, layer_counts_of(config)))
    hidden, inner = next(iter(blocks.values()))[MATRICES[-1]].shape
    sizes = {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": len(blocks)}  # whatever it says
    counts = Counts(len(recipe.experts), recipe.experts_per_token, len(recipe.shared_experts))
    return family.config({**config, **sizes}, counts, any(_bias_of(name) for name in base.tensors))


def _bias_of(name: str) -> str:
    """The projection of attention that a tensor is the bias of, "" if it is none."""
    parts = name.split(".")
    return parts[-2] if parts[-1] == "bias" and "self_attn" in parts else ""


def family_of(recipe: Recipe, models: Mapping[str, Model]) -> tuple[Family | None, list[Problem]]:
    """The kind of mixture that the models make: the one the recipe names, or the first that will do."""
    document = recipe.document
    named = [*recipe.bases, *(((*path, "source_model"), entry.source_model) for path, entry in recipe.all_experts)]
    types = {reference: _type_of(models[reference]) for _, reference in named}
    places = {reference: document.place(path) for path, reference in reversed(named)}
    sparse = [_not_dense(reference, types[reference], places[reference]) for reference in types]
    problems = [one for one in sparse if one]
    wanted = (recipe.architecture or "").lower()
    candidates = [family for family in FAMILIES if family.name.lower().startswith(wanted)]
    if not candidates:
        what = f"found '{recipe.architecture}' for 'architecture', expected the beginning of {_or(FAMILIES)}"
        hint = did_you_mean(wanted, [family.name.lower() for family in FAMILIES])
        problems.append(Problem(document.place(("architecture",)), "E362", what, hint))
    if problems:
        return None, problems
    refused = {family.name: _refusal(family, recipe, types) for family in candidates}
    fitting = [family for family in candidates if not refused[family.name]]
    if fitting:
        return fitting[0], []
    reasons = "; ".join(f"{name} {why}" for name, why in refused.items())
    place = document.key_place(("architecture",) if recipe.architecture else ("experts",))
    return None, [Problem(place, "E361", f"no mixture can be made of these models: {reasons}", _way_out(refused))]


def _type_of(model: Model) -> str:
    return str((model.checkpoint.config or {}).get("model_type", ""))


def _or(families: Iterable[Family]) -> str:
    *names, last = (f"'{family.name.lower()}'" for family in families)
    return f"{', '.join(names)} or {last}"


def _not_dense(reference: str, model_type: str, place: Place) -> Problem | None:
    if model_type in DENSE:
        return None
    found = f"is a '{model_type}' model" if model_type else "has no config.json that says what it is"
    what = f"'{reference}' {found}, expected a dense one: {', '.join(DENSE[:-1])} or {DENSE[-1]}"
    return Problem(place, "E360", what, "mixtures are made of dense models whose MLPs are gated")


def _refusal(family: Family, recipe: Recipe, types: Mapping[str, str]) -> str:
    """Why a family cannot be made of a recipe's models; "" if it can."""
    found = sorted(set(types.values()))
    shared = recipe.shared_experts
    if len(found) > 1:
        return f"takes models of one type, found {' and '.join(found)}"
    if found[0] not in family.takes:
        return f"takes {', '.join(family.takes)}, found {found[0]}"
    if len(shared) not in family.shared:
        wanted = " or ".join("no" if number == 0 else str(number) for number in family.shared)
        return f"takes {wanted} shared expert, found {len(shared) or 'none'}"
    prompted = any(one.positive_prompts for one in shared)
    if family.routes_shared and not prompted and recipe.gate_mode not in DRAWN:
        return "weighs its shared expert by prompts, found none"
    if prompted and not family.routes_shared:
        return "does not weigh its shared expert, found prompts of it"
    return ""


def _way_out(refused: Mapping[str, str]) -> str:
    if any("takes 1 shared expert, found none" in why for why in refused.values()):
        return "list one under 'shared_experts:'"
    if any("found none" in why for why in refused.values()):
        return "add positive_prompts to the shared expert"
    if any("found prompts" in why for why in refused.values()):
        return "remove the prompts of the shared expert"
    return "all models must be of one type, and the mixture of a kind that is made of it"


def _unfit_base(family: Family, base: Model, table: Mapping[str, Source], blocks: Blocks) -> Iterator[Problem]:
    """What a base has that the mixture has no room for, or lacks."""
    if not blocks:
        yield Problem(base.place, "E363", f"'{base.reference}' has no MLP that could be told from its tensors' names")
    for layer, block in blocks.items():
        if any(part not in block for part in MATRICES):
            absent = next(part for part in MATRICES if part not in block)
            yield Problem(base.place, "E363", f"'{base.reference}' lacks {layer}{_BLOCK}{absent}.weight")
            return
    odd = [name for name in table if (bias := _bias_of(name)) and bias not in family.biases]
    odd += [f"{layer}{_BLOCK}{part}" for layer, block in blocks.items() for part in block if part not in MATRICES]
    if odd:
        what = f"{family.name} has no place for {few(odd)} of '{base.reference}'"
        yield Problem(base.place, "E364", what, "take a base without them, or another 'architecture'")


def _unfit(base: Model, blocks: Blocks, experts: Sequence[Bound], models: Mapping[str, Model]) -> Iterator[Problem]:
    """Experts whose MLPs are not of the base's shapes, each model once."""
    first = {bound.inputs[0].reference: bound.inputs[0].place for bound in reversed(experts)}
    expected = {f"{layer}{_BLOCK}{part}.weight": s for layer, block in blocks.items() for part, s in block.items()}
    for reference in dict.fromkeys(bound.inputs[0].reference for bound in experts):
        found, place = models[reference].tensors, first[reference]
        absent = [name for name in expected if name not in found]
        more = [name for name in found if _BLOCK in name and name not in expected]
        if absent or more:
            verb, names = ("lacks", absent) if absent else ("has", more)
            whose = f"which '{base.reference}' {'has' if absent else 'lacks'}"
            what = f"'{reference}' {verb} {few(sorted(names, key=natural))}, {whose}"
            yield Problem(place, "E363", what, "experts have as many layers as the base, with MLPs of the same shape")
            continue
        unequal = [name for name, source in expected.items() if found[name].shape != source.shape]
        if unequal:
            ours, theirs = expected[unequal[0]].shape, found[unequal[0]].shape
            same = [n for n in unequal if (expected[n].shape, found[n].shape) == (ours, theirs)]
            what = f"'{reference}' has {few(same)} of shape {list(theirs)}, '{base.reference}' of {list(ours)}"
            yield Problem(place, "E363", what, "experts have MLPs of the same shape as the base")


def _expert_rows(
    family: Family,
    blocks: Blocks,
    number: int,
    bound: Bound,
    recipe: Recipe,
    models: Mapping[str, Model],
) -> Rows:
    """An expert's matrices by their names in the mixture; shared experts come after the others."""
    tensors = models[bound.inputs[0].reference].tensors
    is_shared = number >= len(recipe.experts)
    return {
        family.shared_expert(layer, part) if is_shared else family.expert(layer, number, part): (
            tensors[f"{layer}{_BLOCK}{part}.weight"],
        )
        for layer in blocks
        for part in MATRICES
    }


def _router_rows(
    family: Family, blocks: Blocks, recipe: Recipe, make: Maker
) -> Iterator[tuple[str, tuple[Source, ...]]]:
    """The routers of every layer."""
    for number, (layer, block) in enumerate(blocks.items()):
        down = block[MATRICES[-1]]
        name = family.router(layer)
        yield name, (make(name, number, "experts", len(recipe.experts), down),)
        if family.routes_shared:
            name = family.shared_router(layer)
            yield name, (make(name, number, "shared_experts", len(recipe.shared_experts), down),)


def _dropped(recipe: Recipe) -> Iterator[str]:
    """What is left out of the models, as notes."""
    base = recipe.references[0]
    experts = dict.fromkeys(entry.source_model for _, entry in recipe.all_experts)
    if base not in experts:
        yield f"{base}: its MLPs are not used, the experts take their place"
    for reference in experts:
        if reference != base:
            yield f"{reference}: nothing but its MLPs is used"
