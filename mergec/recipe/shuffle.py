"""Shuffle: layers drawn from models at random, by a seed, as the slices that a user would write."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate, groupby

from mergec.recipe.document import Document, Path
from mergec.recipe.schema import Recipe, ShuffleEntry, SliceEntry, SourceEntry


def shuffled(recipe: Recipe, document: Document) -> tuple[Recipe, Document]:
    """The recipe with the slices that its `shuffle` stands for, and where each of these is written."""
    shuffle = recipe.shuffle
    if shuffle is None:
        return recipe, document
    slices: list[SliceEntry] = []
    places = dict(document.values)
    for which, layers in _runs(shuffle, recipe.seed):
        written: Path = ("shuffle", "models", which)
        entry = shuffle.models[which]
        path: Path = ("slices", len(slices), "sources", 0)
        places |= {path[:2]: document.place(written), (*path, "model"): document.place((*written, "model"))}
        source = SourceEntry(model=entry.model, id=entry.id, layer_range=[layers.start, layers.stop])
        slices.append(SliceEntry(sources=[source]))
    return recipe.model_copy(update={"slices": slices}), replace(document, values=places)


def _runs(shuffle: ShuffleEntry, seed: int) -> Iterator[tuple[int, range]]:
    """The models that are drawn, layer by layer, each with the layers that follow one another there."""
    drawn = [_drawn(shuffle, seed, position) for position in range(shuffle.layers)]
    runs = groupby(enumerate(drawn), key=lambda item: (item[1][0], item[1][1] - item[0]))
    for (which, _), run in runs:
        layers = [layer for _, (_, layer) in run]
        yield which, range(layers[0], layers[-1] + 1)


def _drawn(shuffle: ShuffleEntry, seed: int, position: int) -> tuple[int, int]:
    """The model of a layer by the weights, and which of its layers: the same, or any if that is random too."""
    ends = list(accumulate(entry.weight for entry in shuffle.models))
    point = _share(seed, "model", position) * ends[-1]
    which = next((number for number, end in enumerate(ends) if point < end), len(ends) - 1)
    layer = int(_share(seed, "layer", position) * shuffle.layers) if shuffle.full_random else position
    return which, layer


def _share(seed: int, what: str, position: int) -> float:
    """A number in [0, 1) that depends on nothing else."""
    digest = hashlib.sha256(f"shuffle\n{seed}\n{what}\n{position}".encode()).digest()
    return int.from_bytes(digest[:6], "little") / 2**48
