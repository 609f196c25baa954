"""What mergekit reads over in a recipe: unknown keys, parameters that are not the method's or not in their place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mergec.errors import near
from mergec.recipe.document import Document, Path
from mergec.recipe.peer.language import KEYS, METHODS, PeerMethod
from mergec.recipe.peer.named import named_models, text_of


@dataclass(frozen=True)
class Ignored:
    """An entry of a mapping that changes nothing in mergekit, and why."""

    path: Path
    why: str
    hint: str = ""
    is_read: bool = False
    """Whether mergekit does read it, and it is only here that it has no meaning."""


def ignored(document: Document) -> Iterator[Ignored]:
    """Every entry that mergekit ignores, in the order of the recipe."""
    recipe = document.value
    method = METHODS.get(recipe.get("merge_method", ""), PeerMethod())
    name = str(recipe.get("merge_method"))
    yield from _unknown(recipe, (), "recipe", "a recipe")
    yield from _Holder(name, method, recipe.get("base_model")).all(recipe, ())
    modules = recipe.get("modules")
    for key, module in modules.items() if isinstance(modules, dict) else ():
        if isinstance(module, dict):
            yield from _unknown(module, ("modules", key), "modules", "a module")
            yield from _Holder(name, method, recipe.get("base_model")).all(module, ("modules", key))
    for path, value in named_models(recipe):
        yield from _in_reference(value, path)
    yield from _in_tokenizer(recipe.get("tokenizer"))


def _in_reference(value: Any, path: Path) -> Iterator[Ignored]:
    """What a mapping that stands for a model has beside path, revision and adapter."""
    for key, part in value.items() if isinstance(value, dict) else ():
        if key == "override_architecture":
            why = "tensors are known by their names, so that no architecture is looked up"
            yield Ignored((*path, key), why, is_read=True)
        elif key not in KEYS["reference"]:
            yield Ignored((*path, key), "it is no key of a model's reference", near(key, KEYS["reference"]))
        elif isinstance(part, dict):
            yield from _others(part, (*path, key), "path", "a model's reference")


def _in_tokenizer(value: Any) -> Iterator[Ignored]:
    if not isinstance(value, dict):
        return
    yield from _others(value, ("tokenizer",), "tokenizer", "the tokenizer")
    tokens = value.get("tokens")
    for token, entry in tokens.items() if isinstance(tokens, dict) else ():
        if isinstance(entry, dict):
            path: Path = ("tokenizer", "tokens", token)
            yield from _others(entry, path, "token", "a token's entry")
            source = entry.get("source")
            if isinstance(source, dict) and "kind" in source:
                yield from _others(source, (*path, "source"), "token source", "a token's source")


def _others(value: Mapping[str, Any], path: Path, kind: str, called: str) -> Iterator[Ignored]:
    for key in value.keys() - KEYS[kind]:
        yield Ignored((*path, key), f"it is no key of {called}", near(key, KEYS[kind]))


def _unknown(value: Mapping[str, Any], path: Path, kind: str, called: str) -> Iterator[Ignored]:
    known = KEYS[kind]
    for key in value:
        if key == "residual_weight" and kind == "slices":
            yield Ignored((*path, key), "it is read and never used")
        elif key not in known:
            elsewhere = next((method for method in METHODS.values() if key in method.parameters), None)
            hint = near(key, known) or ("a parameter stands under 'parameters:'" if elsewhere else "")
            yield Ignored((*path, key), f"it is no key of {called}", hint)
        elif key in ("models", "slices", "modules") and not value[key] and any(value.get(k) for k in _WAYS if k != key):
            yield Ignored((*path, key), "it is empty")


_WAYS = ("models", "slices", "modules")


@dataclass(frozen=True)
class _Holder:
    """Walks what a recipe or a module holds: its parameters, models and slices."""

    name: str
    method: PeerMethod
    base: Any

    def all(self, value: Mapping[str, Any], path: Path) -> Iterator[Ignored]:
        yield from self.shared(value.get("parameters"), (*path, "parameters"))
        yield from self.entries(value.get("models"), (*path, "models"), "models", self.base)
        for number, one in enumerate(_listed(value.get("slices"))):
            here = (*path, "slices", number)
            yield from _unknown(one, here, "slices", "a slice")
            yield from self.shared(one.get("parameters"), (*here, "parameters"))
            base = one.get("base_model") or self.base
            yield from self.entries(one.get("sources"), (*here, "sources"), "sources", base)

    def entries(self, entries: Any, path: Path, kind: str, base: Any) -> Iterator[Ignored]:
        for number, entry in enumerate(_listed(entries)):
            here = (*path, number)
            called = "a model's entry" if kind == "models" else "a source of a slice"
            yield from _unknown(entry, here, kind, called)
            is_base = base is not None and text_of(entry.get("model")) == text_of(base) and not self.method.is_base_read
            yield from self.own(entry.get("parameters"), (*here, "parameters"), is_base)

    def own(self, parameters: Any, path: Path, is_base: bool) -> Iterator[Ignored]:
        """Parameters under one model."""
        for key, value in parameters.items() if isinstance(parameters, dict) else ():
            here = (*path, key)
            if key not in self.method.parameters:
                yield from self.unknown(here, key)
            elif key in self.method.shared:
                yield Ignored(here, f"{self.name} looks it up for the whole merge", "move it to the top 'parameters:'")
            elif is_base:
                yield Ignored(here, "this is the base model, which deltas are taken from")
            else:
                yield from self.known(here, key, value)

    def shared(self, parameters: Any, path: Path) -> Iterator[Ignored]:
        """Parameters for all models: those of the recipe, a module or a slice."""
        for key, value in parameters.items() if isinstance(parameters, dict) else ():
            known = key in self.method.parameters
            yield from self.known((*path, key), key, value) if known else self.unknown((*path, key), key)

    def unknown(self, path: Path, key: str) -> Iterator[Ignored]:
        if self.name in METHODS:
            yield Ignored(path, f"{self.name} has no such parameter", near(key, self.method.parameters))

    def known(self, path: Path, key: str, value: Any) -> Iterator[Ignored]:
        """A parameter that is looked up: what of it has no effect."""
        if key in self.method.idle:
            yield Ignored(path, f"it changes no number of {self.name}")
        elif value == []:
            yield Ignored(path, "an empty list sets nothing")
        single = [((), value)] if isinstance(value, dict) else []
        listed = [((number,), one) for number, one in enumerate(value)] if isinstance(value, list) else []
        for step, one in (*single, *listed):
            if isinstance(one, dict) and "value" in one:
                for extra in one.keys() - KEYS["setting"]:
                    hint = near(extra, KEYS["setting"])
                    yield Ignored((*path, *step, extra), "it is neither 'value' nor 'filter'", hint)


def _listed(value: Any) -> list[dict[str, Any]]:
    """The entries of a list of mappings; others, which mergekit refuses, keep their numbers as empty ones."""
    return [one if isinstance(one, dict) else {} for one in value] if isinstance(value, list) else []
