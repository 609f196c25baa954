"""Assemble: from which layers of which models each slice, and each module, of the result is made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TypeAlias

from mergec.compiler.align import Alignment
from mergec.compiler.inventory import Inventory, Stacked, head_of, table_of
from mergec.compiler.models import Model
from mergec.compiler.modules import modules_of
from mergec.compiler.names import Layer, few, is_behind, layer_counts_of, layers_of, natural
from mergec.compiler.rules import assemble_by_rules
from mergec.compiler.share import share, why_unused
from mergec.compiler.source import Source
from mergec.errors import Place, Problem, count
from mergec.recipe.bound import Bound, Input

Table: TypeAlias = Mapping[str, Source]
Parts: TypeAlias = list[tuple[Bound, Inventory]]


def assemble(
    bounds: Sequence[Bound], models: Mapping[str, Model], alignment: Alignment | None = None
) -> tuple[Parts, list[Problem]]:
    """The parts of a merge, each with its output tensors and what they are merged from, or all that does not fit.

    With an `alignment` the models' tensors have the rows of one vocabulary.
    """
    used = {one.reference: models[one.reference] for bound in bounds for one in bound.inputs}
    head = head_of(used.values())
    tables = {reference: table_of(model, head) for reference, model in used.items()}
    if alignment is not None:
        tables, problems = alignment.apply(tables, models)
        if problems:
            return [], problems
    made, problems = (assemble_by_rules if any(b.rule for b in bounds) else _by_name)(bounds, models, tables)
    if problems or not made:
        return [], problems
    mixed = head is not None and any(model.is_tied for model in used.values())
    made = [(bound, replace(one, is_untied=mixed)) for bound, one in made]
    bound, first = made[0]
    return [(bound, replace(first, notes=(*_tied(used.values()), *first.notes))), *made[1:]], []


def _tied(models: Iterable[Model]) -> Iterator[str]:
    """Which stored heads are not used, as notes."""
    for model in models:
        if model.is_tied and model.head:
            yield f"{model.reference}: the stored {model.head} is not used, the config ties it to the input embedding"


def _by_name(
    bounds: Sequence[Bound], models: Mapping[str, Model], tables: Mapping[str, Table]
) -> tuple[Parts, list[Problem]]:
    """The same for models merged whole, slices and modules, from the models' tensors by output name."""
    by_module, problems = _by_module(bounds, tables)
    made: Parts = []
    for module, group in groupby(bounds, key=lambda bound: bound.module):
        stack = _Stack(list(group), models, {name: of_module.get(module, {}) for name, of_module in by_module.items()})
        made += stack.parts()
        problems += stack.problems
    if problems or not made:
        return [], problems
    bound, first = made[0]
    why = why_unused(bound, "in no slice" if bound.place or bound.module else "")
    notes = _unused(tables, [one for _, one in made], why) if why else ()
    return [(bound, replace(first, notes=(*notes, *first.notes))), *made[1:]], []


def _by_module(
    bounds: Sequence[Bound], tables: Mapping[str, Table]
) -> tuple[dict[str, dict[str, dict[str, Source]]], list[Problem]]:
    """Each model's tensors by module; all are of the module "" where the recipe names none."""
    listed = {bound.module: _module_place(bound) for bound in bounds}
    if set(listed) == {""}:
        return {reference: {"": dict(table)} for reference, table in tables.items()}, []
    names = sorted({name for table in tables.values() for name in table}, key=natural)
    module, problems = modules_of(names, listed)
    split: dict[str, dict[str, dict[str, Source]]] = {}
    for reference, table in tables.items():
        split[reference] = {one: {} for one in listed}
        for name, ref in table.items():
            if name in module:
                split[reference][module[name]][name] = ref
    return split, problems


def _module_place(bound: Bound) -> Place:
    return bound.recipe.document.key_place(("modules", bound.module))


