"""Align: every model's tensors with a row per token, their rows in the order of the result's vocabulary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

from mergec.compiler.models import Model, is_staged
from mergec.compiler.names import has_vocabulary, is_embedding, layer_counts_of, layers_of, vocabulary_axis
from mergec.compiler.source import Embedded, Origin, Source, has_rows, promoted, refs_of, slots_for
from mergec.errors import Problem
from mergec.io.tensors import FLOATS, TensorRef
from mergec.ops.embed import index_text
from mergec.recipe.schema import TokenEntry

Tables: TypeAlias = Mapping[str, Mapping[str, Source]]
"""The tensors of each model by output name."""
OWN, ALONE, BASE, MEAN, ASKED = "its own", "only one to have it", "base has it", "their mean", "asked for"
ZERO, ABSENT, PADDING = "zero: asked for", "zero: nobody has it", "padding: mean of the rows before"


class Numbered(NamedTuple):
    """A model's tokens that have a row, the numbers that any token has, and how many rows there are."""

    tokens: Mapping[str, int]
    taken: frozenset[int]
    rows: int


@dataclass(frozen=True)
class Target:
    """The rows of the result: those of tokens by `numbers`, and mean rows from row `tokens` on.

    Of other rows without a token those of equal number belong together if it `keeps` them; else they are zeros. A
    target that `crops` has the first rows of every model, whatever their tokens.
    """

    numbers: Mapping[str, int]
    rows: int
    tokens: int
    keeps: bool = True
    crops: bool = False

    @cached_property
    def token_of(self) -> Mapping[int, str]:
        return {row: token for token, row in self.numbers.items()}


class _Default(NamedTuple):
    """What stands for a token in models that lack it: the rule, and the models' rows whose mean it is."""

    rule: str
    rows: tuple[tuple[str, int], ...] = ()


class _Built(NamedTuple):
    """What a model's tensor is built of: the text of an index into the tensor of each model that gives rows."""

    indices: Mapping[str, str]
    origins: tuple[Origin, ...]


@dataclass(frozen=True)
class Alignment:
    """A target, and how each model's tokens are numbered; `slots` are the models' slot ids.

    `entries` are the recipe's rules for single tokens; where there is none, a token that a model lacks gets the row of
    the one model that has it, else that of `base`, else the mean of those that have it.
    """

    target: Target
    models: Mapping[str, Numbered]
    slots: Mapping[str, str]
    entries: Mapping[str, TokenEntry]
    base: str | None

    def apply(self, tables: Tables, models: Mapping[str, Model]) -> tuple[dict[str, dict[str, Source]], list[Problem]]:
        """The tables with rows in the target's order, or why some cannot be put so."""
        result = {reference: dict(table) for reference, table in tables.items()}
        problems: list[Problem] = []
        known: dict[tuple[tuple[str, int], ...], dict[str, _Built]] = {}
        for name, axis in _axes(tables, models).items():
            having = {reference: table[name] for reference, table in tables.items() if name in table}
            sizes = tuple((reference, source.shape[axis]) for reference, source in having.items())
            if sizes not in known:
                known[sizes] = dict(self._built(dict(sizes)))
            as_stored = [one for one, size in sizes if self._is_as_stored(one, known[sizes][one], size)]
            if len(as_stored) == len(having):
                continue
            for reference, built in known[sizes].items():
                odd = next((one for one in built.indices if not _has_rows(having[one], axis)), None)
                if odd is not None and reference in as_stored:
                    continue
                if odd is not None:
                    problems.append(_refused(models[odd], name, having[odd]))
                else:
                    result[reference][name] = self._embedded(reference, name, axis, having, built)
        return result, list(dict.fromkeys(problems))

    def _is_as_stored(self, reference: str, built: _Built, size: int) -> bool:
        return built.indices == {reference: f"0+{size}"} and self.target.tokens == self.target.rows == size

    def _embedded(self, reference: str, name: str, axis: int, having: Mapping[str, Source], built: _Built) -> Embedded:
        shape = list(having[reference].shape)
        shape[axis] = self.target.rows
        dtype = promoted([source.dtype for source in having.values()])
        tables = tuple(having[one] for one in built.indices)
        slots = tuple(slot for one in built.indices for slot in slots_for(self.slots[one], having[one]))
        indices = tuple(built.indices.values())
        return Embedded(name, dtype, tuple(shape), tables, slots, indices, axis, self.target.tokens, built.origins)

    def _built(self, sizes: Mapping[str, int]) -> Iterator[tuple[str, _Built]]:
        """For each model what its tensor is built of; `sizes` are the rows of the tensors there are."""
        target = self.target
        own = {reference: self._own(reference, size) for reference, size in sizes.items()}
        forced = {target.numbers[token] for token, entry in self.entries.items() if entry.force}
        lacking = {row for rows in own.values() for row in range(target.tokens) if rows[row] < 0} | forced
        defaults = {row: self._default(row, own, sizes) for row in sorted(lacking)}
        for reference, rows in own.items():
            indices = {one: [-1] * target.rows for one in sizes}
            indices[reference] = list(rows)
            counts: Counter[tuple[str, tuple[str, ...]]] = Counter()
            for row, default in defaults.items():
                if rows[row] < 0 or row in forced:
                    indices[reference][row] = -1
                    counts[default.rule, tuple(one for one, _ in default.rows)] += 1
                    for one, number in default.rows:
                        indices[one][row] = number
            origins = [Origin(OWN, (reference,), target.tokens - counts.total())]
            origins += [Origin(rule, donors, number) for (rule, donors), number in counts.items()]
            if target.rows > target.tokens:
                origins.append(Origin(PADDING, (), target.rows - target.tokens))
            texts = {one: index_text(index) for one, index in indices.items()}
            used = {one: text for one, text in texts.items() if "+" in text} or {reference: texts[reference]}
            yield reference, _Built(used, tuple(origins))

    def _own(self, reference: str, size: int) -> list[int]:
        """For each row of the target the model's own that stands for the same token, -1 if it has none."""
        target, model = self.target, self.models[reference]
        if target.crops:
            return list(range(target.rows))
        rows = [-1] * target.rows
        for token, row in target.numbers.items():
            rows[row] = model.tokens.get(token, -1)
        if target.keeps:
            for row in range(min(size, target.tokens)):
                if row not in target.token_of and row not in model.taken:
                    rows[row] = row
        return [row if row < size else -1 for row in rows]

    def _default(self, row: int, own: Mapping[str, Sequence[int]], sizes: Mapping[str, int]) -> _Default:
        token = self.target.token_of.get(row)
        asked = self._asked(token, sizes) if token is not None else None
        if asked is not None:
            return asked
        owners = tuple((reference, rows[row]) for reference, rows in own.items() if rows[row] >= 0)
        if len(owners) < 2:
            return _Default(ALONE, owners) if owners else _Default(ABSENT)
        of_base = tuple(one for one in owners if one[0] == self.base)
        return _Default(BASE, of_base) if of_base else _Default(MEAN, owners)

    def _asked(self, token: str, sizes: Mapping[str, int]) -> _Default | None:
        """The row that the recipe asks for; None where it does not, or where these tensors have none such."""
        source = self.entries[token].source if token in self.entries else None
        if source is None or source.kind == "zero" or source.model is None:
            return _Default(ZERO) if source else None
        size = sizes.get(source.model, 0)
        number = source.token_id
        if number is None:
            wanted = token if source.token is None else source.token
            number = self.models[source.model].tokens.get(wanted, size)
        return _Default(ASKED, ((source.model, number),)) if number < size else None


