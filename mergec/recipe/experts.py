"""Experts: a recipe that makes a mixture of experts, bound part by part: the base, each expert, the routers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from mergec.errors import Problem, count
from mergec.graph import Node
from mergec.ops.basic import scale
from mergec.ops.registry import Draw, Each, Method, each, read_parameters
from mergec.ops.route import NoiseScale, ResidualScale, perturb
from mergec.recipe.bound import Bound, Input, path_label
from mergec.recipe.document import Path as DocumentPath
from mergec.recipe.ids import shared_ids
from mergec.recipe.schema import ExpertEntry, Recipe
from mergec.recipe.settings import Choice

MOE = "moe"
SUMMARY = "Make a mixture of experts: each MLP from a dense model of its own, all else from the base."
DRAWN = ("random", "uniform_random")
"""The gate modes that take no prompts."""
_DOC = f"""{SUMMARY}

result = residual_scale * (expert + noise_scale * N(0, 1)); the factor is for the last matrix of an MLP alone.
What is no expert's is the base's as it is. The rows of routers are made of prompts, or drawn.
"""
KEYS = ("shared_experts", "gate_mode", "experts_per_token", "architecture")
"""The keys that only a recipe with `experts` has."""
_TAKEN = {"merge_method", "base_model", "experts", *KEYS, "dtype", "out_dtype", "compute_dtype", "lora_merge_dtype"}
_TAKEN |= {"seed", "chat_template", "compat", "name", "metadata"}
_RESIDUAL = "down_proj"
_NO_NOISE, _AS_IT_IS = each(0.0), each(1.0)


def _build(
    models: tuple[Node, ...],
    *,
    noise_scale: Each[NoiseScale] = _NO_NOISE,
    residual_scale: Each[ResidualScale] = _AS_IT_IS,
    draw: Draw,
) -> Node:
    (made,) = models
    if noise_scale[0]:
        made = perturb(made, scale=noise_scale[0], seed=draw.seed, stream=draw.stream, slot=draw.slot(0))
    return scale(made, factor=residual_scale[0])


@lru_cache
def moe() -> Method:
    """What makes every tensor of a mixture."""
    return Method(
        name=MOE,
        build=_build,
        parameters=read_parameters(_build, skipped=1),
        base="input",
        models=(1, 1),
        commutative=False,
        version=1,
        paper="arXiv:2401.04088",
        doc=_DOC.strip(),
        takes_draw=True,
        takes_arithmetic=False,
    )


def bind_experts(recipe: Recipe) -> tuple[tuple[Bound, ...], list[Problem]]:
    """A bound for what is the base's, one for each expert and each shared expert, and one for the routers."""
    problems = [*_others(recipe), *_counts(recipe), *shared_ids(recipe), *_prompts(recipe), *_alike(recipe)]
    errors = [one for one in problems if one.is_error]
    base = recipe.base_model
    if base is None:
        place = recipe.document.key_place(("experts",))
        what = "a mixture has all but its experts from a base, and the recipe has no 'base_model'"
        return (), [Problem(place, "E210", what, "add base_model: MODEL"), *errors]
    warnings = tuple(one for one in problems if not one.is_error)
    place = recipe.document.place(("base_model",))
    dense = Input(base, recipe.slot(base), place, "base_model", False, {})
    inputs = [dense, *(_input(recipe, path, entry) for path, entry in recipe.all_experts), dense]
    return tuple(Bound(recipe, moe(), (one,), {}, warnings) for one in inputs), sorted(errors, key=lambda p: p.place)


def _input(recipe: Recipe, path: DocumentPath, entry: ExpertEntry) -> Input:
    settings = {}
    for name, pattern in (("noise_scale", None), ("residual_scale", _RESIDUAL)):
        value = getattr(entry, name)
        if value is not None:
            settings[name] = (Choice((float(value),), pattern, recipe.document.place((*path, name)), False),)
    place = recipe.document.place((*path, "source_model"))
    return Input(entry.source_model, entry.slot, place, path_label(path), False, settings)


