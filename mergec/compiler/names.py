"""Tensor names: natural order, layer stacks, heads and embeddings, and lists of names folded for people."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mergec.errors import count

_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")  # a whole dotted component that is a number
_PLAIN_NUMBER = re.compile(r"(?<![^.])(?:0|[1-9][0-9]*)(?![^.])")  # one that can be counted: 1, not 01
_DIGITS = re.compile(r"(\d+)")
# Hints, not a table of architectures: how output heads and input embeddings are called in practice.
_HEADS = ("lm_head.weight", "embed_out.weight", "cls.predictions.decoder.weight")
_EMBEDDINGS = (
    "embed_tokens.weight",
    "wte.weight",
    "word_embeddings.weight",
    "shared.weight",
    "tok_embeddings.weight",
    "embed_in.weight",
)
_MIN_SHARED_SUFFIXES = 3


@dataclass(frozen=True)
class Layer:
    """A position in a layer stack: `model.layers`, 3 of 32."""

    stack: str
    index: int
    count: int
    within: range | None = field(default=None, repr=False)
    """The layers of its slice; None for all."""

    @property
    def t(self) -> float:
        """The position in [0, 1] within its slice; 1 in a slice of one layer, as in mergekit."""
        within = self.within or range(self.count)
        return (self.index - within.start) / (len(within) - 1) if len(within) > 1 else 1.0


def natural(name: str) -> tuple[Any, ...]:
    """A sort key under which layer 2 comes before layer 10."""
    parts = tuple(int(part) if part.isdecimal() else part for part in _DIGITS.split(name))
    return parts, name  # the name itself tells 1 from 01


def layers_of(names: Iterable[str], layer_counts: Iterable[int] = ()) -> dict[str, Layer]:
    """The layer of every tensor that lies in a layer stack, found from the names alone.

    A stack is what precedes the first number in a name, if the numbers run from 0 without a gap and the layers
    share at least three tensors - or if a config names that many layers (`layer_counts`).

    >>> layers_of(["h.0.w", "h.1.w", "h.1.b", "wte.w"], layer_counts=[2])["h.1.b"]
    Layer(stack='h', index=1, count=2)
    """
    suffixes: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    found: list[tuple[str, str, int]] = []
    for name in names:
        match = _NUMBER.search(name)
        if match:
            stack, index = name[: match.start()].rstrip("."), int(match.group())
            suffixes[stack][index].add(name[match.end() :])
            found.append((name, stack, index))
    counts = {stack: len(layers) for stack, layers in suffixes.items() if _is_stack(layers, set(layer_counts))}
    return {name: Layer(stack, index, counts[stack]) for name, stack, index in found if stack in counts}


def _is_stack(layers: Mapping[int, set[str]], layer_counts: set[int]) -> bool:
    if max(layers) != len(layers) - 1:
        return False
    shared = set.intersection(*layers.values())
    return len(layers) in layer_counts or (len(layers) > 1 and len(shared) >= _MIN_SHARED_SUFFIXES)


def layer_counts_of(config: Mapping[str, Any] | None) -> set[int]:
    """Every number of layers a config mentions, nested configs included."""
    counts: set[int] = set()
    for key, value in (config or {}).items():
        if isinstance(value, dict):
            counts |= layer_counts_of(value)
        elif type(value) is int and "layer" in key and value > 0:
            counts.add(value)
    return counts


def is_head(name: str) -> bool:
    """Whether a tensor is an output head, which may be tied to the input embedding."""
    return any(name == head or name.endswith("." + head) for head in _HEADS)


def is_embedding(name: str) -> bool:
    """Whether a tensor is an input embedding, one row per token."""
    return any(name == tail or name.endswith("." + tail) for tail in _EMBEDDINGS)


def has_vocabulary(name: str) -> bool:
    """Whether the first axis of a tensor counts tokens."""
    return is_head(name) or is_embedding(name)


def vocabulary_axis(name: str, shape: Sequence[int], size: int | None) -> int | None:
    """The axis of a tensor that counts tokens; None where none does.

    Known by name are heads and embeddings. Of other tensors - biases of heads, names that are not known - it is the
    one axis that is `size` long, if only axes of length 1 come before it; `size` is None where lengths tell nothing.
    """
    if has_vocabulary(name) and len(shape) > 0:
        return 0
    axes = [axis for axis, length in enumerate(shape) if length == size]
    return axes[0] if len(axes) == 1 and set(shape[: axes[0]]) <= {1} else None


def is_behind(name: str) -> bool:
    """Whether a tensor outside the layers comes after them: a head or a final norm, by its name."""
    words = name.lower()
    return not is_embedding(name) and not any(part in words for part in ("emb", "wte", "wpe", "patch", "pos"))


def few(names: Iterable[str], most: int = 3) -> str:
    """Names as part of a sentence: folded, the first groups, and how many more there are.

    >>> few(["a.0", "a.1", "b", "c"], 2)
    'a.{0-1}, b and 1 more group'
    """
    groups = fold(names)
    more = f" and {count(len(groups) - most, 'more group')}" if len(groups) > most else ""
    return ", ".join(groups[:most]) + more


class Folded(NamedTuple):
    """Names that differ in numbers alone: the text around the numbers, and for each of them runs from first to last."""

    between: tuple[str, ...]
    runs: tuple[tuple[tuple[int, int], ...], ...]

    @property
    def first(self) -> str:
        """The first of the names."""
        firsts = [*(str(runs[0][0]) for runs in self.runs), ""]
        return "".join(part + number for part, number in zip(self.between, firsts, strict=True))

    def __str__(self) -> str:
        """`a.{0-2,5}.w`; a single number stands for itself."""
        return "".join(part + text for part, text in zip(self.between, [*map(_runs_text, self.runs), ""], strict=True))


def fold(names: Iterable[str]) -> list[str]:
    """Names written short, exactly: `model.layers.{0-31}.mlp.up_proj.weight`.

    >>> fold(["a.0.w", "a.1.w", "a.2.w", "b"])
    ['a.{0-2}.w', 'b']
    """
    return list(map(str, folded(names)))


def folded(names: Iterable[str]) -> list[Folded]:
    """The same before it is text, for those who unfold it again."""
    templates: dict[tuple[str, ...], set[tuple[int, ...]]] = {}
    for name in names:
        between = tuple(_PLAIN_NUMBER.split(name))
        templates.setdefault(between, set()).add(tuple(int(number) for number in _PLAIN_NUMBER.findall(name)))
    return [
        Folded(between, tuple(map(_runs, box))) for between, numbers in templates.items() for box in _boxes(numbers)
    ]


def _boxes(numbers: set[tuple[int, ...]]) -> list[list[list[int]]]:
    """Tuples of numbers as products of lists: {(0, 1), (0, 2), (1, 1), (1, 2)} is [[[0, 1], [1, 2]]]."""
    if numbers == {()}:
        return [[]]
    rests: dict[int, set[tuple[int, ...]]] = {}
    for first, *rest in sorted(numbers):
        rests.setdefault(first, set()).add(tuple(rest))
    heads: dict[frozenset[tuple[int, ...]], list[int]] = {}
    for first, tails in rests.items():
        heads.setdefault(frozenset(tails), []).append(first)
    return [[firsts, *box] for tails, firsts in heads.items() for box in _boxes(set(tails))]


def _runs(numbers: list[int]) -> tuple[tuple[int, int], ...]:
    """Sorted numbers as runs: [0, 1, 2, 5] is ((0, 2), (5, 5))."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return tuple(runs)


def _runs_text(runs: tuple[tuple[int, int], ...]) -> str:
    texts = [str(first) if first == last else f"{first}-{last}" for first, last in runs]
    return texts[0] if runs == ((runs[0][0], runs[0][0]),) else "{" + ",".join(texts) + "}"
