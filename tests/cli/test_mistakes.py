"""Every kind of mistake we could think of: found before a weight is read, at its place, in words, with a way out.

In the recipes below a caret stands where the message points; it is taken out before the recipe is written. What is
expected is the code and the text of the printed line.
"""

# ruff: noqa: E501 - a message is one line

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from recipes_fixtures import CONFIG, SHAPES, mergec, safetensors_bytes, write_family, write_model

from mergec.cli.main import cli
from mergec.errors import did_you_mean
from mergec.io.reader import Reader
from mergec.ops.registry import methods
from mergec.recipe.schema import Recipe

Spoil = Callable[[Path], object]


class Mistake:
    """A recipe with carets, the lines it must be answered with, and what is done to the input folders before."""

    def __init__(self, name: str, recipe: str, *steps: str | Spoil) -> None:
        self.name = name
        self.expected = [step for step in steps if isinstance(step, str)]
        self.spoils = [step for step in steps if not isinstance(step, str)]
        self.recipe, self.places = _without_carets(recipe)

    @property
    def lines(self) -> list[str]:
        split = [text.partition(" ") for text in self.expected]
        return [
            f"recipe.yml:{place}: error[{code}]: {rest}"
            for place, (code, _, rest) in zip(self.places, split, strict=True)
        ]


def _without_carets(text: str) -> tuple[str, list[str]]:
    places = []
    while "^" in text:
        before, _, after = text.partition("^")
        places.append(f"{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}")
        text = before + after
    return text, places


# ---------------------------------------------------------------------------------------------- recipes


def remove(name: str) -> Spoil:
    def spoil(root: Path) -> None:
        path = root / name
        files = [*path.iterdir()] if path.is_dir() else [path]
        for file in files:
            file.unlink()
        if path.is_dir():
            path.rmdir()

    return spoil


def rename(old: str, new: str) -> Spoil:
    return lambda root: (root / old).rename(root / new)


def folder_of_recipes(name: str) -> Spoil:
    def spoil(root: Path) -> None:
        (root / name).mkdir()
        (root / name / "soup.yml").write_text(LINEAR)

    return spoil


KEYS = f"{', '.join(sorted(Recipe.model_fields)[:20])} and {len(Recipe.model_fields) - 20} more"
LINEAR = """\
merge_method: linear
models: [{model: a}, {model: b}]
parameters: {weight: 1}
"""
STACK = "merge_method: passthrough\nslices:\n"
BOMB = "metadata:\n  - &a0 [^1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"  - &a{n} [{', '.join([f'*a{n - 1}'] * 8)}]\n" for n in range(1, 12)
)


def ties(shared: str = "", own: str = "weight: 0.5") -> str:
    """TIES of `a` on `base`, with settings for all models and settings of `a`."""
    return (
        "merge_method: ties\nbase_model: base\nmodels:\n  - model: a\n"
        f"    parameters: {{{own}}}\nparameters: {{weight: 1, {shared}}}\n".replace("{weight: 1, weight", "{weight")
    )


def della(shared: str) -> str:
    return f"merge_method: della\nbase_model: base\nmodels: [{{model: a}}]\nparameters: {{weight: 1, {shared}}}\n"