def stray_keys(recipe: Recipe) -> Iterator[Problem]:
    """Keys of a mixture in a recipe that makes none."""
    for key in KEYS:
        if key in recipe.model_fields_set:
            what = f"'{key}' belongs to a mixture of experts, and the recipe has no 'experts'"
            yield Problem(recipe.document.key_place((key,)), "E700", what, "remove it, or list 'experts:'")


def _others(recipe: Recipe) -> Iterator[Problem]:
    """Another method, and keys that have no meaning here."""
    if recipe.merge_method != MOE:
        what = f"found merge_method: {recipe.merge_method} beside 'experts', which are not merged"
        hint = "remove one of the two; an expert may be the result of another recipe of this file"
        yield Problem(recipe.document.place(("merge_method",)), "E700", what, hint)
    for key in recipe.document.value:
        if key in recipe.model_fields_set - _TAKEN and getattr(recipe, key):
            what = f"'{key}' has no meaning beside 'experts'"
            yield Problem(recipe.document.key_place((key,)), "E700", what, "remove it")


def _counts(recipe: Recipe) -> Iterator[Problem]:
    wanted, found = recipe.experts_per_token, len(recipe.experts)
    if wanted > found:
        is_said = "experts_per_token" in recipe.model_fields_set
        place = recipe.document.place(("experts_per_token",)) if is_said else recipe.document.key_place(("experts",))
        default = "" if is_said else ", the default"
        what = f"experts_per_token is {wanted}{default}, and the recipe has {count(found, 'expert')}"
        yield Problem(place, "E701", what, f"expected 1 to {found}" if found > 1 else "write experts_per_token: 1")


def _prompts(recipe: Recipe) -> Iterator[Problem]:
    """Prompts that are missing, or the same for all; W700 for those that nobody reads."""
    if "gate_mode" in recipe.document.value and "gate_mode" not in recipe.model_fields_set:
        return  # it is misspelt
    if recipe.gate_mode in DRAWN:
        for path, entry in recipe.all_experts:
            for key in ("positive_prompts", "negative_prompts"):
                if getattr(entry, key):
                    what = f"'{key}' have no effect: gate_mode {recipe.gate_mode} draws the routers' rows"
                    yield Problem(
                        recipe.document.key_place((*path, key)), "W700", what, "remove them, or the gate_mode"
                    )
        return
    prompted = any(entry.positive_prompts for entry in recipe.shared_experts)
    for path, entry in recipe.all_experts:
        if not entry.positive_prompts and (path[0] == "experts" or prompted or entry.negative_prompts):
            what = f"'{entry.source_model}' has no positive_prompts, and gate_mode {recipe.gate_mode} routes by them"
            hint = "add texts that should be routed to it, or take gate_mode: random"
            yield Problem(recipe.document.place(path), "E702", what, hint)
    prompts = {(tuple(one.positive_prompts), tuple(one.negative_prompts)) for one in recipe.experts}
    if len(prompts) == 1 < len(recipe.experts) and recipe.experts[0].positive_prompts:
        what = "all experts have the same prompts, so that no router can tell them apart"
        hint = "give each expert texts that should be routed to it"
        yield Problem(recipe.document.place(("experts", 1, "positive_prompts")), "E703", what, hint)


def _alike(recipe: Recipe) -> Iterator[Problem]:
    """Experts that are all the same, which prompts cannot make sense of."""
    entries = recipe.experts
    made = {(one.source_model, one.residual_scale or 1.0) for one in entries}
    is_noisy = any(one.noise_scale for one in entries)
    if recipe.gate_mode in DRAWN or len(made) > 1 or len(entries) < 2 or is_noisy:
        return
    what = f"all experts are '{entries[0].source_model}', so the mixture answers as that model does, only slower"
    hint = "name other models; to train it afterwards, give the experts a noise_scale or take gate_mode: random"
    yield Problem(recipe.document.place(("experts", 1, "source_model")), "E704", what, hint)
