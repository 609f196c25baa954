"""Idle: why a setting that differs changes no tensor, or not all of those it is set for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from mergec.compiler.resolved import Setting
from mergec.compiler.sides import Side
from mergec.compiler.values import scopes_of
from mergec.recipe.compare import ABSENT, Change
from mergec.recipe.settings import Choice, Resolved


class Idle(NamedTuple):
    """Tensors that a change does not reach, and why; `is_wording` if it is another way to write the same."""

    why: str
    tensors: tuple[str, ...] = ()
    is_wording: bool = False


_KEYS = {
    "name": "it is the result's name, and no part of its bytes",
    "metadata": "it is kept with the recipe, and no part of the result",
    "seed": "no tensor draws random numbers",
    "compute_dtype": "the arithmetic is done in that dtype anyway",
    "dtype": "the inputs have that dtype, or come to it anyway",
    "out_dtype": "the result has that dtype anyway",
    "compat": "both ways of computing are the same here",
    "tokenizer_source": "both have the same tokenizer files",
    "source": "both have the same tokens",
    "pad_to_multiple_of": "the tokens fill as many rows",
    "id": "no random number is drawn for this model",
    "model": "both names stand for the same files",
}

_OF_FILES: tuple[str, ...] = ("tokenizer_source", "chat_template", "source", "base_model")
_OF_FILES += ("router", "file", "scores", "rank", "rule", "top_k", "experts_per_token", "architecture")


def why_idle(old: Side, new: Side, change: Change, untouched: Sequence[str], has_effect: bool) -> Iterator[Idle]:
    """The reasons, each with its tensors; `untouched` have another value, and the same bytes."""
    if change.sort == "setting":
        groups: dict[str, list[str]] = {}
        for name in untouched:
            groups.setdefault(_unused(old.settings_of(name), new.settings_of(name), change), []).append(name)
        yield from (Idle(why, tuple(names)) for why, names in groups.items())
        if not untouched and not has_effect:
            yield _unreached(old, new, change)
    elif not has_effect and not (change.name in _OF_FILES and old.files != new.files):
        yield _other(new, change)


def _other(new: Side, change: Change) -> Idle:
    if change.sort == "order" and change.name in ("", "steps"):
        name = new.analysis.method.name if new.analysis else ""
        return Idle(f"{name} adds models up in the order of their ids", (), is_wording=True)
    if change.sort == "order":
        return Idle("no tensor is matched by entries that changed places", (), is_wording=True)
    if change.sort == "model":
        return Idle("its weight or density is 0 for every tensor" if change.owner else "it is not read")
    return Idle(_KEYS.get(change.name, "the result does not depend on it here"))


def _unused(before: Mapping[Setting, Resolved], now: Mapping[Setting, Resolved], change: Change) -> str:
    """Why a tensor's value may differ and its bytes do not."""
    for other in ("weight", "density"):
        if change.name != other and change.owner is not None and _is_zero(before, now, other, change.owner):
            return f"its {other} is 0 there, so its {change.name} is unused"
    if change.name == "weight" and _both(before, now, Setting("normalize", "")) == (True, True):
        return "normalize divides by the sum of the weights"
    if change.name == "density":
        return "as many entries are kept"
    return f"the result is the same for both values of {change.name}"


def _is_zero(before: Mapping[Setting, Resolved], now: Mapping[Setting, Resolved], name: str, slot: str) -> bool:
    return _both(before, now, Setting(name, slot)) == (0, 0)


def _both(before: Mapping[Setting, Resolved], now: Mapping[Setting, Resolved], setting: Setting) -> object:
    return tuple(side[setting].value if setting in side else None for side in (before, now))


def _unreached(old: Side, new: Side, change: Change) -> Idle:
    """Why no tensor has another value."""
    choices = [c for side, place in zip((old, new), change.entries, strict=True) for c in _at(side, place)]
    parts = new.analysis.parts if new.analysis else ()
    names = {*new.settings, *(ref.name for part in parts for row in part.inventory.rows.values() for ref in row)}
    filters = dict.fromkeys(choice.filter for choice in choices if choice.filter is not None)
    for pattern in filters:
        if not any(pattern in name for name in names):
            return Idle(f"the filter '{pattern}' matches no tensor")
    if ABSENT not in (change.old, change.new):
        if len({choice.knots for choice in choices}) == 1:
            return Idle("it is the same value, written otherwise", (), is_wording=True)
        return Idle("no tensor takes it: what stands before it, or nearer to the model, matches the same tensors")
    return Idle("it is the value that holds without it", (), is_wording=True)


def _at(side: Side, place: object) -> Iterator[Choice]:
    analyses = (side.analysis, *side.analysis.stages.values()) if side.analysis else ()
    for part in (part for one in analyses for part in one.parts):
        for scope in scopes_of(part.bound):
            for choices in scope.values():
                yield from (choice for choice in choices if choice.place == place)