def _has_rows(source: Source, axis: int) -> bool:
    """Whether rows along an axis can be looked up: of any stored tensor, and of matrices computed row by row."""
    if any(map(is_staged, refs_of(source))):
        return False
    return isinstance(source, TensorRef) or (has_rows(source) and len(source.shape) == 2 and axis == 0)


def _refused(model: Model, name: str, source: Source) -> Problem:
    how = "a stage computes" if any(map(is_staged, refs_of(source))) else "is not computed row by row"
    what = f"rows of {name} are put in another order, and '{model.reference}' has one that {how}"
    return Problem(model.place, "E355", what, "make that model by a run of its own, and merge the result")


def _axes(tables: Tables, models: Mapping[str, Model]) -> dict[str, int]:
    """The vocabulary axis of every tensor of floats that has one, by output name."""
    found: dict[str, int] = {}
    for reference, table in tables.items():
        for name, axis in vocabulary_axes(models[reference], table).items():
            if table[name].dtype in FLOATS:
                found.setdefault(name, axis)
    return found


def vocabulary_axes(model: Model, table: Mapping[str, Source]) -> dict[str, int]:
    """The axis that counts tokens, of each of a model's tensors that has one."""
    size = _telling_rows(model)
    layers = layers_of(table, layer_counts_of(model.checkpoint.config))
    axes = {name: vocabulary_axis(name, one.shape, None if name in layers else size) for name, one in table.items()}
    return {name: axis for name, axis in axes.items() if axis is not None}


def _telling_rows(model: Model) -> int | None:
    """The number of a model's rows, if it is no other number of its config, nor the length of a row."""
    size = rows_of(model)
    others = set(_other_numbers(model.checkpoint.config or {}))
    others |= set(model.embedding.shape[1:]) if model.embedding else set()
    return None if size in others else size


def _other_numbers(config: Mapping[str, Any]) -> Iterator[int]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _other_numbers(value)
        elif type(value) is int and "vocab" not in key:
            yield value


def rows_of(model: Model) -> int | None:
    """How many rows a model's embedding has: by its tensor, by its head, or as its config says."""
    for is_wanted in (is_embedding, has_vocabulary):
        for name, source in model.tensors.items():
            if is_wanted(name) and source.shape:
                return source.shape[0]
    size = model.checkpoint.text_config.get("vocab_size")
    return size if type(size) is int and size > 0 else None