class _Stack:
    """The bounds of one module: models merged whole, or slices that follow one another in one stack of layers."""

    def __init__(self, bounds: list[Bound], models: Mapping[str, Model], tables: Mapping[str, Table]) -> None:
        self.bounds, self.models, self.tables = bounds, models, tables
        self.problems: list[Problem] = []
        self.layers: dict[str, dict[str, Layer]] = {}

    def parts(self) -> Parts:
        if self.bounds[0].place is None:
            return self._shared(self.bounds[0], [self.tables[one.reference] for one in self.bounds[0].inputs])
        used = dict.fromkeys(one.reference for bound in self.bounds for one in bound.inputs)
        for reference in used:
            config = self.models[reference].checkpoint.config
            self.layers[reference] = layers_of(self.tables[reference], layer_counts_of(config))
        for bound in self.bounds:
            for one in bound.inputs:
                self._check_range(one)
        self.problems = list(dict.fromkeys(self.problems))  # a shuffle's slices say the same
        if self.problems or not all(map(_is_even, self.bounds)):  # which was said when they were bound
            return []
        first = self.bounds[0].inputs[0].reference
        total = sum(map(_span, self.bounds))
        stack, begin, made = self._stack(first), 0, Parts()
        for number, bound in enumerate(self.bounds):
            ends = (number == 0, number == len(self.bounds) - 1)
            tables = [self._slice(one, stack, begin, *ends) for one in bound.inputs]
            within = range(begin, begin + _span(bound))
            layers = {name: Layer(stack, index, total, within) for name, index in _numbered(tables, stack)}
            for part, inventory in self._shared(bound, tables):
                own = {name: layers[name] for name in inventory.rows if name in layers}
                made.append((part, replace(inventory, layers=own)))
            begin = within.stop
        origins = tuple((bound.inputs[0].reference, layer) for bound in self.bounds for layer in _layers(bound))
        bound, inventory = made[0]
        made[0] = bound, replace(inventory, stacked=(Stacked(stack, self._count(first), origins),))
        return made

    def _shared(self, bound: Bound, tables: Sequence[Table]) -> Parts:
        parts, problems = share(bound, self.models, tables)
        self.problems += problems
        return parts

    def _check_range(self, one: Input) -> None:
        """The layers of a source must be there, in the one stack that the slices are of."""
        stacks = {layer.stack: layer.count for layer in self.layers[one.reference].values()}
        if not stacks:
            what = f"'{one.reference}' has no layers that could be told from the names of its tensors"
            self.problems.append(Problem(one.place, "E114", what, "merge it whole, under 'models:'"))
        elif len(stacks) > 1:
            what = f"'{one.reference}' has layers in {' and in '.join(stacks)}"
            hint = "say which under 'modules:', each module with models or slices of its own"
            self.problems.append(Problem(one.place, "E114", what, hint))
        elif one.layers is not None and one.layers.stop > (found := next(iter(stacks.values()))):
            self.problems.append(self._beyond(one, one.layers, found))

    def _beyond(self, one: Input, layers: range, found: int) -> Problem:
        """A range of layers that ends behind the last one."""
        recipe = self.bounds[0].recipe
        place, said = one.place, f"layer_range [{layers.start}, {layers.stop}]"
        if recipe.shuffle:
            place, said = recipe.document.place(("shuffle", "layers")), f"layers: {recipe.shuffle.layers}"
        what = f"found {said}, and '{one.reference}' has {count(found, 'layer')}"
        return Problem(place, "E115", what, f"expected {'' if recipe.shuffle else 'an end of '}at most {found}")

    def _stack(self, reference: str) -> str:
        return next(iter(self.layers[reference].values())).stack

    def _count(self, reference: str) -> int:
        return next(iter(self.layers[reference].values())).count

    def _slice(self, one: Input, stack: str, begin: int, is_first: bool, is_last: bool) -> dict[str, Source]:
        """A source's tensors by output name: its layers from `begin` on, and at the ends what stands around them."""
        layers = self.layers[one.reference]
        table: dict[str, Source] = {}
        for name, ref in self.tables[one.reference].items():
            layer = layers.get(name)
            if layer is None:
                if is_last if is_behind(name) else is_first:
                    table[name] = ref
            elif one.layers is not None and layer.index in one.layers:
                rest = name[len(layer.stack) + len(str(layer.index)) + 1 :]
                table[f"{stack}.{begin + layer.index - one.layers.start}{rest}"] = ref
        return table


def _is_even(bound: Bound) -> bool:
    """Whether the sources of a slice have equally many layers."""
    spans = {len(one.layers or ()) for one in bound.inputs}
    return len(spans) == 1 and 0 not in spans


def _span(bound: Bound) -> int:
    return len(_layers(bound))


def _layers(bound: Bound) -> range:
    return bound.inputs[0].layers or range(0)


def _numbered(tables: Iterable[Table], stack: str) -> Iterable[tuple[str, int]]:
    """The names that lie in layers of the result, with the number of their layer."""
    for name in {name for table in tables for name in table}:
        if name.startswith(f"{stack}."):
            number = name[len(stack) + 1 :].partition(".")[0]
            if number.isdecimal():
                yield name, int(number)


def _unused(tables: Mapping[str, Table], made: Sequence[Inventory], why: str) -> Iterator[str]:
    """Which tensors of which models are in no part of the result, as notes."""
    used = {ref for inventory in made for row in inventory.rows.values() for ref in row}
    for reference, table in tables.items():
        names = sorted((name for name, ref in table.items() if ref not in used), key=natural)
        if names:
            yield f"{reference}: {why}, so not used: {few(names)}"