# fmt: off
RECIPES = [
    # -------------------------------------------------------------- the file and its YAML
    Mistake("empty file", "^",
        "E002 found nothing, expected a mapping such as 'merge_method: ties'; hint: `mergec new ties` prints a recipe to start from"),
    Mistake("only a comment", "^# nothing yet\n",
        "E002 found nothing, expected a mapping such as 'merge_method: ties'; hint: `mergec new ties` prints a recipe to start from"),
    Mistake("a list instead of a mapping", "^- merge_method: ties\n",
        "E002 found a list, expected a mapping such as 'merge_method: ties'; hint: `mergec new ties` prints a recipe to start from"),
    Mistake("a word instead of a mapping", "^ties\n",
        "E002 found a plain value, expected a mapping such as 'merge_method: ties'; hint: `mergec new ties` prints a recipe to start from"),
    Mistake("a tab for indentation", "merge_method: linear\nmodels:\n^\t- model: a\n",
        "E001 not YAML: found character '\\t' that cannot start any token; hint: YAML is indented with spaces, never tabs"),
    Mistake("an unclosed quote", 'merge_method: linear\nname: ^"soup\nmodels: [{model: a}]\n',
        "E001 not YAML: found unexpected end of stream while scanning a quoted scalar that begins here; hint: check indentation, quotes and colons here"),
    Mistake("an unclosed bracket", "merge_method: linear\nmodels: ^[{model: a}\n",
        "E001 not YAML: expected ',' or ']', but got '<stream end>' while parsing a flow sequence that begins here; hint: check indentation, quotes and colons here"),
    Mistake("a colon too many", "merge_method: linear^: ties\n",
        "E001 not YAML: mapping values are not allowed here; hint: check indentation, quotes and colons here"),
    Mistake("a key without a colon", LINEAR + "^name\n",
        "E001 not YAML: could not find expected ':' while scanning a simple key that begins here; hint: check indentation, quotes and colons here"),
    Mistake("entries that are not aligned", "merge_method: linear\nmodels:\n  - model: a\n ^- model: b\n",
        "E001 not YAML: expected <block end>, but found '<block sequence start>'; hint: check indentation, quotes and colons here"),
    Mistake("a control character", "merge_method: linear\nname: a^\x07b\n",
        "E001 not YAML: unacceptable character #x0007: special characters are not allowed; hint: remove the character"),
    Mistake("a key twice", LINEAR + "seed: 1\n^seed: 2\n",
        "E004 the key 'seed' stands twice, first on line 4; hint: remove one"),
    Mistake("a nested key twice", LINEAR.replace("{weight: 1}", "{weight: 1, ^weight: 2}"),
        "E004 the key 'weight' stands twice, first on line 3; hint: remove one"),
    Mistake("a second document", LINEAR + "---\n^" + LINEAR,
        "E003 found a second recipe without a 'name', expected one: the result; hint: give the others names, by which their results are models"),
    Mistake("an alias without an anchor", LINEAR + "metadata: ^*missing\n",
        "E001 not YAML: found undefined alias 'missing'; hint: check indentation, quotes and colons here"),
    Mistake("a blank entry", "merge_method: linear\nmodels:\n  -^\n  - model: b\nparameters: {weight: 1}\n",
        "E103 found nothing in 'models', expected a mapping; hint: what is merged, in order, each as `- model: PATH`"),
    Mistake("an alias in its own value", LINEAR + "metadata: ^&me [1, *me]\n",
        "E009 an alias inside this value refers to the value itself; hint: remove the alias"),
    Mistake("nested aliases", LINEAR + BOMB,
        "E009 the recipe expands to too many values; hint: are aliases (*name) nested?"),
    Mistake("lists too deep", LINEAR + "metadata: " + "[" * 32 + "^[" + "]" * 33 + "\n",
        "E009 the recipe is nested too deeply; hint: at most 32 levels are read"),
    Mistake("lists far too deep", LINEAR + "metadata: " + "[" * 34 + "^" + "[" * 200_000,
        "E009 the recipe is nested too deeply; hint: at most 32 levels are read"),
    Mistake("sequences far too deep in one line", LINEAR + "metadata:\n  " + "- " * 33 + "-^ " + "- " * 100_000,
        "E009 the recipe is nested too deeply; hint: at most 32 levels are read"),
    Mistake("far too many values", LINEAR + "metadata: [" + "a," * 59_986 + "^" + "a," * 60_000,
        "E009 the recipe expands to too many values; hint: are aliases (*name) nested?"),
    Mistake("a file too large", "^" + LINEAR + "#" * (256 * 1024),
        "E009 the recipe is larger than 256 KiB; hint: is this the right file?"),
    Mistake("not UTF-8", LINEAR + "name: ^\udcff\n",
        "E008 cannot read the recipe: not UTF-8 text; hint: save it as UTF-8"),
    Mistake("an unknown tag", LINEAR + "name: ^!soup a\n",
        "E006 found the tag !soup, expected plain YAML; hint: remove the tag"),
    Mistake("a Python tag", LINEAR + "metadata: ^!!python/object/apply:os.system [ls]\n",
        "E006 found the tag !!python/object/apply:os.system, expected plain YAML; hint: remove the tag"),
    Mistake("a number as a key", LINEAR + "^1: a\n",
        "E005 found '1' as a key, expected a name; hint: quote it if it is a name"),
    Mistake("yes as a key", LINEAR + "^yes: a\n",
        f"E101 unknown key 'yes' in a recipe; hint: known here: {KEYS}"),
    Mistake("a list as a key", LINEAR + "^[a, b]: c\n",
        "E005 found a list as a key, expected a name; hint: quote it if it is a name"),
    Mistake("merging what is not a mapping", LINEAR + "<<: [^1, ^2]\n",
        "E005 found a merge key whose value is not a mapping; hint: give it an alias of a mapping, such as *shared",
        "E005 found a merge key whose value is not a mapping; hint: give it an alias of a mapping, such as *shared"),
    Mistake("no file", "^",
        "E008 no such file; hint: `mergec new ties` prints a recipe to start from",
        remove("recipe.yml")),
    Mistake("no file, and others beside it", "^",
        "E008 no such file; hint: did you mean 'receipe.yml'?",
        rename("recipe.yml", "receipe.yml")),
    Mistake("a folder", "^",
        "E008 cannot read the recipe: Is a directory; hint: known here: soup.yml",
        remove("recipe.yml"), folder_of_recipes("recipe.yml")),
    # -------------------------------------------------------------- keys
    Mistake("a misspelt key", LINEAR + "^dtpye: float32\n",
        "E101 unknown key 'dtpye' in a recipe; hint: did you mean 'dtype'?"),
    Mistake("a key that is nothing like one", LINEAR + "^frobnicate: 1\n",
        f"E101 unknown key 'frobnicate' in a recipe; hint: known here: {KEYS}"),
    Mistake("a misspelt key of a model", "merge_method: passthrough\nmodels: [{model: a, ^paramters: {scale: 1}}]\n",
        "E101 unknown key 'paramters' in a model's entry; hint: did you mean 'parameters'?"),
    Mistake("a parameter at the top level", LINEAR + "^normalize: false\n",
        "E101 'normalize' is a parameter of a method and does not stand here; hint: put it under 'parameters:'"),
    Mistake("a parameter beside a model", "merge_method: linear\nmodels: [{model: a, ^weight: 1}]\nparameters: {weight: 1}\n",
        "E101 'weight' is a parameter of a method and does not stand here; hint: put it under 'parameters:'"),
    Mistake("slices that are empty", "merge_method: linear\nslices: ^[]\n",
        "E103 found an empty list for 'slices', expected at least one entry; hint: in place of models: layers of models, stacked in the order of this list"),
    Mistake("slices beside models", LINEAR + "^slices: [{sources: [{model: a, layer_range: [0, 2]}]}]\n",
        "E110 found 'slices' beside 'models', expected one of models, slices, modules; hint: remove one of the two"),
    Mistake("a slice without sources", STACK + "  - ^parameters: {scale: 1}\n",
        "E102 the key 'sources' is missing; hint: equally many layers of each of these models"),
    Mistake("a source without layers", STACK + "  - sources: [^{model: a}]\n",
        "E102 the key 'layer_range' is missing; hint: [first, end]: layers first to end - 1 of the model, counted from 0"),
    Mistake("a layer_range of one number", STACK + "  - sources: [{model: a, layer_range: ^[1]}]\n",
        "E103 found [1] for 'layer_range', expected 2 entries; hint: [first, end]: layers first to end - 1 of the model, counted from 0"),
    Mistake("a layer_range of words", STACK + "  - sources: [{model: a, layer_range: [0, ^two]}]\n",
        "E103 found 'two' in 'layer_range', expected a whole number; hint: [first, end]: layers first to end - 1 of the model, counted from 0"),
    Mistake("a negative layer", STACK + "  - sources: [{model: a, layer_range: [^-1, 2]}]\n",
        "E103 found -1 in 'layer_range', expected a number greater than or equal to 0; hint: [first, end]: layers first to end - 1 of the model, counted from 0"),
    Mistake("a reversed layer_range", STACK + "  - sources: [{model: ^a, layer_range: [2, 1]}]\n",
        "E112 the layer_range [2, 1] of 'a' holds no layer; hint: the second number is the end, which is not included"),
    Mistake("layers that are not there", STACK + "  - sources: [{model: ^a, layer_range: [0, 3]}]\n",
        "E115 found layer_range [0, 3], and 'a' has 2 layers; hint: expected an end of at most 2"),
    Mistake("slices of models without layers", STACK + "  - sources: [{model: ^a, layer_range: [0, 2]}]\n",
        "E114 'a' has no layers that could be told from the names of its tensors; hint: merge it whole, under 'models:'",
        lambda root: write_model(root / "a", shapes={"w": (4, 4)})),
    Mistake("slices of models with two towers", STACK + "  - sources: [{model: ^a, layer_range: [0, 2]}]\n",
        "E114 'a' has layers in model.layers and in vision.layers; hint: say which under 'modules:', each module with models or slices of its own",
        lambda root: write_model(root / "a", shapes=SHAPES | {f"vision.layers.{n}.{part}": (4, 4) for n in range(2) for part in "qkv"})),
    Mistake("tensors of no module", "merge_method: linear\nparameters: {weight: 1}\nmodules:\n  ^layers: {models: [{model: a}]}\n",
        "E117 3 tensors of the models are in no module: lm_head.weight, model.embed_tokens.weight, model.norm.weight; hint: list their module too: embed_tokens, lm_head, norm, or 'default' for what no other module takes"),
    Mistake("sources of unequal length", "merge_method: linear\nparameters: {weight: 1}\nslices:\n  - sources: [{model: a, layer_range: [0, 2]}, {model: ^b, layer_range: [0, 1]}]\n",
        "E113 1 layer of 'b', 2 of 'a'; hint: the sources of a slice are merged layer by layer: give all the same number"),
    Mistake("a key that mergekit ignores in a slice", STACK + "  - {sources: [{model: a, layer_range: [0, 2]}], ^residual_weight: 0.5}\n",
        "E101 'residual_weight' has no effect in mergekit either; hint: remove it"),
    Mistake("slices of bakllama", LINEAR + "^layer_slices: [{model: a, start: 0, end: 2}]\n",
        "E101 unknown key 'layer_slices' in a recipe; hint: `mergec import` makes `slices: [{sources: [{model: MODEL, layer_range: [START, END]}]}]` of it"),
    Mistake("a genome", LINEAR + "^genome: {}\n", "E101 unknown key 'genome' in a recipe; hint: import the best_config.yaml that mergekit-evolve writes"),
    Mistake("a seed by another name", LINEAR + "^random_seed: 3\n", "E101 unknown key 'random_seed' in a recipe; hint: write `seed: NUMBER`"),
    Mistake("a misspelt key of a source", STACK + "  - sources: [{model: a, layer_range: [0, 2], ^paramters: {}}]\n",
        "E101 unknown key 'paramters' in a source of a slice; hint: did you mean 'parameters'?"),
    Mistake("too many sources", STACK + "  - sources: ^[{model: a, layer_range: [0, 2]}, {model: b, layer_range: [0, 2]}]\n",
        "E211 passthrough merges exactly 1 model, found 2 models; hint: remove the others"),
    Mistake("a slice without its base", "merge_method: ties\nbase_model: base\nparameters: {weight: 1}\nslices:\n  - sources: ^[{model: a, layer_range: [0, 2]}]\n",
        "E111 ties takes deltas from 'base', which is not among the sources of this slice; hint: add `- {model: base, layer_range: ...}`"),
    Mistake("the same layers twice", "merge_method: linear\nparameters: {weight: 1}\nslices:\n  - sources: [{model: a, layer_range: [0, 1]}, {model: ^a, layer_range: [0, 1]}]\n",
        "E212 the model 'a' is listed twice, first on line 4; hint: add up the weights and list it once"),
    Mistake("an artifact of slices", "merge_method: emr\nbase_model: base\n^slices:\n  - sources: [{model: base, layer_range: [0, 2]}, {model: a, layer_range: [0, 2]}, {model: b, layer_range: [0, 2]}]\n",
        "E119 emr makes an artifact of whole models, found 'slices'; hint: list the models under 'models:'"),
    Mistake("a threshold over slices of other models", "merge_method: ties\nbase_model: base\nparameters: {weight: 1, density: 0.5, scope: model}\nslices:\n"
        "  - sources: [{model: base, layer_range: [0, 1]}, {model: a, layer_range: [0, 1]}]\n  - ^sources: [{model: base, layer_range: [1, 2]}, {model: b, layer_range: [1, 2]}]\n",
        "E118 the threshold of models[0] is taken over the whole model, and this part of it has other models than the first; hint: give every part the same models, or set scope: tensor"),
    Mistake("modules that are empty", "merge_method: linear\nmodules: ^{}\n",
        "E103 found an empty mapping for 'modules', expected at least one entry; hint: in place of models: each module of the models by name, with models or slices of its own"),
    Mistake("a module of nothing", "merge_method: linear\nmodules: {decoder: ^{parameters: {weight: 1}}}\n",
        "E102 the key 'models' is missing; hint: as the recipe's own 'models', for this module alone"),
    Mistake("a module that is not there", "merge_method: linear\nparameters: {weight: 1}\nmodules:\n  ^vision_tower: {models: [{model: a}]}\n  default: {models: [{model: a}]}\n",
        "E116 the models have no module 'vision_tower'; hint: known here: embed_tokens, layers, lm_head, norm"),
    Mistake("no merge_method", "^models: [{model: a}]\n",
        "E102 the key 'merge_method' is missing; hint: how the models are merged; `mergec methods` lists the methods"),
    Mistake("no models", "^merge_method: linear\n",
        "E102 the key 'models' is missing; hint: what is merged, in order, each as `- model: PATH`"),
    Mistake("no model in an entry", "merge_method: linear\nmodels: [^{parameters: {weight: 1}}]\n",
        "E102 the key 'model' is missing; hint: a folder, a .safetensors file, or a Hugging Face id with optional @revision"),
    # -------------------------------------------------------------- types and words
    Mistake("merge_method is a number", "merge_method: ^3\nmodels: [{model: a}]\n",
        "E103 found 3 for 'merge_method', expected text; hint: quote it if it is text"),
    Mistake("merge_method is nothing", "^merge_method:\nmodels: [{model: a}]\n",
        "E103 found nothing for 'merge_method', expected text; hint: how the models are merged; `mergec methods` lists the methods"),
    Mistake("models is a mapping", "merge_method: linear\nmodels: ^{a: 1}\n",
        "E103 found a mapping for 'models', expected a list; hint: what is merged, in order, each as `- model: PATH`"),
    Mistake("models is empty", "merge_method: linear\nmodels: ^[]\n",
        "E103 found an empty list for 'models', expected at least one entry; hint: what is merged, in order, each as `- model: PATH`"),
    Mistake("models is nothing", "merge_method: linear\n^models:\n",
        "E103 found nothing for 'models', expected a list; hint: what is merged, in order, each as `- model: PATH`"),
    Mistake("models of plain names", "merge_method: linear\nmodels: [^a, ^b]\n",
        "E103 found 'a' in 'models', expected a mapping; hint: write `- model: a`",
        "E103 found 'b' in 'models', expected a mapping; hint: write `- model: b`"),
    Mistake("a model is a number", "merge_method: linear\nmodels: [{model: ^7}]\nparameters: {weight: 1}\n",
        "E103 found 7 for 'model', expected text; hint: quote it if it is text"),
    Mistake("a model is empty", "merge_method: linear\nmodels: [{model: ^''}]\nparameters: {weight: 1}\n",
        "E103 found '' for 'model', expected text that is not empty; hint: a folder, a .safetensors file, or a Hugging Face id with optional @revision"),
    Mistake("base_model is a list", LINEAR + "base_model: ^[base]\n",
        "E103 found a list for 'base_model', expected text; hint: the model that deltas are taken from; it also gives config and tokenizer"),
    Mistake("parameters is a list", "merge_method: linear\nmodels: [{model: a}]\nparameters: ^[weight]\n",
        "E103 found a list for 'parameters', expected a mapping; hint: settings for all models and for the method"),
    Mistake("a model's parameters are text", "merge_method: linear\nmodels: [{model: a, parameters: ^0.5}]\n",
        "E103 found 0.5 for 'parameters', expected a mapping; hint: settings for this model; they win over the top level's"),
    Mistake("an unknown dtype", LINEAR + "dtype: ^bf16\n",
        "E104 found 'bf16' for 'dtype', expected 'bfloat16', 'float16', 'float32' or 'float64'; hint: did you mean 'bfloat16'?"),
    Mistake("an integer dtype", LINEAR + "out_dtype: ^int8\n",
        "E104 found 'int8' for 'out_dtype', expected 'bfloat16', 'float16', 'float32' or 'float64'; hint: what the result is stored as; left out: dtype, or as the inputs"),
    Mistake("a dtype that is a number", LINEAR + "dtype: ^16\n",
        "E104 found 16 for 'dtype', expected 'bfloat16', 'float16', 'float32' or 'float64'; hint: what inputs are cast to before they are merged"),
    Mistake("an unknown compute_dtype", LINEAR + "compute_dtype: ^float16\n",
        "E104 found 'float16' for 'compute_dtype', expected 'float32' or 'float64'; hint: what the arithmetic is done in; left out: float32, or float64 for float64 inputs"),
    Mistake("an unknown compat", LINEAR + "compat: ^mergkit\n",
        "E104 found 'mergkit' for 'compat', expected 'mergekit'; hint: did you mean 'mergekit'?"),
    Mistake("a negative seed", LINEAR + "seed: ^-1\n",
        "E103 found -1 for 'seed', expected a number greater than or equal to 0; hint: what random methods draw from, with tensor and model"),
    Mistake("a seed beyond 64 bits", LINEAR + "seed: ^18446744073709551616\n",
        "E103 found 18446744073709551616 for 'seed', expected a number less than 18446744073709551616; hint: what random methods draw from, with tensor and model"),
    Mistake("a fractional seed", LINEAR + "seed: ^1.5\n",
        "E103 found 1.5 for 'seed', expected a whole number; hint: what random methods draw from, with tensor and model"),
    Mistake("a seed that is a word", LINEAR + "seed: ^lucky\n",
        "E103 found 'lucky' for 'seed', expected a whole number; hint: what random methods draw from, with tensor and model"),
    Mistake("a name that is a number", LINEAR + "name: ^7\n",
        "E103 found 7 for 'name', expected text; hint: quote it if it is text"),
    Mistake("an empty name", LINEAR + "name: ^''\n",
        "E103 found '' for 'name', expected text that is not empty; hint: a name for the merge; free text"),
    # -------------------------------------------------------------- passes
    Mistake("an unknown pass", ties() + "post: [^svd]\n",
        "E650 unknown pass 'svd' in 'post'; hint: did you mean 'svc'?"),
    Mistake("a pass that is a number", ties() + "post: [^3]\n",
        "E650 found 3 in 'post', expected a pass; hint: write `- svc`, or `- svc: {alpha: 0.2}`"),
    Mistake("a pass with an unknown parameter", ties() + "post: [{svc: {^alhpa: 0.5}}]\n",
        "E202 post: svc has no parameter 'alhpa'; hint: did you mean 'alpha'?"),
    Mistake("a pass without a base", LINEAR + "^post: [svc]\n",
        "E651 a pass takes what each model changed of a base, and linear has none; hint: remove 'post', or take another method"),
    Mistake("a pass after a path from the base to a model", "merge_method: slerp\nbase_model: base\nmodels: [{model: a}]\nparameters: {t: 0.5}\n^post: [svc]\n",
        "E651 a pass takes what several models changed of a base, and slerp merges one model with its base; hint: remove 'post', or take another method"),
    Mistake("a pass over an artifact", "merge_method: emr\nbase_model: base\nmodels: [{model: a}, {model: b}]\n^post: [svc]\n",
        "E651 emr makes an artifact, and a pass takes one dense model; hint: remove 'post', or take another method"),
    # -------------------------------------------------------------- methods and their models
    Mistake("a misspelt method", "merge_method: ^tise\nmodels: [{model: a}]\n",
        "E200 unknown merge method 'tise'; hint: did you mean 'ties'?"),
    Mistake("an unknown method", "merge_method: ^frankenmerge\nmodels: [{model: a}]\n",
        f"E200 unknown merge method 'frankenmerge'; hint: {did_you_mean('frankenmerge', [*methods(), 'pipeline'])}"),
    Mistake("no base_model", "merge_method: ^ties\nmodels: [{model: a}]\nparameters: {weight: 1}\n",
        "E210 ties takes deltas from a base, and the recipe has no 'base_model'; hint: add base_model: MODEL"),
    Mistake("three models for slerp", "merge_method: slerp\nbase_model: base\nmodels: ^[{model: a}, {model: b}]\nparameters: {t: 0.5}\n",
        "E211 slerp merges exactly 1 model beside the base, found 2 models; hint: remove the others"),
    Mistake("two models for passthrough", "merge_method: passthrough\nmodels: ^[{model: a}, {model: b}]\n",
        "E211 passthrough merges exactly 1 model, found 2 models; hint: remove the others"),
    Mistake("one model for model_stock", "merge_method: model_stock\nbase_model: base\nmodels: ^[{model: base}, {model: a}]\n",
        "E211 model_stock merges at least 2 models beside the base, found 1 model; hint: add more under 'models:'"),
    Mistake("only the base", "merge_method: ties\nbase_model: base\nmodels: ^[{model: base}]\nparameters: {weight: 1}\n",
        "E211 ties merges at least 1 model beside the base, found 0 models; hint: add more under 'models:'"),
    Mistake("a model twice", "merge_method: linear\nmodels: [{model: a}, {model: ^a}]\nparameters: {weight: 1}\n",
        "E212 the model 'a' is listed twice, first on line 2; hint: add up the weights and list it once"),
    Mistake("tokenizer_source of a stranger", LINEAR + "tokenizer_source: ^c\n",
        "E213 found 'c' as the tokenizer's source, expected union, base, truncate or a model of this recipe; hint: known here: a, b, base, truncate, union"),
    Mistake("tokenizer_source misspelt", LINEAR + "tokenizer_source: ^unoin\n",
        "E213 found 'unoin' as the tokenizer's source, expected union, base, truncate or a model of this recipe; hint: did you mean 'union'?"),
    Mistake("tokenizer_source base without one", LINEAR + "tokenizer_source: ^base\n",
        "E213 the tokenizer's source is 'base', and the recipe has no 'base_model'; hint: add base_model: MODEL, or name one of the models"),
    Mistake("the source of a tokenizer", LINEAR + "tokenizer: {source: ^c}\n",
        "E213 found 'c' as the tokenizer's source, expected union, base, truncate or a model of this recipe; hint: known here: a, b, base, truncate, union"),
    Mistake("two tokenizers", LINEAR + "tokenizer_source: a\n^tokenizer: {source: a}\n",
        "E352 found 'tokenizer' beside 'tokenizer_source', expected one of them; hint: remove one of the two"),
    Mistake("a tokenizer that is text", LINEAR + "tokenizer: ^union\n",
        "E103 found 'union' for 'tokenizer', expected a mapping; hint: the vocabulary of the result, where the models' differ or tokens are added"),
    Mistake("a misspelt key of a tokenizer", LINEAR + "tokenizer: {^sorce: union}\n",
        "E101 unknown key 'sorce' in the tokenizer; hint: did you mean 'source'?"),
    Mistake("a multiple of nothing", LINEAR + "tokenizer: {pad_to_multiple_of: ^0}\n",
        "E103 found 0 for 'pad_to_multiple_of', expected a number greater than or equal to 1; hint: rows up to a multiple of this follow the tokens; other padding is dropped"),
    Mistake("a misspelt key of a token", LINEAR + "tokenizer: {tokens: {a: {^forse: true}}}\n",
        "E101 unknown key 'forse' in a token's entry; hint: did you mean 'force'?"),
    Mistake("a misspelt key of a token's source", LINEAR + "tokenizer: {tokens: {a: {source: {kind: zero, ^modle: a}}}}\n",
        "E101 unknown key 'modle' in a token's source; hint: did you mean 'model'?"),
    Mistake("a token's source of no kind", LINEAR + "tokenizer: {tokens: {a: {source: {kind: ^zeros}}}}\n",
        "E104 found 'zeros' for 'kind', expected 'model_token' or 'zero'; hint: did you mean 'zero'?"),
    Mistake("a token from a stranger", LINEAR + "tokenizer: {tokens: {a: {source: ^bb}}}\n",
        "E353 found 'bb' as the source, expected a model of this recipe for 'a'; hint: did you mean 'b'?"),
    Mistake("a token and a number", LINEAR + "tokenizer: {tokens: {a: {source: ^{kind: model_token, model: a, token: b, token_id: 1}}}}\n",
        "E353 found both 'token' and 'token_id', expected one of them for 'a'; hint: remove one of the two"),
    Mistake("a token of no model", LINEAR + "tokenizer: {tokens: {a: {source: ^{kind: model_token, token: b}}}}\n",
        "E353 kind: model_token needs a 'model' for 'a'; hint: add model: MODEL"),
    Mistake("a zero of a model", LINEAR + "tokenizer: {tokens: {a: {source: ^{kind: zero, model: a}}}}\n",
        "E353 found 'model' beside kind: zero for 'a'; hint: remove it"),
    Mistake("chat_template", LINEAR + "chat_template: ^chatmk\n",
        "E358 found 'chatmk' for 'chat_template', expected auto, the name of a template or a Jinja template; hint: did you mean 'chatml'?"),
    Mistake("a chat_template that is too short", LINEAR + "chat_template: ^'{{ x }}'\n",
        "E358 found '{{ x }}' for 'chat_template', expected auto, the name of a template or a Jinja template; hint: known here: alpaca, auto, chatml, exaone, llama3, mistral"),
    Mistake("tokens where rows are counted", LINEAR + "tokenizer: {source: truncate, tokens: {^a: {force: true}}}\n",
        "E352 'tokens' has no meaning beside source: truncate, which counts rows and knows no tokens; hint: take another source"),
    Mistake("a number past the rows", LINEAR + "tokenizer: {tokens: {new: {source: ^{kind: model_token, model: b, token_id: 8}}}}\n",
        "E354 found token_id 8 for 'new', 'b' has 8 rows; hint: expected a number below 8"),
    Mistake("a token that its source lacks", LINEAR + "tokenizer: {tokens: {new: {source: ^b}}}\n",
        "E354 the row of 'new' is to come from 'b', which has no token 'new'; hint: name one that it has"),
    Mistake("a new token from nowhere", LINEAR + "tokenizer: {tokens: {^new: {}}}\n",
        "E354 no model has a token 'new', so it needs a source; hint: add source: {kind: model_token, model: MODEL, token: TOKEN}, or source: {kind: zero}"),
    # -------------------------------------------------------------- parameters
    Mistake("a misspelt parameter", ties("^densty: 0.5"),
        "E202 ties has no parameter 'densty'; hint: did you mean 'density'?"),
    Mistake("a parameter of another method", ties("^gamma: 0.01"),
        "E202 ties has no parameter 'gamma'; hint: it belongs to breadcrumbs, breadcrumbs_ties; mergekit ignores it here, so removing it changes nothing"),
    Mistake("a parameter of no method", ties("^sparsity: 0.5"),
        "E202 ties has no parameter 'sparsity'; hint: known here: aggregate, density, elect, int8_mask, keep_count, lambda, normalize, rescale, scope, weight, zero_sign"),
    Mistake("a shared parameter under a model", ties(own="^normalize: false"),
        "E203 'normalize' holds for the whole merge and has no effect under one model; hint: move it to the top-level 'parameters:'"),
    Mistake("a density above 1", ties("density: ^1.5"),
        "E205 found 1.5 for 'density', expected a number in [0, 1]; hint: share of a delta's entries that is kept"),
    Mistake("a density below 0", ties("density: ^-0.1"),
        "E205 found -0.1 for 'density', expected a number in [0, 1]; hint: share of a delta's entries that is kept"),
    Mistake("a density that is a word", ties("density: ^half"),
        "E205 found 'half' for 'density', expected a number in [0, 1]; hint: share of a delta's entries that is kept"),
    Mistake("a density that is nothing", ties("density: ^null"),
        "E205 found nothing for 'density', expected a number in [0, 1]; hint: share of a delta's entries that is kept"),
    Mistake("an infinite weight", ties(own="weight: ^.inf"),
        "E205 found inf for 'weight', expected a finite number; hint: how much of the model goes into the merge"),
    Mistake("a weight that is no number", ties(own="weight: ^.nan"),
        "E205 found nan for 'weight', expected a finite number; hint: how much of the model goes into the merge"),
    Mistake("a normalize that is a number", ties("normalize: ^2"),
        "E205 found 2 for 'normalize', expected true or false; hint: divide by the sum of the weights that took part"),
    Mistake("an elect that is unknown", ties("elect: ^majority"),
        "E205 found 'majority' for 'elect', expected one of: sum, count, normmass, normfrac; hint: how signs are elected: by the sum of the weighted deltas, by their number, or by the entries' shares of their delta's norm, the sum of them (normmass) or the largest (normfrac)"),
    Mistake("a knot that is out of range", ties("density: [1, ^2, 0.5]"),
        "E205 found 2 for 'density', expected a number in [0, 1]; hint: share of a delta's entries that is kept"),
    Mistake("two knots of the wrong type", ties("density: [1, ^low, ^high]"),
        "E205 found 'low' for 'density', expected a number in [0, 1]; hint: share of a delta's entries that is kept",
        "E205 found 'high' for 'density', expected a number in [0, 1]; hint: share of a delta's entries that is kept"),
    Mistake("a gradient in a gradient", ties("density: [1, ^[0.5, 0.1]]"),
        "E205 found [0.5, 0.1] for 'density', expected a number in [0, 1]; hint: share of a delta's entries that is kept"),
    Mistake("an empty gradient", ties("density: ^[]"),
        "E207 found an empty list for 'density'; hint: remove it"),
    Mistake("values mixed with filters", ties("density: ^[0.5, {filter: mlp, value: 1}]"),
        "E207 the list of 'density' mixes plain values with {filter, value} entries; hint: make every entry {filter, value}"),
    Mistake("a filter without a value", ties("density: [^{filter: mlp}]"),
        "E207 a setting of 'density' has no 'value'; hint: write {filter: PART OF A NAME, value: ...}"),
    Mistake("a filter with an unknown key", ties("density: [{^layer: mlp, value: 1}]"),
        "E207 found 'layer' in a setting of 'density', expected only 'value' and 'filter'; hint: write {filter: PART OF A NAME, value: ...}"),
    Mistake("a filter that is a number", ties("density: [{filter: ^3, value: 1}]"),
        "E207 found 3 as a filter, expected a part of a tensor's name; hint: quote it"),
    Mistake("a filtered value out of range", ties("density: [{filter: mlp, value: ^3}, {value: 1}]"),
        "E205 found 3 for 'density', expected a number in [0, 1]; hint: share of a delta's entries that is kept"),
    Mistake("a plain mapping as a value", ties("density: ^{mlp: 0.5, attn: 0.3}"),
        "E207 found a mapping for 'density' that is no setting; hint: write {filter: PART OF A NAME, value: ...}"),
    Mistake("filters without a fallback", ties("weight: [{filter: mlp, value: ^0.5}]", own=""),
        "E204 no entry of 'weight' matches lm_head.weight and 6 more tensors for 'a'; hint: end the list with an entry that has no filter"),
    Mistake("no weight for one model", "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}, {model: ^b}]\n",
        "E201 linear needs a 'weight' for 'b', and the recipe gives none; hint: add weight under 'parameters:'"),
    Mistake("no t for slerp", "merge_method: ^slerp\nbase_model: base\nmodels: [{model: a}]\n",
        "E201 slerp needs a 't', and the recipe gives none; hint: add t under 'parameters:'"),
    Mistake("t under a model", "merge_method: slerp\nbase_model: base\nmodels: [{model: a, parameters: {^t: 0.5}}]\n",
        "E203 't' holds for the whole merge and has no effect under one model; hint: move it to the top-level 'parameters:'"),
    Mistake("weights that cancel out", "merge_method: linear\nmodels: [{model: a, parameters: {weight: ^1}}, {model: b, parameters: {weight: -1}}]\n",
        "E206 weights 1, -1 sum to zero, and normalize divides by their sum (for lm_head.weight and 8 more tensors); hint: set normalize: false"),
    Mistake("weights that are all zero", "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: ^0}\n",
        "E206 every weight is 0, and normalize divides by their sum (for lm_head.weight and 8 more tensors); hint: give one model a weight"),
    Mistake("weights that cancel out in one layer", "merge_method: linear\nmodels:\n  - {model: a, parameters: {weight: ^[1, -1]}}\n  - {model: b, parameters: {weight: 1}}\n",
        "E206 weights -1, 1 sum to zero, and normalize divides by their sum (for model.layers.1.input_layernorm.weight and 2 more tensors); hint: set normalize: false"),
    Mistake("an epsilon too large for its density", della("density: 0.9, epsilon: ^0.2"),
        "E206 keep probabilities would run from 0.7 to 1.1, expected both inside (0, 1) (for lm_head.weight and 8 more tensors); hint: epsilon must be below 0.1 at density 0.9"),
    Mistake("an epsilon of 1", della("epsilon: ^1.0"),
        "E205 found 1.0 for 'epsilon', expected a number in [0, 1); hint: half the spread of keep probabilities: density - epsilon to density + epsilon"),
    Mistake("a rescale that is unknown", della("rescale: ^l2"),
        "E205 found 'l2' for 'rescale', expected true or false or one of: inverse_prob, l1, none; hint: after dropping, divide by the keep probability (true; l1 under compat: mergekit) or not (false)"),
]
# fmt: on

