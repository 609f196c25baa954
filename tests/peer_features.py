"""What a recipe may have beside method and settings: by both tools, with three methods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from adapters import write_adapter
from differential import Recipe
from models import Family, auto_class, tensors_of
from peer_recipes import merge, model, save_model, source, stack

METHODS = ("linear", "ties", "slerp")


@dataclass(frozen=True)
class Made:
    """What the recipes are made of: a family in float32, the same in bfloat16, a folder for further models."""

    family: Family
    half: Family
    folder: Path


Recipes = Callable[[str, Made], Recipe]


def recipe(method: str, one: Any, other: Any, base: Any, **top: Any) -> Recipe:
    """A merge of two models by any of METHODS; slerp goes from the first to the second."""
    models = [model(folder) for folder in (one, other)]
    if method == "slerp":
        return merge(method, *models, base=one, **{"parameters": {"t": 0.3}, **top})
    density = 1.0 if "dtype" in top else 0.6  # half types tie at every threshold
    own = {"linear": {"weight": 0.4}, "ties": {"weight": 0.4, "density": density}}[method]
    return merge(method, *models, base=base if method == "ties" else None, **{"parameters": own, **top})


def plain(method: str, made: Made, **top: Any) -> Recipe:
    return recipe(method, made.family.a, made.family.b, made.family.base, **top)


def listed_base(method: str, made: Made) -> Recipe:
    given = plain(method, made)
    given["models"] += [{"model": str(made.family.base)}] * (method == "ties")
    return {**given, "base_model": str(made.family.base)} if method == "linear" else given


def mixed(method: str, made: Made) -> Recipe:
    return recipe(method, made.family.a, made.half.b, made.family.base)


def sharded(method: str, made: Made) -> Recipe:
    auto_class("llama").from_pretrained(made.family.a).save_pretrained(made.folder / "shards", max_shard_size="20KB")
    return recipe(method, made.folder / "shards", made.family.b, made.family.base)


def archive(method: str, made: Made) -> Recipe:
    (made.folder / "archive").mkdir()
    (made.folder / "archive" / "config.json").write_text((made.family.a / "config.json").read_text())
    torch.save(tensors_of(made.family.a), made.folder / "archive" / "pytorch_model.bin")
    return recipe(method, made.folder / "archive", made.family.b, made.family.base)


def adapter(method: str, made: Made) -> Recipe:
    write_adapter(made.family.b, made.folder / "lora", r=4, target_modules=["q_proj", "up_proj"])
    return recipe(method, made.family.a, f"{made.family.b}+{made.folder}/lora", made.family.base)


def overlapping(method: str, made: Made) -> Recipe:
    family = made.family
    folders = (family.a, family.b) if method != "ties" else (family.base, family.a, family.b)
    own = {"weight": 0.4, "density": 0.6} if method == "ties" else {"weight": 0.4} if method == "linear" else {"t": 0.3}
    slices = [[source(one, first, end) for one in folders] for first, end in ((0, 2), (1, 3))]
    base = {"ties": family.base, "slerp": family.a}.get(method)
    return stack(method, *slices, base=base, parameters=own)


FEATURES: dict[str, Recipes] = {
    "two models": plain,
    "the base in the list; for linear a base that is not": listed_base,
    "`dtype: bfloat16`": lambda method, made: plain(method, made, dtype="bfloat16"),
    "`dtype: bfloat16`, `out_dtype: float32`": lambda m, made: plain(m, made, dtype="bfloat16", out_dtype="float32"),
    "`out_dtype: float16`": lambda method, made: plain(method, made, out_dtype="float16"),
    "float32 with bfloat16": mixed,
    "a model in shards": sharded,
    "a model in `pytorch_model.bin`": archive,
    "`model: MODEL+ADAPTER`": adapter,
    "slices that overlap": overlapping,
}


def nan(method: str, made: Made) -> Recipe:
    tensors = tensors_of(made.family.a)
    tensors["model.norm.weight"][0] = float("nan")
    save_model(made.family.a, tensors, made.folder / "nan")
    return recipe(method, made.folder / "nan", made.family.b, made.family.base)


def lacking(method: str, made: Made) -> Recipe:
    tensors = tensors_of(made.family.b)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_model(made.family.b, tensors, made.folder / "lacking")
    return recipe(method, made.family.a, made.folder / "lacking", made.family.base)


def wider(method: str, made: Made) -> Recipe:
    tensors = tensors_of(made.family.b)
    tensors["model.norm.weight"] = torch.ones(40)
    save_model(made.family.b, tensors, made.folder / "wider")
    return recipe(method, made.family.a, made.folder / "wider", made.family.base)


def misspelt(method: str, made: Made) -> Recipe:
    return {**plain(method, made), "paramters": {"normalize": False}}


def layers(first: int, end: int) -> Recipes:
    return lambda method, made: stack("passthrough", [source(made.family.a, first, end)])


def cancelled(method: str, made: Made) -> Recipe:
    return merge("linear", model(made.family.a, weight=0.5), model(made.family.b, weight=-0.5))


REFUSED: dict[str, Recipes] = {
    "a key that there is not": misspelt,
    "weights that sum to zero": cancelled,
    "NaN in a model": nan,
    "a model that lacks a tensor": lacking,
    "tensors of other shapes": wider,
    "`layer_range: [2, 1]`": layers(2, 1),
    "`layer_range: [0, 9]` of three layers": layers(0, 9),
    "one model twice": lambda m, made: merge("linear", *[model(made.family.a, weight=0.5)] * 2),
    "a base missing in a slice": lambda m, made: stack(
        "ties", [source(made.family.a, 0, 3)], base=made.family.base, parameters={"weight": 1.0}
    ),
}
