"""Inventory: what the models' headers say, lined up by tensor name; every mismatch is reported at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mergec.compiler.models import Model
from mergec.compiler.names import Layer, few, fold, has_vocabulary, layer_counts_of, layers_of, natural
from mergec.compiler.source import Source
from mergec.errors import Problem, count
from mergec.io.tensors import FLOATS

_MOST_LISTED = 8


@dataclass(frozen=True)
class Stacked:
    """A stack of layers that slices make: how many the first model has there, and the model and layer each is from."""

    stack: str
    before: int
    origins: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Inventory:
    """The output tensors of models that are merged, or of a slice, each with what is merged, in the models' order.

    `notes` say what is left out, and what is not made of all models; `is_untied` that tied and untied heads were
    mixed; `stacked` are the stacks of layers that were put together from slices.
    """

    rows: Mapping[str, tuple[Source, ...]]
    layers: Mapping[str, Layer]
    notes: tuple[str, ...]
    is_untied: bool
    stacked: tuple[Stacked, ...] = ()

    def t(self, name: str) -> float:
        """Where a tensor's gradients are evaluated: its layer's place in [0, 1], or 0 outside the layers."""
        layer = self.layers.get(name)
        return layer.t if layer else 0.0


def line_up(models: Sequence[Model]) -> tuple[Inventory, list[Problem]]:
    """Line tensors up by name over the models that are merged; the first is the one others are compared with."""
    head = head_of(models)
    return line_up_tables(models, [table_of(model, head) for model in models])


def line_up_tables(models: Sequence[Model], tables: Sequence[Mapping[str, Source]]) -> tuple[Inventory, list[Problem]]:
    """The same for tables of tensors by output name, such as those of `table_of`."""
    names = sorted({name for table in tables for name in table}, key=natural)
    counts = set.union(*(layer_counts_of(model.checkpoint.config) for model in models))
    problems: list[Problem] = []
    for model, table in zip(models[1:], tables[1:], strict=True):
        problems += _differences(models[0], tables[0], model, table, counts)
    rows = {} if problems else {name: tuple(table[name] for table in tables) for name in names}
    return Inventory(rows, layers_of(names, counts), (), False), problems


def misfits(models: Sequence[Model], tables: Sequence[Mapping[str, Source]]) -> Iterator[Problem]:
    """Models that are no variants of the first one, whatever tensors each may lack."""
    counts = set.union(*(layer_counts_of(model.checkpoint.config) for model in models))
    for model, table in zip(models[1:], tables[1:], strict=True):
        if problem := _misfit(models[0], tables[0], model, table, counts):
            yield problem


def head_of(models: Iterable[Model]) -> str | None:
    """The name of the head that the result has of its own, since some model has one; None if all are tied."""
    return next((model.head for model in models if model.head and not model.is_tied), None)


def table_of(model: Model, head: str | None) -> dict[str, Source]:
    """A model's tensors by output name.

    A tied model's own head is left out; where others have a head of their own, its embedding stands in for it.
    """
    table = dict(model.tensors)
    if model.is_tied:
        table.pop(model.head or "", None)
        if head is not None and model.embedding is not None:
            table[head] = model.embedding
    return table


def _differences(
    first: Model, expected: Mapping[str, Source], model: Model, found: Mapping[str, Source], counts: set[int]
) -> Iterable[Problem]:
    whole = _misfit(first, expected, model, found, counts)
    if whole:
        yield whole
        return
    yield from _absent(model, expected.keys() - found.keys(), f"lacks, which '{first.reference}' has")
    yield from _absent(model, found.keys() - expected.keys(), f"has, which '{first.reference}' lacks")
    unequal = [name for name in expected if name in found and expected[name].shape != found[name].shape]
    yield from _shapes(first, expected, model, found, unequal)
    yield from _integers(first, expected, model, found)


def _misfit(
    first: Model, expected: Mapping[str, Source], model: Model, found: Mapping[str, Source], counts: set[int]
) -> Problem | None:
    return _stranger(first, expected, model, found) or _layer_difference(first, expected, model, found, counts)


def _stranger(
    first: Model, expected: Mapping[str, Source], model: Model, found: Mapping[str, Source]
) -> Problem | None:
    """Models of different architectures: most names differ, so one line says more than all of them."""
    shared = len(expected.keys() & found.keys())
    if 2 * shared >= min(len(expected), len(found)):
        return None
    ours, theirs = (min(names.keys() - others, key=natural) for names, others in ((expected, found), (found, expected)))
    what = (
        f"'{model.reference}' has {count(len(found), 'tensor')}, '{first.reference}' has {len(expected):,}, and "
        f"{shared:,} have a name in common: {theirs} here, {ours} there"
    )
    return Problem(model.place, "E320", what, "only models of one architecture can be merged")


def _layer_difference(
    first: Model, expected: Mapping[str, Source], model: Model, found: Mapping[str, Source], counts: set[int]
) -> Problem | None:
    if expected.keys() == found.keys():
        return None
    ours = {layer.stack: layer.count for layer in layers_of(expected, counts).values()}
    theirs = {layer.stack: layer.count for layer in layers_of(found, counts).values()}
    for stack in ours.keys() & theirs.keys():
        if ours[stack] != theirs[stack]:
            layers = f"{count(theirs[stack], 'layer')} in {stack}"
            what = f"'{model.reference}' has {layers}, '{first.reference}' has {ours[stack]}"
            return Problem(model.place, "E322", what, "models of one depth merge; 'slices:' chooses layers of each")
    return None


def _absent(model: Model, names: Iterable[str], what: str) -> Iterable[Problem]:
    verb, _, rest = what.partition(",")
    listed = fold(sorted(names, key=natural))
    for text in listed[:_MOST_LISTED]:
        hint = "`tensors: union` takes such tensors from the models that have them, `intersection` leaves them out"
        yield Problem(model.place, "E320", f"'{model.reference}' {verb} the tensor {text},{rest}", hint)
    if len(listed) > _MOST_LISTED:
        more = count(len(listed) - _MOST_LISTED, "further tensor name")
        yield Problem(model.place, "E320", f"'{model.reference}' {verb} {more},{rest}")


def _shapes(
    first: Model,
    expected: Mapping[str, Source],
    model: Model,
    found: Mapping[str, Source],
    unequal: list[str],
) -> Iterable[Problem]:
    groups: dict[tuple[tuple[int, ...], tuple[int, ...]], list[str]] = {}
    for name in unequal:
        groups.setdefault((expected[name].shape, found[name].shape), []).append(name)
    for (ours, theirs), names in groups.items():
        listed = few(names)
        if all(map(has_vocabulary, names)) and ours[1:] == theirs[1:]:
            sizes = f"has {theirs[0]:,} rows in {listed}, '{first.reference}' has {ours[0]:,}"
            what = f"the vocabularies differ: '{model.reference}' {sizes}"
            hint = "tokenizer_source: union keeps the tokens of both, tokenizer_source: base those of the base, "
            hint += "truncate the first rows"
            yield Problem(model.place, "E321", what, hint)
        else:
            what = f"'{model.reference}' has {listed} of shape {list(theirs)}, '{first.reference}' of {list(ours)}"
            yield Problem(model.place, "E323", what, "models of one architecture and size can be merged")


def _integers(
    first: Model, expected: Mapping[str, Source], model: Model, found: Mapping[str, Source]
) -> Iterable[Problem]:
    groups: dict[tuple[str, str], list[str]] = {}
    for name in expected.keys() & found.keys():
        ours, theirs = expected[name].dtype, found[name].dtype
        if ours != theirs and not {ours, theirs} <= set(FLOATS):
            groups.setdefault((ours, theirs), []).append(name)
    for (ours, theirs), names in sorted(groups.items()):
        listed = few(sorted(names, key=natural))
        what = f"'{model.reference}' has {listed} as {theirs}, '{first.reference}' as {ours}"
        yield Problem(model.place, "E324", what, "integers are copied, so all models must agree")