# ----------------------------------------------------------------------------------------------- inputs

TWO = "merge_method: linear\nmodels: [{model: a}, {model: ^b}]\nparameters: {weight: 1}\n"


def write(name: str, data: bytes) -> Spoil:
    return lambda root: (root / name).write_bytes(data)


def edit(name: str, change: Callable[[bytes], bytes]) -> Spoil:
    return lambda root: (root / name).write_bytes(change((root / name).read_bytes()))


def edit_text(name: str, old: str, new: str) -> Spoil:
    def change(data: bytes) -> bytes:
        assert old in data.decode()
        return data.decode().replace(old, new).encode()

    return edit(name, change)


def rewrite(model: str, **options: object) -> Spoil:
    """Write a model anew, with other shapes, dtypes, config or shards."""

    def spoil(root: Path) -> None:
        remove(model)(root)
        write_model(root / model, seed=model, **options)  # type: ignore[arg-type]

    return spoil


def adapter(modules: dict[str, tuple[int, int]], *, parts: str = "AB", **config: object) -> Spoil:
    """Make `b` a LoRA adapter of rank 2 for modules of these shapes."""

    def spoil(root: Path) -> None:
        remove("b")(root)
        (root / "b").mkdir()
        factors = {"A": lambda rows, columns: (2, columns), "B": lambda rows, columns: (rows, 2)}
        tensors = {
            f"base_model.model.model.{name}.lora_{part}.weight": ("float32", factors[part](*shape))
            for name, shape in modules.items()
            for part in parts
        }
        (root / "b/adapter_model.safetensors").write_bytes(safetensors_bytes(tensors))
        (root / "b/adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2} | config))

    return spoil


def header(text: str) -> Spoil:
    """Give `b` a file whose header is this text; ENTRY is a sound entry of four bytes."""
    data = text.replace("ENTRY", '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}').encode()
    return write("b/model.safetensors", len(data).to_bytes(8, "little") + data + bytes(8))


def shapes(changed: dict[str, tuple[int, ...]]) -> Spoil:
    return rewrite("b", shapes=SHAPES | changed)


def without(*names: str) -> Spoil:
    return rewrite("b", shapes={name: shape for name, shape in SHAPES.items() if name not in names})


def shards() -> Spoil:
    return rewrite("b", shards=3)


def dtypes(name: str, dtype: str) -> Spoil:
    return rewrite("b", dtypes={name: dtype})


def both_dtypes(name: str, first: str, second: str) -> Spoil:
    def spoil(root: Path) -> None:
        rewrite("a", dtypes={name: first})(root)
        rewrite("b", dtypes={name: second})(root)

    return spoil


def quantised(method: str = "gptq") -> Spoil:
    return write("b/config.json", json.dumps({**CONFIG, "quantization_config": {"quant_method": method}}).encode())


def other_architecture() -> Spoil:
    return rewrite("b", shapes={f"transformer.{letter}.weight": (4, 4) for letter in "abcdefghijkl"})


def fewer_layers(config: dict[str, object]) -> Spoil:
    return rewrite("b", shapes={name: shape for name, shape in SHAPES.items() if ".1." not in name}, config=config)


def one_file() -> bytes:
    return safetensors_bytes({name: ("float32", shape) for name, shape in SHAPES.items()})


def nested_header() -> bytes:
    depth = 50_000
    return (2 * depth).to_bytes(8, "little") + b"[" * depth + b"]" * depth


# fmt: off
INPUTS = [
    # -------------------------------------------------------------- folders
    Mistake("a model that is not there", TWO,
        "E300 no model 'b' in the current folder, and the hub is switched off (HF_HUB_OFFLINE); hint: known here: a, base, c",
        remove("b")),
    Mistake("a misspelt model", "merge_method: linear\nmodels: [{model: ^bse}]\nparameters: {weight: 1}\n",
        "E300 no model 'bse' in the current folder, and the hub is switched off (HF_HUB_OFFLINE); hint: did you mean 'base'?"),
    Mistake("a folder that is not there", "merge_method: linear\nmodels: [{model: ^models/a}]\nparameters: {weight: 1}\n",
        "E300 no model 'models/a' in the current folder, and the hub is switched off (HF_HUB_OFFLINE); hint: the folder models does not exist; without HF_HUB_OFFLINE it is looked for on the hub"),
    Mistake("a hub id, offline", "merge_method: linear\nmodels: [{model: ^org/model@main}]\nparameters: {weight: 1}\n",
        "E300 no model 'org/model@main' in the current folder, and the hub is switched off (HF_HUB_OFFLINE); hint: the folder org does not exist; without HF_HUB_OFFLINE it is looked for on the hub"),
    Mistake("a model as an adapter", "merge_method: linear\nmodels: [{model: ^a+b}]\nparameters: {weight: 1}\n",
        "E340 'b' is no adapter: it has no adapter_model.safetensors; hint: a sum of models is a merge: list them under 'models:'"),
    Mistake("two adapters", "merge_method: linear\nmodels: [{model: ^x+y+z}]\nparameters: {weight: 1}\n",
        "E340 'x+y+z' is not one model and one adapter, as in BASE+ADAPTER; hint: merge adapters one after the other"),
    Mistake("an adapter of a model that is not there", "merge_method: linear\nmodels: [{model: ^b}]\nparameters: {weight: 1}\n",
        "E340 'b' is an adapter of 'llama': no model 'llama' in the current folder, and the hub is switched off (HF_HUB_OFFLINE); hint: name the model it is added to: BASE+b",
        adapter({"layers.0.self_attn.q_proj": (4, 4)}, base_model_name_or_path="llama")),
    Mistake("an adapter of another kind", "merge_method: linear\nmodels: [{model: ^a+b}]\nparameters: {weight: 1}\n",
        "E341 the adapter 'b' is one of the kind LOHA, which is not computed here; hint: merge it into its model with PEFT, and name the result",
        adapter({"layers.0.self_attn.q_proj": (4, 4)}, peft_type="LOHA")),
    Mistake("an adapter of another model", "merge_method: linear\nmodels: [{model: ^a+b}]\nparameters: {weight: 1}\n",
        "E342 the adapter 'b' is for model.layers.{2-3}.self_attn.q_proj.weight, which the model does not have; hint: did you mean 'model.layers.1.self_attn.q_proj.weight'?",
        adapter({"layers.0.self_attn.q_proj": (4, 4), "layers.2.self_attn.q_proj": (4, 4), "layers.3.self_attn.q_proj": (4, 4)})),
    Mistake("an adapter of a larger model", "merge_method: linear\nmodels: [{model: ^a+b}]\nparameters: {weight: 1}\n",
        "E343 the adapter 'b' has factors of a [4, 8] matrix for model.layers.0.mlp.down_proj, which is [4, 6]; hint: is it of this model?",
        adapter({"layers.0.mlp.down_proj": (4, 8)})),
    Mistake("half an adapter", "merge_method: linear\nmodels: [{model: ^a+b}]\nparameters: {weight: 1}\n",
        "E344 the adapter 'b' has base_model.model.model.layers.0.mlp.down_proj.lora_A.weight, expected A and B of model.layers.0.mlp.down_proj; hint: fetch it again",
        adapter({"layers.0.mlp.down_proj": (4, 6)}, parts="A")),
    Mistake("an empty folder", TWO,
        "E302 b holds no weights; hint: expected model.safetensors or model.safetensors.index.json",
        remove("b/model.safetensors")),
    Mistake("weights in a pickle", TWO,
        "E314 b/pytorch_model.bin is not an archive of torch.save, or one of torch before 1.6, which cannot be read in place; hint: load it with torch and save it as safetensors",
        rename("b/model.safetensors", "b/pytorch_model.bin")),
    Mistake("a pickle as a model", "merge_method: linear\nmodels: [{model: ^b.bin}]\nparameters: {weight: 1}\n",
        "E314 b.bin is not an archive of torch.save, or one of torch before 1.6, which cannot be read in place; hint: load it with torch and save it as safetensors",
        write("b.bin", b"\x80\x02")),
    Mistake("a config as a model", "merge_method: linear\nmodels: [{model: ^b/config.json}]\nparameters: {weight: 1}\n",
        "E303 b/config.json is not a file of weights that can be read; hint: give the model's folder, or a file that ends in .safetensors, .bin, .pt, .pth, .ckpt"),
    Mistake("the recipe's own folder", "merge_method: linear\nmodels: [{model: ^.}]\nparameters: {weight: 1}\n",
        "E302 . holds no weights; hint: expected model.safetensors or model.safetensors.index.json"),
    Mistake("a home of nobody", "merge_method: linear\nmodels: [{model: ^~nobody-at-all/a}]\nparameters: {weight: 1}\n",
        "E300 cannot look for the model '~nobody-at-all/a': Could not determine home directory.; hint: is the path right?"),
    Mistake("a name far too long", f"merge_method: linear\nmodels: [{{model: ^{'a' * 300}}}]\nparameters: {{weight: 1}}\n",
        "E300 cannot look for the model 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa': File name too long; hint: is the path right?"),
    Mistake("a name with a null byte", 'merge_method: linear\nmodels: [{model: ^"a\\0b"}]\nparameters: {weight: 1}\n',
        "E300 no model 'a\\x00b' in the current folder; hint: known here: a, b, base, c"),
    Mistake("a folder where a file should be", TWO,
        "E311 cannot read b/model.safetensors: Is a directory",
        remove("b/model.safetensors"), folder_of_recipes("b/model.safetensors")),
    Mistake("shards without an index", TWO,
        "E305 b has 3 weight files but no index; hint: add model.safetensors.index.json",
        shards(), remove("b/model.safetensors.index.json")),
    # -------------------------------------------------------------- files
    Mistake("an empty file", TWO,
        "E310 b/model.safetensors is not a sound safetensors file: it has only 0 bytes; hint: is it a complete safetensors file?",
        write("b/model.safetensors", b"")),
    Mistake("a few bytes", TWO,
        "E310 b/model.safetensors is not a sound safetensors file: it has only 3 bytes; hint: is it a complete safetensors file?",
        write("b/model.safetensors", b"abc")),
    Mistake("a truncated file", TWO,
        "E310 b/model.safetensors is not a sound safetensors file: it is truncated: 1,356 of 1,456 bytes; hint: fetch or copy it again",
        edit("b/model.safetensors", lambda data: data[:-100])),
    Mistake("a truncated header", TWO,
        "E310 b/model.safetensors is not a sound safetensors file: its header claims 824 bytes, the file has 100; hint: is it a complete safetensors file?",
        edit("b/model.safetensors", lambda data: data[:100])),
    Mistake("bytes after the last tensor", TWO,
        "E310 b/model.safetensors is not a sound safetensors file: 8 bytes follow its last tensor; hint: is it a complete safetensors file?",
        edit("b/model.safetensors", lambda data: data + bytes(8))),
    Mistake("a header of garbage", TWO,
        "E310 b/model.safetensors is not a sound safetensors file: its header is not JSON ('utf-8' codec can't decode byte 0xff in position 0: invalid start byte); hint: is it a complete safetensors file?",
        write("b/model.safetensors", (8).to_bytes(8, "little") + b"\xff" * 64)),
    Mistake("a header that is a list", TWO,
        "E310 b/model.safetensors is not a sound safetensors file: its header is not a JSON object; hint: is it a complete safetensors file?",
        write("b/model.safetensors", (2).to_bytes(8, "little") + b"[]")),
    Mistake("a header longer than allowed", TWO,
        "E310 b/model.safetensors is not a sound safetensors file: its header claims 1,099,511,627,776 bytes, the file has 72; hint: is it a complete safetensors file?",
        write("b/model.safetensors", (2**40).to_bytes(8, "little") + bytes(64))),
    Mistake("a header nested too deeply", TWO,
        "E310 b/model.safetensors is not a sound safetensors file: its header is nested too deeply; hint: is it a complete safetensors file?",
        write("b/model.safetensors", nested_header())),
    Mistake("a web page", TWO,
        "E310 b/model.safetensors is not a sound safetensors file: its header claims 5,789,751,444,030,890,300 bytes, the file has 300; hint: is it a complete safetensors file?",
        write("b/model.safetensors", b"<!DOCTYPE html>" * 20)),
    Mistake("a git-lfs pointer", TWO,
        "E310 b/model.safetensors is not a sound safetensors file: it is a Git LFS pointer; hint: fetch what it points to with `git lfs pull`",
        write("b/model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")),
    Mistake("a tensor named twice", TWO,
        "E310 b/model.safetensors is not a sound safetensors file: in its header 'w' stands twice; hint: is it a complete safetensors file?",
        header('{"w":ENTRY,"w":ENTRY}')),
    Mistake("a negative offset", TWO,
        "E310 b/model.safetensors is not a sound safetensors file: tensor 'w' has sizes that are not natural numbers; hint: is it a complete safetensors file?",
        header('{"w":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}')),
    Mistake("overlapping tensors", TWO,
        "E310 b/model.safetensors is not a sound safetensors file: tensor 'w' starts at byte 115, expected 119; hint: is it a complete safetensors file?",
        header('{"v":ENTRY,"w":ENTRY}')),
    Mistake("a hole between tensors", TWO,
        "E310 b/model.safetensors is not a sound safetensors file: tensor 'w' starts at byte 124, expected 120; hint: is it a complete safetensors file?",
        header('{"v":ENTRY,"w":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}}')),
    Mistake("a span of the wrong size", TWO,
        "E310 b/model.safetensors is not a sound safetensors file: tensor 'w': F32 [2] does not fill 4 bytes; hint: is it a complete safetensors file?",
        header('{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}')),
    Mistake("an entry without a shape", TWO,
        "E310 b/model.safetensors is not a sound safetensors file: the entry of tensor 'w' is incomplete; hint: is it a complete safetensors file?",
        header('{"w":{"dtype":"F32","data_offsets":[0,4]}}')),
    Mistake("an entry that is a number", TWO,
        "E310 b/model.safetensors is not a sound safetensors file: the entry of tensor 'w' is incomplete; hint: is it a complete safetensors file?",
        header('{"w":4}')),
    Mistake("a fractional size", TWO,
        "E310 b/model.safetensors is not a sound safetensors file: tensor 'w' has sizes that are not natural numbers; hint: is it a complete safetensors file?",
        header('{"w":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}')),
    Mistake("offsets that are text", TWO,
        "E310 b/model.safetensors is not a sound safetensors file: tensor 'w' has sizes that are not natural numbers; hint: is it a complete safetensors file?",
        header('{"w":{"dtype":"F32","shape":[1],"data_offsets":["0","4"]}}')),
    Mistake("an unknown dtype of a tensor", TWO,
        "E313 b/model.safetensors: tensor 'w' has the unknown dtype 'Q4'; hint: known are F64, F32, F16, BF16, I64, I32, I16, I8, U64, U32, U16, U8, BOOL, F8_E4M3, F8_E5M2",
        header('{"w":{"dtype":"Q4","shape":[1],"data_offsets":[0,4]}}')),
    Mistake("a dtype that is a list", TWO,
        "E313 b/model.safetensors: tensor 'w' has the unknown dtype []; hint: known are F64, F32, F16, BF16, I64, I32, I16, I8, U64, U32, U16, U8, BOOL, F8_E4M3, F8_E5M2",
        header('{"w":{"dtype":[],"shape":[1],"data_offsets":[0,4]}}')),
    Mistake("a tensor name with control characters", TWO,
        "E310 b/model.safetensors is not a sound safetensors file: the tensor name '\\x1b[31mw' cannot be printed; hint: is it a complete safetensors file?",
        header('{"\\u001b[31mw":ENTRY}')),
    Mistake("a tensor name that is not text", TWO,
        "E310 b/model.safetensors is not a sound safetensors file: the tensor name '\\ud800' cannot be printed; hint: is it a complete safetensors file?",
        header('{"\\ud800":ENTRY}')),
    # -------------------------------------------------------------- shards and their index
    Mistake("a missing shard", TWO,
        "E307 absent, and named in b/model.safetensors.index.json: model-00002-of-00003.safetensors; hint: fetch the whole model",
        shards(), remove("b/model-00002-of-00003.safetensors")),
    Mistake("an index that leaves the folder", TWO,
        "E306 b/model.safetensors.index.json places 'model.layers.0.input_layernorm.weight' in '../a/model-00002-of-00003.safetensors', expected a weight file of the same folder; hint: the index was tampered with, or is not one",
        shards(), edit_text("b/model.safetensors.index.json", "model-00002", "../a/model-00002")),
    Mistake("an index of absolute paths", TWO,
        "E306 b/model.safetensors.index.json places 'model.layers.0.input_layernorm.weight' in '/etc/model-00002-of-00003.safetensors', expected a weight file of the same folder; hint: the index was tampered with, or is not one",
        shards(), edit_text("b/model.safetensors.index.json", "model-00002", "/etc/model-00002")),
    Mistake("an index that is not JSON", TWO,
        "E308 b/model.safetensors.index.json is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1); hint: fetch or copy it again",
        shards(), write("b/model.safetensors.index.json", b"{")),
    Mistake("an index without a map", TWO,
        "E306 b/model.safetensors.index.json has no weight_map; hint: it should map each tensor to a file",
        shards(), write("b/model.safetensors.index.json", b"{}")),
    Mistake("an index that names one tensor too many", TWO,
        "E306 b: tensor 'extra' is in the index but in no shard; hint: the index belongs to another version of the model",
        shards(), edit_text("b/model.safetensors.index.json", '"weight_map": {', '"weight_map": {"extra": "model-00001-of-00003.safetensors", ')),
    Mistake("an index that names one tensor too few", TWO,
        "E306 b: tensor 'lm_head.weight' is in a shard but not in the index; hint: the index belongs to another version of the model",
        shards(), edit_text("b/model.safetensors.index.json", '"lm_head.weight": "model-00003-of-00003.safetensors"', '"model.norm.weight": "model-00002-of-00003.safetensors"')),
    Mistake("an index that puts a tensor in the wrong shard", TWO,
        "E306 b: tensor 'model.norm.weight' is in model-00002-of-00003.safetensors, the index says model-00001-of-00003.safetensors; hint: the index belongs to another version of the model",
        shards(), edit_text("b/model.safetensors.index.json", '"model.norm.weight": "model-00002', '"model.norm.weight": "model-00001')),
    Mistake("a tensor in two shards", TWO,
        "E312 b: tensor 'model.embed_tokens.weight' lies in model-00001-of-00003.safetensors and in model-00002-of-00003.safetensors; hint: one of the shards belongs to another version of the model",
        shards(), write("b/model-00002-of-00003.safetensors", one_file())),
    Mistake("both an index and a single file", TWO,
        "E304 b has both model.safetensors and model.safetensors.index.json, and one of them is stale; hint: remove the one that does not belong to the model",
        shards(), write("b/model.safetensors", one_file())),
    # -------------------------------------------------------------- configs
    Mistake("a config that is not JSON", TWO,
        "E308 b/config.json is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1); hint: fetch or copy it again",
        write("b/config.json", b"{'a': 1}")),
    Mistake("a config that is a list", TWO,
        "E308 b/config.json is not a JSON object; hint: fetch or copy it again",
        write("b/config.json", b"[]")),
    Mistake("a config that is binary", TWO,
        "E308 b/config.json is not JSON: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte; hint: fetch or copy it again",
        write("b/config.json", b"\xff\xfe\x00")),
    Mistake("a config nested too deeply", TWO,
        "E308 b/config.json is nested too deeply; hint: fetch or copy it again",
        write("b/config.json", b'{"a":' * 5000 + b"1" + b"}" * 5000)),
    # -------------------------------------------------------------- tensors
    Mistake("experts packed the other way round", TWO,
        "E347 'b' has packed experts in model.layers.0.mlp.experts.down_proj of shape [2, 6, 4], expected [experts, 4, 6]; hint: load the model with transformers and save it again: that stores all models of a kind alike",
        rewrite("a", shapes=SHAPES | {"model.layers.0.mlp.experts.0.down_proj.weight": (4, 6), "model.layers.0.mlp.experts.0.gate_proj.weight": (6, 4)}),
        rewrite("b", shapes=SHAPES | {"model.layers.0.mlp.experts.down_proj": (2, 6, 4)})),
    Mistake("float8 weights without a scale", TWO,
        "E345 'b' is quantised, and model.norm.weight has no model.norm.weight_scale_inv or model.norm.weight_scale; hint: fetch the whole model",
        dtypes("model.norm.weight", "float8_e4m3fn"), quantised("fp8")),
    Mistake("a scale that does not fit", TWO,
        "E345 'b' has model.norm.weight_scale as float32 [3] for model.norm.weight [4]; hint: expected a scale for all, for each row, or for each block that the config names",
        rewrite("b", shapes=SHAPES | {"model.norm.weight_scale": (3,)}, dtypes={"model.norm.weight": "float8_e4m3fn"}, config=CONFIG | {"quantization_config": {"quant_method": "fp8"}})),
    Mistake("quantised weights, and no config that says so", TWO,
        "E330 'b' is quantised (gptq or awq): model.layers.0.qweight is int32; hint: merge the unquantised model and quantise the result",
        rewrite("b", shapes=SHAPES | {"model.layers.0.qweight": (3,)}, dtypes={"model.layers.0.qweight": "int32"})),
    Mistake("a file of llama.cpp", "merge_method: linear\nmodels: [{model: a}, {model: ^b.gguf}]\nparameters: {weight: 1}\n",
        "E330 b.gguf is a GGUF file, which is not read; hint: merge the model it was made of, as safetensors, and convert the result",
        write("b.gguf", b"GGUF")),
    Mistake("a whole pipeline", TWO,
        "E302 b is a pipeline of several models, and holds no weights itself; hint: name the folder of one of them, such as unet or transformer",
        rename("b/model.safetensors", "b/model_index.json")),
    Mistake("a folder of llama.cpp", TWO,
        "E330 b holds GGUF files, which are not read; hint: merge the model they were made of, as safetensors, and convert the result",
        rename("b/model.safetensors", "b/b.gguf")),
    Mistake("quantised weights", TWO,
        "E330 'b' is quantised (gptq): model.norm.weight is uint8; hint: merge the unquantised model and quantise the result",
        dtypes("model.norm.weight", "uint8"), quantised()),
    Mistake("a missing tensor", TWO,
        "E320 'b' lacks the tensor model.norm.weight, which 'a' has; hint: `tensors: union` takes such tensors from the models that have them, `intersection` leaves them out",
        without("model.norm.weight")),
    Mistake("a tensor that only the base lacks",
        "merge_method: task_arithmetic\nbase_model: base\nmodels: [{model: a}, {model: c}]\nparameters: {weight: 1}\n^tensors: union\n",
        "E140 only 'a' and 'c' have model.norm.weight, and task_arithmetic takes deltas from 'base', which lacks it; hint: tensors: intersection leaves out what some lack; a rule says what is done with tensors of a name",
        rewrite("base", shapes={name: shape for name, shape in SHAPES.items() if name != "model.norm.weight"})),
    Mistake("a missing tensor and a misspelt word on it", TWO.replace("^", "") + "tensors: ^unoin\n",
        "E104 found 'unoin' for 'tensors', expected 'strict', 'intersection' or 'union'; hint: did you mean 'union'?",
        without("model.norm.weight")),
    Mistake("a missing tensor in each layer", TWO,
        "E320 'b' lacks the tensor model.layers.{0-1}.mlp.down_proj.weight, which 'a' has; hint: `tensors: union` takes such tensors from the models that have them, `intersection` leaves them out",
        without("model.layers.0.mlp.down_proj.weight", "model.layers.1.mlp.down_proj.weight")),
    Mistake("a tensor too many", TWO,
        "E320 'b' has the tensor model.extra.weight, which 'a' lacks; hint: `tensors: union` takes such tensors from the models that have them, `intersection` leaves them out",
        shapes({"model.extra.weight": (2,)})),
    Mistake("another architecture", TWO,
        "E320 'b' has 12 tensors, 'a' has 9, and 0 have a name in common: transformer.a.weight here, lm_head.weight there; hint: only models of one architecture can be merged",
        other_architecture()),
    Mistake("another shape", TWO,
        "E323 'b' has model.norm.weight of shape [5], 'a' of [4]; hint: models of one architecture and size can be merged",
        shapes({"model.norm.weight": (5,)})),
    Mistake("another width", TWO.replace("^", "^^^^"),
        "E323 'b' has model.embed_tokens.weight, lm_head.weight of shape [8, 6], 'a' of [8, 4]; hint: models of one architecture and size can be merged",
        "E323 'b' has model.layers.{0-1}.input_layernorm.weight, model.norm.weight of shape [6], 'a' of [4]; hint: models of one architecture and size can be merged",
        "E323 'b' has model.layers.{0-1}.mlp.down_proj.weight of shape [4, 8], 'a' of [4, 6]; hint: models of one architecture and size can be merged",
        "E323 'b' has model.layers.{0-1}.self_attn.q_proj.weight of shape [4, 6], 'a' of [4, 4]; hint: models of one architecture and size can be merged",
        shapes({name: (*shape[:-1], shape[-1] + 2) for name, shape in SHAPES.items()})),
    Mistake("another number of dimensions", TWO,
        "E323 'b' has model.norm.weight of shape [1, 4], 'a' of [4]; hint: models of one architecture and size can be merged",
        shapes({"model.norm.weight": (1, 4)})),
    Mistake("another vocabulary", TWO,
        "E321 the vocabularies differ: 'b' has 10 rows in model.embed_tokens.weight, lm_head.weight, 'a' has 8; hint: tokenizer_source: union keeps the tokens of both, tokenizer_source: base those of the base, truncate the first rows",
        shapes({"model.embed_tokens.weight": (10, 4), "lm_head.weight": (10, 4)})),
    Mistake("a tokenizer that is broken", TWO + "tokenizer_source: union\n",
        "E350 b/tokenizer.json is no sound tokenizer file: it has no model with a vocab; hint: fetch or copy it again",
        write("b/tokenizer.json", b"{}")),
    Mistake("another vocabulary and no tokenizer", TWO + "tokenizer_source: union\n",
        "E356 'b' has no tokenizer, and 10 rows in its embedding, 'a' has 8, so nothing says which rows are whose; hint: add the model's tokenizer to its folder",
        shapes({"model.embed_tokens.weight": (10, 4), "lm_head.weight": (10, 4)}), remove("b/tokenizer.json")),
    Mistake("two sources for vocabularies that differ", TWO.replace("^", "") + "tokenizer: {source: a}\n^tokenizer_source: b\n",
        "E352 found 'tokenizer_source' beside 'tokenizer', expected one of them; hint: remove one of the two",
        shapes({"model.embed_tokens.weight": (10, 4), "lm_head.weight": (10, 4)})),
    Mistake("a source without a tokenizer", TWO.replace("^", "") + "tokenizer_source: ^b\n",
        "E356 the tokens are to be those of 'b', which has no tokenizer; hint: name a model that has one",
        remove("b/tokenizer.json")),
    Mistake("new tokens for files that cannot be changed", TWO.replace("^", "") + "tokenizer_source: ^union\n",
        "E357 tokens are added, and 'a' has no tokenizer.json that could be changed; hint: load it with transformers' AutoTokenizer and save it again: that writes tokenizer.json",
        rename("a/tokenizer.json", "a/old.json"), write("a/vocab.json", b'{"a": 0, "b": 1}')),
    Mistake("numbers with gaps", TWO.replace("^", "") + "tokenizer_source: ^union\n",
        "E357 the tokens of the result have gaps in their numbers, so 'b' cannot follow them; hint: take the tokens of a model as they are",
        write("a/tokenizer.json", b'{"model": {"vocab": {"a": 0, "z": 2}}}')),
    Mistake("a stage whose rows move", "name: s\nmerge_method: linear\nmodels: [{model: b}]\nparameters: {weight: 1}\n---\n" + LINEAR.replace("{model: b}", "{model: ^^s}") + "tokenizer_source: a\n",
        "E355 rows of model.embed_tokens.weight are put in another order, and 's' has one that a stage computes; hint: make that model by a run of its own, and merge the result",
        "E355 rows of lm_head.weight are put in another order, and 's' has one that a stage computes; hint: make that model by a run of its own, and merge the result",
        write("a/tokenizer.json", b'{"model": {"vocab": {"h": 0, "a": 1}}}'), write("b/tokenizer.json", b'{"model": {"vocab": {"a": 0, "h": 1}}}')),
    Mistake("another number of layers", TWO,
        "E322 'b' has 1 layer in model.layers, 'a' has 2; hint: models of one depth merge; 'slices:' chooses layers of each",
        fewer_layers(CONFIG | {"num_hidden_layers": 1})),
    Mistake("fewer layers than the config says", TWO.replace("^", "^^^"),
        "E320 'b' lacks the tensor model.layers.1.input_layernorm.weight, which 'a' has; hint: `tensors: union` takes such tensors from the models that have them, `intersection` leaves them out",
        "E320 'b' lacks the tensor model.layers.1.mlp.down_proj.weight, which 'a' has; hint: `tensors: union` takes such tensors from the models that have them, `intersection` leaves them out",
        "E320 'b' lacks the tensor model.layers.1.self_attn.q_proj.weight, which 'a' has; hint: `tensors: union` takes such tensors from the models that have them, `intersection` leaves them out",
        fewer_layers(CONFIG)),
    Mistake("integers where others have floats", TWO,
        "E324 'b' has model.norm.weight as int64, 'a' as float32; hint: integers are copied, so all models must agree",
        dtypes("model.norm.weight", "int64")),
    Mistake("integers of another width", TWO,
        "E324 'b' has model.norm.weight as int32, 'a' as int64; hint: integers are copied, so all models must agree",
        both_dtypes("model.norm.weight", "int64", "int32")),
]
# fmt: on

# ------------------------------------------------------------------------------------------------ tests

MISTAKES = RECIPES + INPUTS


def lay_out(folder: Path, mistake: Mistake) -> None:
    write_family(folder)
    (folder / "recipe.yml").write_bytes(mistake.recipe.encode(errors="surrogateescape"))
    for spoil in mistake.spoils:
        spoil(folder)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a family of models, in a process that cannot read a weight."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Reader, "read", _fail)
    monkeypatch.setattr(Reader, "descriptor", _fail)
    return write_family(tmp_path)


def _fail(*arguments: object) -> None:
    raise AssertionError("a weight was read")


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_each_mistake_is_answered_in_full(mistake: Mistake, here: Path) -> None:
    lay_out(here, mistake)
    before = sorted(here.rglob("*"))
    called = mergec("run", "recipe.yml", "out")
    *problems, total = called.err.splitlines()
    assert problems == mistake.lines
    errors = sum(" error[" in line for line in problems)
    assert total == f"{errors} error{'s' * (errors != 1)}; no weights were read"
    assert called.code == 2
    assert called.out == ""
    assert sorted(here.rglob("*")) == before


def test_there_are_many_kinds_of_mistakes() -> None:
    assert len({mistake.name for mistake in MISTAKES}) == len(MISTAKES) > 150


BROKEN = Mistake(
    "several at once",
    """\
merge_method: ties
base_model: ^nowhere
models:
  - model: a
    parameters:
      ^densty: 0.5
      weight: ^much
  - model: ^b
    parameters: {weight: 0.5}
parameters:
  ^normalise: true
^sede: 1
""",
    "E300 no model 'nowhere' in the current folder, and the hub is switched off (HF_HUB_OFFLINE); "
    "hint: known here: a, b, base, c",
    "E202 ties has no parameter 'densty'; hint: did you mean 'density'?",
    "E205 found 'much' for 'weight', expected a number; hint: how much of the model goes into the merge",
    "E320 'b' lacks the tensor model.norm.weight, which 'a' has; "
    "hint: `tensors: union` takes such tensors from the models that have them, `intersection` leaves them out",
    "E202 ties has no parameter 'normalise'; hint: did you mean 'normalize'?",
    "E101 unknown key 'sede' in a recipe; hint: did you mean 'seed'?",
    without("model.norm.weight"),
)


@pytest.mark.parametrize("command", ["check", "plan", "explain", "run"])
def test_mistakes_of_recipe_and_inputs_are_reported_together_by_every_command(command: str, here: Path) -> None:
    lay_out(here, BROKEN)
    tensor = ["model.norm.weight"] if command == "explain" else []
    called = mergec(command, "recipe.yml", *tensor)
    assert called.err.splitlines() == [*BROKEN.lines, "6 errors; no weights were read"]
    assert (called.code, called.out) == (2, "")


def test_findings_as_json_say_the_same(here: Path) -> None:
    lay_out(here, BROKEN)
    called = mergec("check", "recipe.yml", "--json")
    findings = json.loads(called.out)
    assert called.code == 2
    assert [
        f"{f['file']}:{f['line']}:{f['column']}: {f['severity']}[{f['code']}]: {f['what']}; hint: {f['hint']}"
        for f in findings
    ] == BROKEN.lines


def test_problems_of_several_models_stand_at_their_own_lines(here: Path) -> None:
    lay_out(
        here,
        Mistake("", "merge_method: linear\nmodels:\n- model: a\n- model: b\n- model: c\nparameters: {weight: 1}\n"),
    )
    remove("b")(here)
    write("c/model.safetensors", b"")(here)
    lines = mergec("check", "recipe.yml").err.splitlines()
    assert [line.partition(": error")[0] for line in lines[:-1]] == ["recipe.yml:4:10", "recipe.yml:5:10"]


@pytest.mark.parametrize("mistake", [MISTAKES[0], BROKEN], ids=lambda mistake: mistake.name)
def test_as_a_process_of_its_own(mistake: Mistake, tmp_path: Path) -> None:
    lay_out(tmp_path, mistake)
    command = [sys.executable, "-m", "mergec", "run", "recipe.yml", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[:-1] == mistake.lines
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / ".out.mergec").exists()


# ----------------------------------------------------------------------- options, outputs and other words


@pytest.fixture
def sound(here: Path) -> Path:
    """A folder with a sound recipe `recipe.yml`, a file, a folder that is not ours, and broken plans and plugins."""
    (here / "recipe.yml").write_text(LINEAR)
    (here / "file").write_text("text")
    (here / "full").mkdir()
    (here / "full/notes.txt").write_text("text")
    (here / "empty.json").write_text("{}")
    (here / "half.json").write_text("{")
    (here / "missing.py").write_text("import nothing_of_this_name\n")
    (here / "syntax.py").write_text("def (\n")
    (here / "taken.py").write_text(
        "from mergec.ops.registry import method\n\n@method('')\ndef ties(base, models): ''\n"
    )
    return here


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("models.7.model=x", "models.7.model:1:1: error[E501]: '7' is not an entry of a list of 2; hint: count from 0"),
        ("models.x.model=x", "models.x.model:1:1: error[E501]: 'x' is not an entry of a list of 2; hint: count from 0"),
        ("seed.x=1", "seed.x:1:1: error[E103]: found a mapping for 'seed', expected a whole number; hint: what random methods draw from, with tensor and model"),
        ("merge_method.x=1", "merge_method.x:1:1: error[E501]: 'x' is inside a plain value, expected a mapping or a list"),
        ("sede=1", "sede:1:1: error[E101]: unknown key 'sede' in a recipe; hint: did you mean 'seed'?"),
        ("name=[1", "name:1:1: error[E001]: not YAML: expected ',' or ']', but got '<stream end>' while parsing a flow sequence that begins here; hint: check indentation, quotes and colons here"),
        ("name=!x 1", "name:1:1: error[E006]: found the tag !x, expected plain YAML; hint: remove the tag"),
        ("parameters.weight=", "parameters.weight:1:1: error[E205]: found nothing for 'weight', expected a number; hint: how much of the model goes into the merge"),
        ("parameters.weigth=1", "parameters.weigth:1:1: error[E202]: linear has no parameter 'weigth'; hint: did you mean 'weight'?"),
        ("merge_method=liner", "merge_method:1:1: error[E200]: unknown merge method 'liner'; hint: did you mean 'linear'?"),
        ("models.0.model=bas", "models.0.model:1:1: error[E300]: no model 'bas' in the current folder, and the hub is switched off (HF_HUB_OFFLINE); hint: did you mean 'base'?"),
    ],
)  # fmt: skip
def test_overrides_are_checked_like_the_recipe(override: str, line: str, sound: Path) -> None:
    called = mergec("check", "recipe.yml", "--set", override)
    assert called.err.splitlines() == [f"--set {line}", "1 error; no weights were read"]
    assert called.code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("check recipe.yml --set seed", "Invalid value for '--set': 'seed' is not key=value, for example parameters.density=0.3 or models.0.parameters.weight=1"),
        ("check recipe.yml --set =1", "Invalid value for '--set': '=1' is not key=value, for example parameters.density=0.3 or models.0.parameters.weight=1"),
        ("check recipe.yml --set a..b=1", "Invalid value for '--set': 'a..b=1' is not key=value, for example parameters.density=0.3 or models.0.parameters.weight=1"),
        ("plan recipe.yml --seed -1", "Invalid value for '--seed': -1 is not in the range x>=0."),
        ("plan recipe.yml --shard-size 5XB", "Invalid value for '--shard-size': '5XB' is not a size; expected a number with a unit, such as 5GB, 512MiB or 1000000"),
        ("plan recipe.yml --shard-size 0", "Invalid value for '--shard-size': '0' is not a size; expected a number with a unit, such as 5GB, 512MiB or 1000000"),
        ("plan recipe.yml --shard-size -5GB", "Invalid value for '--shard-size': '-5GB' is not a size; expected a number with a unit, such as 5GB, 512MiB or 1000000"),
        ("plan recipe.yml --max-memory lots", "Invalid value for '--max-memory': 'lots' is not a size; expected a number with a unit, such as 5GB, 512MiB or 1000000"),
        ("run recipe.yml --workers 0", "Invalid value for '--workers': 0 is not in the range x>=1."),
        ("rn recipe.yml", "no command 'rn'; did you mean 'run'?"),
        ("frobnicate", f"no command 'frobnicate'; known here: {', '.join(sorted(cli.list_commands(None)))}"),
        ("plan recipe.yml --json --html p.html", "--json, --dot, --mermaid and --html exclude each other"),
        ("plan recipe.yml --force", "--force goes with --html"),
        ("run", "Missing argument 'RECIPE'."),
        ("run recipe.yml out more", "Got unexpected extra argument (more)"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_meant(arguments: str, message: str, sound: Path) -> None:
    called = mergec(*arguments.split())
    assert called.err.splitlines()[-1] == f"Error: {message}"
    assert called.err.startswith("Usage: mergec ")
    assert (called.code, called.out) == (2, "")


def test_an_unknown_option_is_a_usage_error(sound: Path) -> None:
    called = mergec("check", "recipe.yml", "--worker", "1")
    assert called.code == 2
    assert "No such option" in called.err
    assert "--workers" in called.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run recipe.yml a", "E400]: the output a is the folder of an input, or inside it or around it: a; hint: choose another output folder"),
        ("run recipe.yml a/out", "E400]: the output a/out is the folder of an input, or inside it or around it: a; hint: choose another output folder"),
        ("run recipe.yml .", "E400]: the output . is the folder of an input, or inside it or around it: a; hint: choose another output folder"),
        ("run recipe.yml a --force", "E400]: the output a is the folder of an input, or inside it or around it: a; hint: choose another output folder"),
        ("run recipe.yml full", "E401]: the output full is not empty and was not made by mergec; hint: choose another folder, or --force to move it aside to full.old"),
        ("run recipe.yml file", "E401]: the output file is a file; hint: choose another output folder"),
        ("run recipe.yml file/out", "E401]: the output file/out lies in file, which is a file; hint: choose another output folder"),
        ("run recipe.yml out --device tpu", "E503]: no device 'tpu' here; hint: use --device auto, or cpu"),
        ("run nothing.json out", "E504]: nothing.json is not a plan: No such file or directory; hint: make one with `mergec plan --json`"),
        ("run empty.json out", "E504]: empty.json is not a plan: not a plan of format 2; hint: make one with `mergec plan --json`"),
        ("run half.json out", "E504]: half.json is not a plan: Expecting property name enclosed in double quotes: line 1 column 2 (char 1); hint: make one with `mergec plan --json`"),
        ("run empty.json out --set seed=1", "E501]: empty.json is a plan, in which everything is decided; hint: give the options to `mergec plan`"),
        ("explain recipe.yml lm_head.wieght", "E405]: the result has no tensor 'lm_head.wieght'; hint: did you mean 'lm_head.weight'?"),
        ("plan recipe.yml --dot lm_hed.weight", "E405]: the result has no tensor 'lm_hed.weight'; hint: did you mean 'lm_head.weight'?"),
        ("plan recipe.yml --mermaid lm_hed.weight", "E405]: the result has no tensor 'lm_hed.weight'; hint: did you mean 'lm_head.weight'?"),
        ("plan recipe.yml --html full", "E690]: full is a folder; hint: name a file in it, such as full/plan.html"),
        ("plan recipe.yml --html file", "E690]: file is there, and is no page of mergec's; hint: choose another name, or --force to replace it"),
        ("plan recipe.yml --html recipe.yml --force", "E690]: recipe.yml is an input of this plan; hint: give the page a file of its own"),
        ("plan recipe.yml --html a/model.safetensors --force", "E690]: a/model.safetensors is an input of this plan; hint: give the page a file of its own"),
        ("plan recipe.yml --html sub/p.html", "E691]: no folder sub to write p.html in; hint: make it, or mind the name"),
        ("plan recipe.yml --html file/p.html", "E691]: no folder file to write p.html in; hint: make it, or mind the name"),
        ("methods tise", "E200]: unknown merge method 'tise'; hint: did you mean 'ties'?"),
        ("new tise", "E200]: unknown merge method 'tise'; hint: did you mean 'ties'?"),
        ("extract-lora base a out -i nothing", "E348]: no matrix of 'a' is chosen; hint: mind --include-regex and --exclude-regex"),
        ("inspect bse", "E300]: no model 'bse' in the current folder, and the hub is switched off (HF_HUB_OFFLINE); hint: did you mean 'base'?"),
        ("inspect file", "E303]: file is not a file of weights that can be read; hint: give the model's folder, or a file that ends in .safetensors, .bin, .pt, .pth, .ckpt"),
        ("check recipe.yml --plugin nothing.py", "E502]: no plugin file nothing.py; hint: give a Python file, such as --plugin my_method.py"),
        ("check recipe.yml --plugin file", "E502]: no plugin file file; hint: give a Python file, such as --plugin my_method.py"),
        ("check recipe.yml --plugin missing.py", "E502]: the plugin missing.py cannot be loaded: ModuleNotFoundError: No module named 'nothing_of_this_name'; hint: does `python missing.py` run?"),
        ("check recipe.yml --plugin syntax.py", "E502]: the plugin syntax.py cannot be loaded: SyntaxError: invalid syntax (syntax.py, line 1); hint: does `python syntax.py` run?"),
        ("check recipe.yml --plugin taken.py", "E502]: method 'ties' is declared by mergec.ops.methods.ties and mergec_plugin_taken"),
    ],
)  # fmt: skip
def test_words_that_lead_nowhere(arguments: str, message: str, sound: Path) -> None:
    before = sorted(sound.rglob("*"))
    called = mergec(*arguments.split())
    assert called.err == f"mergec: error[{message}\n"
    assert (called.code, called.out) == (2, "")
    assert sorted(path for path in sound.rglob("*") if path.name != "__pycache__" and path.suffix != ".pyc") == before


def test_too_little_memory_is_refused_and_enough_is_named(sound: Path) -> None:
    called = mergec("run", "recipe.yml", "out", "--max-memory", "1MiB")
    needed = re.search(r"--max-memory (\d+MiB) is enough", called.err)
    assert called.err.startswith("recipe.yml:1:15: error[E403]: the merge needs ")
    assert called.code == 2
    assert needed
    assert mergec("check", "recipe.yml", "--max-memory", needed[1]).code == 0


def test_a_disk_that_is_too_small_is_refused(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(total=100, used=90, free=10))
    called = mergec("run", "recipe.yml", "out")
    assert called.err.startswith("mergec: error[E402]: the result takes 1.46 kB, ")
    assert called.code == 2
    assert not (sound / "out").exists()
