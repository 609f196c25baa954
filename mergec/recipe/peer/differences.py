"""What a recipe says in both languages, and means differently: each with its place, and what to write to have which."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath
from typing import Any

from mergec.errors import Problem
from mergec.recipe.document import Document, Path
from mergec.recipe.peer.named import references

DIFFERS = "W722"
_FILES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
_DRAWS = "dare_linear", "dare_ties", "della", "della_linear"
_CUTS = "ties", "breadcrumbs", "breadcrumbs_ties", "della", "della_linear"
_NORMS = "nuslerp", "multislerp", "karcher"
_WIDENED = "arcee_fusion", "ramplus_tl"


def needs_compat(document: Document) -> bool:
    """Whether numbers differ: not where all tensors are copied as they are, rows of tokens too."""
    recipe = document.value
    copies = recipe.get("merge_method") == "passthrough" and "scale" not in set(_parameters(recipe))
    copies &= not (recipe.get("tokenizer") or recipe.get("tokenizer_source"))
    return not copies or any("+" in reference for _, reference in references(document))


def differences(document: Document) -> Iterator[Problem]:
    """Every place whose meaning differs although the words stay."""
    recipe = document.value
    method = str(recipe.get("merge_method"))
    at = document.place(("merge_method",))
    if needs_compat(document):
        what = f"'compat: mergekit' was added, so that {method} computes in the dtype of its inputs, as mergekit does"
        yield Problem(at, DIFFERS, what, "without it: float32, rounded once")
    yield from _of_method(document, method)
    yield from _donor(document)
    yield from _post_layers(document)
    yield from _models(document)
    yield from _gradients_of_files(document)


def _parameters(value: Any) -> Iterator[str]:
    """The names of all parameters that are set anywhere."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        if key == "parameters" and isinstance(item, dict):
            yield from item
        else:
            yield from _parameters(item)


def _of_method(document: Document, method: str) -> Iterator[Problem]:
    at, recipe = document.place(("merge_method",)), document.value
    if method in _DRAWS and "density" in set(_parameters(recipe)):
        what = (
            f"mergekit draws what {method} drops from one stream for all tensors (--random-seed), here it depends on "
            "seed, tensor and model alone: as many entries are dropped, and others"
        )
        yield Problem(
            at, DIFFERS, what, "'random_order: mergekit' with 'seed: N' drops what --random-seed N drops there"
        )
    if method in _CUTS:
        what = "of entries that are equal at a threshold mergekit keeps any, here those of the lowest index are kept"
        yield Problem(at, DIFFERS, what)
    if method in _NORMS:
        what = "norms of tensors of many millions of entries are float32 sums in mergekit, up to 2e-3 off; here float64"
        yield Problem(at, DIFFERS, what)
    if method == "arcee_fusion":
        what = "above 10^6 entries mergekit finds the quartiles in a random sample, here in the whole tensor"
        yield Problem(at, DIFFERS, what)
    if method in _WIDENED and recipe.get("out_dtype") is None:
        what = (
            f"mergekit stores the result of {method} as float32 whatever the inputs are, here 'dtype' or theirs holds"
        )
        yield Problem(at, DIFFERS, what, "'out_dtype: float32' for the other")


def _donor(document: Document) -> Iterator[Problem]:
    """Without a base, mergekit takes config and tokenizer of the first model of a Python set."""
    models = list(dict.fromkeys(references(document)))
    names = list(dict.fromkeys(name for _, name in models))
    if document.value.get("base_model") is None and len(names) > 1:
        place = document.place(models[0][0])
        what = f"without a base_model mergekit takes config and tokenizer of any of the models, here of '{names[0]}'"
        yield Problem(place, DIFFERS, what, "'tokenizer_source: MODEL' chooses the tokenizer")
    tokenizer = document.value.get("tokenizer")
    source = document.value.get("tokenizer_source")
    if isinstance(tokenizer, dict):
        source = tokenizer.get("source", "union")
    if source == "union":
        place = document.place(("tokenizer_source",) if tokenizer is None else ("tokenizer",))
        what = "mergekit numbers the tokens that models add in any order of the models, here in that of the recipe"
        yield Problem(place, DIFFERS, what)


def _post_layers(document: Document) -> Iterator[Problem]:
    """What stands behind the layers is merged by mergekit from as many sources as the first slice has."""
    modules = document.value.get("modules")
    named = modules.items() if isinstance(modules, dict) else ()
    for path, holder in [((), document.value), *((("modules", name), one) for name, one in named)]:
        slices = holder.get("slices") if isinstance(holder, Mapping) else None
        if not isinstance(slices, list) or not all(isinstance(one, dict) for one in slices) or len(slices) < 2:
            continue
        first, last = (one.get("sources") for one in (slices[0], slices[-1]))
        if isinstance(first, list) and isinstance(last, list) and len(first) < len(last):
            place = document.place((*path, "slices", len(slices) - 1, "sources"))
            what = (
                f"the last norm and the head are merged from all {len(last)} sources of the last slice; mergekit takes "
                f"the first {len(first)}, as many as the first slice has"
            )
            yield Problem(place, DIFFERS, what)


def _models(document: Document) -> Iterator[Problem]:
    """Adapters, and paths that mean another folder here."""
    for path, reference in references(document):
        place = document.place(path)
        if "+" in reference and not FilePath(reference).exists():
            what = f"mergekit writes '{reference}' out in its model's dtype before it merges, here it is never written"
            yield Problem(place, DIFFERS, what, "'lora_merge_dtype: DTYPE' is --lora-merge-dtype")
        here, there = document.folder / reference, FilePath(reference)
        if here.exists() and there.exists() and not here.samefile(there):
            what = f"mergekit reads '{reference}' in the current folder, here the one beside the recipe comes first"
            yield Problem(place, DIFFERS, what, "write an absolute path")


def _gradients_of_files(document: Document) -> Iterator[Problem]:
    """Weight files are models of mergekit-pytorch, which knows no layers."""
    if not any(reference.endswith(_FILES) for _, reference in references(document)):
        return
    for path, value in _settings(document.value, ()):
        values = [value, *(one.get("value") for one in _entries(value))]
        if any(isinstance(one, list) and one and not isinstance(one[0], dict) for one in values):
            what = "mergekit-pytorch takes the first value of a gradient for all tensors, here it runs over the layers"
            yield Problem(document.place(path), DIFFERS, what)


def _settings(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        if key == "parameters" and isinstance(item, dict):
            yield from (((*path, key, name), setting) for name, setting in item.items())
        else:
            yield from _settings(item, (*path, key))


def _entries(value: Any) -> list[dict[str, Any]]:
    listed = value if isinstance(value, list) else [value]
    return [one for one in listed if isinstance(one, dict)]
