"""Modules: the parts of a model that a recipe merges each in its own way, found from the names of its tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mergec.compiler.names import few, has_vocabulary, natural
from mergec.errors import Place, Problem, count, did_you_mean

# What the same part is called in recipes and in checkpoints of different age.
_CALLED: Mapping[str, frozenset[str]] = {
    name: frozenset(group)
    for group in (
        ("text_decoder", "language_model", "text_model"),
        ("vision_tower", "vision_model", "visual", "vision_encoder"),
        ("audio_tower", "audio_model", "audio_encoder"),
        ("multi_modal_projector", "mm_projector", "connector"),
    )
    for name in group
}
# Parts whose tensors may have no name of their own: they are what no other module takes.
_REST = ("default", "text_decoder", "language_model", "text_model", "decoder")


def modules_of(names: Iterable[str], listed: Mapping[str, Place]) -> tuple[dict[str, str], list[Problem]]:
    """The listed module of every tensor; tensors of none (E117), and modules of which there is no tensor (E116).

    A tensor is of the first module that one of the dotted parts of its name is called by. What is left is `default`,
    or the text decoder if that has no name in the checkpoint; an embedding or a head goes with the text decoder.

    >>> modules_of(["visual.w", "model.w"], {"vision_tower": Place("r", 1, 1), "text_decoder": Place("r", 2, 1)})[0]
    {'visual.w': 'vision_tower', 'model.w': 'text_decoder'}
    """
    names = list(names)
    found = {name: module for name in names if (module := _named(name, listed)) is not None}
    unnamed = [module for module in listed if module not in found.values()]
    rest = [name for name in names if name not in found]
    taker = next((module for module in (*unnamed, *listed) if module in _REST), None)
    takes_all = taker in unnamed or taker == "default"
    taken = {name: taker for name in rest if taker is not None and (takes_all or has_vocabulary(name))}
    problems = [_absent(module, listed[module], names) for module in unnamed if module not in taken.values()]
    left = [name for name in rest if name not in taken]
    if left:
        problems.append(_left_out(left, min(listed.values())))
    return {name: {**found, **taken}[name] for name in names if name in found or name in taken}, problems


def _named(name: str, listed: Iterable[str]) -> str | None:
    parts = set(name.split("."))
    return next((one for one in listed if parts & _CALLED.get(one, {one}) or name.startswith(f"{one}.")), None)


def _absent(module: str, place: Place, names: list[str]) -> Problem:
    what = f"the models have no module '{module}'"
    return Problem(place, "E116", what, did_you_mean(module, _parts(names)))


def _parts(names: list[str]) -> list[str]:
    """What modules a model seems to have: the dotted parts at which the names of its tensors first differ."""
    split = [name.split(".") for name in names]
    roots = {parts[0] for parts in split}
    firsts = {parts[1] if parts[0] == "model" and len(parts) > 2 else parts[0] for parts in split}
    return sorted(firsts | (roots - {"model"}), key=natural)


def _left_out(names: list[str], place: Place) -> Problem:
    what = f"{count(len(names), 'tensor')} of the models are in no module: {few(sorted(names, key=natural))}"
    hint = f"list their module too: {', '.join(_parts(names)[:4])}, or 'default' for what no other module takes"
    return Problem(place, "E117", what, hint)
