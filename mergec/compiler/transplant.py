"""Transplant: from a model and the donor of a tokenizer to the plan of the model with that tokenizer."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from mergec.compiler.align import rows_of, vocabulary_axes
from mergec.compiler.lower import Lowered
from mergec.compiler.models import Model, open_model
from mergec.compiler.names import has_vocabulary, is_head
from mergec.compiler.nested import at, parts, set_rows
from mergec.compiler.passes import rewrite
from mergec.compiler.schedule import Options, schedule
from mergec.compiler.sidefiles import copied_file, index_text, json_text, written_file
from mergec.compiler.templates import json_file
from mergec.compiler.tokenizer import GENERATION_NAME, ID_ENDS
from mergec.errors import UsageError, count
from mergec.graph import Attr, Graph, Node, TensorType, slots_of
from mergec.io.checkpoint import INDEX_NAME, is_tokenizer_file
from mergec.io.layout import SideFile
from mergec.io.tensors import FLOATS, TensorRef
from mergec.io.vocabulary import FAST_NAME, Vocabulary, open_tokenizer, read_vocabulary
from mergec.io.words import Token, Word, numbers_of, tokens_of
from mergec.ops.basic import cast, load
from mergec.ops.embed import index_text as rows_text
from mergec.ops.transplant import (
    Scheme,
    Subword,
    transplant_bias,
    transplant_drawn,
    transplant_nearest,
    transplant_omp,
    transplant_rotated,
    transplant_subword,
)
from mergec.plan import ModelUse, Plan

Approximation = Literal[
    "omp", "common_interpolation", "landmark_pca", "subword", "mean", "zero", "randn", "john_hewitt"
]
Where = Literal["no", "yes", "embed", "lm_head"]
_DRAWN = ("mean", "zero", "randn", "john_hewitt")
_IDS = tuple(f"{role}_token_id" for role in ("bos", "eos", "pad", "unk", "mask"))


@dataclass(frozen=True)
class Wanted:
    """How rows of new tokens are made: of `k` shared tokens, of pieces, as their longest prefix is, and so on."""

    approximation: Approximation = "omp"
    k: int = 64
    weight_scheme: Scheme = "distance_proportional"
    cosine_similarity: bool = False
    subword_method: Subword = "mean"
    prefix_match: Where = "no"
    byte_match: Where = "no"
    new_vocab_noise: float = 0.0
    new_vocab_scale: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Transplanted:
    """What became of the rows of a tensor that has one per token: how many of each kind, and how new ones are made."""

    tensor: str
    copied: int
    by_byte: int
    by_prefix: int
    approximated: int
    approximation: str
    zero: int

    def __str__(self) -> str:
        counts = {
            "rows copied": self.copied,
            "copied from a byte or its letter": self.by_byte,
            "copied from a prefix": self.by_prefix,
            f"by {self.approximation}": self.approximated,
            "zero": self.zero,
        }
        said = [f"{number:,} {what}" for what, number in counts.items() if number or what == "rows copied"]
        return f"{self.tensor}: {', '.join(said)}"


@dataclass(frozen=True)
class Transplant:
    """The plan of a model with another tokenizer, and what becomes of the tensors with a row per token."""

    plan: Plan
    tensors: tuple[Transplanted, ...]


@dataclass
class _Rows:
    """For each row of the result the model's row that it copies, or -1, and how it was found; and those to be made."""

    kept: list[int]
    wanted: list[int]
    found: dict[str, int] = field(default_factory=lambda: {"exact": 0, "byte": 0, "prefix": 0})

    @property
    def indices(self) -> dict[str, str]:
        return {"kept": rows_text(self.kept), "wanted": rows_text(self.wanted)}

    @property
    def to_make(self) -> list[int]:
        return [row for row in self.wanted if row >= 0]


def compile_transplant(model: str, donor: str, wanted: Wanted, options: Options) -> Transplant:
    """The plan of `model` with the tokenizer of `donor`: a row for each of its tokens, everything else copied.

    Tokens of both keep the model's rows. Raises InputError for models that cannot be read, UsageError where one has
    no tokenizer (E710), no tensor has a row per token that can be given another place (E711), too few tokens are
    shared (E712), or a model is not as it is stored (E713).
    """
    opened = _open(model), _open(donor)
    vocabularies = [_vocabulary(one) for one in opened]
    made = _Made(opened, vocabularies, wanted)
    for name, ref in opened[0].checkpoint.tensors.items():
        made.add(name, ref)
    if not made.tensors:
        raise UsageError("E711", f"no tensor of '{model}' has a row per token", "is it a language model?")
    plan = schedule(made.lowered, made.graph, [f for one in opened for f in one.checkpoint.files], options)
    index = [SideFile(INDEX_NAME, text=index_text(plan.outputs, plan.shards), is_record=True)]
    uses = zip(("model", "donor of the tokenizer"), opened, strict=True)
    plan = replace(
        plan,
        name=f"{Path(model).name}-with-tokens-of-{Path(donor).name}",
        method=f"tokens, {wanted.approximation}",
        slots=("model", "donor"),
        models=tuple(ModelUse(role, one.reference, one.checkpoint.origin, one.found) for role, one in uses),
        side_files=(*_side_files(*opened, vocabularies[1]), *(index if len(plan.shards) > 1 else ())),
        notes=tuple(map(str, made.tensors)),
    )
    return Transplant(plan, tuple(made.tensors))


def _open(reference: str) -> Model:
    """A model whose tensors are those that are stored: quantised ones are copied as they are."""
    model = open_model(reference, Path(), as_stored=True)
    if model.beside or model.checkpoint.adapter is not None:
        what = (
            f"'{reference}' is computed from a model and an adapter, and tokens are given to models as they are stored"
        )
        raise UsageError("E713", what, "write the sum first: mergec run with merge_method: passthrough")
    return model


def _vocabulary(model: Model) -> Vocabulary:
    found = read_vocabulary(model.reference, model.checkpoint.side_files)
    if found is None:
        raise UsageError("E710", f"'{model.reference}' has no tokenizer", "it needs tokenizer.json or vocab.json")
    return found


class _Made:
    """The tensors of the result as graphs, and what was done for each that has a row per token."""

    def __init__(self, opened: tuple[Model, Model], vocabularies: Sequence[Vocabulary], wanted: Wanted) -> None:
        self.model, self.donor = opened
        self.wanted = wanted
        self.graph = Graph()
        self.lowered: list[Lowered] = []
        self.tensors: list[Transplanted] = []
        self._own, theirs = vocabularies
        self._size, self._tokens = theirs.size, tokens_of(theirs)
        self._known = numbers_of(tokens_of(self._own))
        self._axes = vocabulary_axes(self.model, self.model.checkpoint.tensors)

    def add(self, name: str, ref: TensorRef) -> None:
        if name not in self._axes:
            self._add(name, load(self.graph, 0, TensorType(ref.shape, ref.dtype, "weight")), {0: ref})
            return
        _floats(self.model, name)
        if self._axes[name] == len(ref.shape) - 1:
            rows = self._rows(ref.shape[-1], self._size, name, exact=True)
            self._finish(name, ref, transplant_bias(self._part(0, ref), kept=rows.indices["kept"]), {0: ref}, rows, 0)
            return
        if len(ref.shape) != 2 or self._axes[name] != 0:
            what = f"{name} of '{self.model.reference}' has the shape {list(ref.shape)}, expected a row per token"
            raise UsageError("E711", what, "tokens are given to matrices, tokens x hidden, and to biases")
        source = self._of_donor(name)
        rows = self._rows(ref.shape[0], source.shape[0], name)
        made, number = self._approximated(name, ref, source, rows)
        self._finish(name, ref, made, {0: ref, 1: source}, rows, number)

    def _approximated(self, name: str, ref: TensorRef, source: TensorRef, rows: _Rows) -> tuple[Node, int]:
        """The graph of a table, and how many rows it approximates."""
        wanted, table, number = self.wanted, self._part(0, ref), len(rows.to_make)
        after: dict[str, Attr] = {"noise": wanted.new_vocab_noise, "scale": wanted.new_vocab_scale, "seed": wanted.seed}
        if wanted.approximation in _DRAWN or not number:
            return transplant_drawn(
                table, **rows.indices, how=wanted.approximation if number else "zero", **after
            ), number
        if wanted.approximation == "subword":
            pieces = tuple(self._pieces(rows.to_make, ref.shape[0]))
            more = {"how": wanted.subword_method, "is_head": is_head(name), **after}
            return transplant_subword(table, kept=rows.indices["kept"], pieces=pieces, **more), len(pieces)
        theirs = self._part(1, source)
        self._check_shared(rows)
        if wanted.approximation == "landmark_pca":
            return transplant_rotated(table, theirs, **rows.indices, **after), number
        if wanted.approximation == "omp":
            return transplant_omp(table, theirs, **rows.indices, k=wanted.k, **after), number
        near = {"scheme": wanted.weight_scheme, "cosine": wanted.cosine_similarity, **after}
        return transplant_nearest(table, theirs, **rows.indices, k=wanted.k, **near), number

    def _check_shared(self, rows: _Rows) -> None:
        """Whether there are enough tokens of both to make up new ones."""
        shared = sum(row >= 0 for row in rows.kept)
        needed = 2 if self.wanted.approximation == "landmark_pca" else self.wanted.k
        if rows.to_make and shared < needed:
            both = f"'{self.model.reference}' and '{self.donor.reference}'"
            what = f"{both} share {count(shared, 'token')}, and {needed} of them make up a new one"
            hint = f"-k {shared}, or --approximation-method subword" if shared > 0 and needed > 2 else "try subword"
            raise UsageError("E712", what, hint)

    def _finish(
        self, name: str, ref: TensorRef, made: Node, refs: Mapping[int, TensorRef], rows: _Rows, approximated: int
    ) -> None:
        self._add(name, rewrite(cast(made, dtype=ref.dtype)), refs)
        zero = self._size - sum(rows.found.values()) - approximated
        exact, byte, prefix = rows.found.values()
        self.tensors.append(Transplanted(name, exact, byte, prefix, approximated, self.wanted.approximation, zero))

    def _add(self, name: str, root: Node, refs: Mapping[int, TensorRef]) -> None:
        sources = tuple(refs[slot] for slot in slots_of(root))
        self.lowered.append(Lowered(name, root, sources, identity=frozenset({"tokens"})))

    def _part(self, slot: int, ref: TensorRef) -> Node:
        compute = "float64" if ref.dtype == "float64" else "float32"
        return cast(load(self.graph, slot, TensorType(ref.shape, ref.dtype, "part")), dtype=compute)

    def _of_donor(self, name: str) -> TensorRef:
        """The donor's tensor of the same use: its head for a head, unless it is tied to the embedding."""
        tensors = self.donor.checkpoint.tensors
        wanted = [one for one in tensors if has_vocabulary(one) and len(tensors[one].shape) == 2]
        alike = [one for one in wanted if is_head(one) == is_head(name)]
        if not wanted:
            raise UsageError("E711", f"no tensor of '{self.donor.reference}' has a row per token", "name another donor")
        return _floats(self.donor, (alike or wanted)[0])

    def _rows(self, own_rows: int, their_rows: int, name: str, exact: bool = False) -> _Rows:
        """What each row of the donor's vocabulary is made from; with `exact`, only tokens of both are known."""
        rows = _Rows([-1] * self._size, [-1] * self._size)
        known = {word: number for word, number in self._known.items() if number < own_rows}
        bytes_too, prefixes_too = (
            not exact and where in ("yes", "lm_head" if is_head(name) else "embed")
            for where in (self.wanted.byte_match, self.wanted.prefix_match)
        )
        for row, token in self._tokens.items():
            if row >= min(self._size, their_rows):
                continue
            for how, number in _found(token, known, bytes_too, prefixes_too):
                rows.kept[row] = number
                rows.found[how] += 1
                break
            else:
                rows.wanted[row] = row
        return rows

    def _pieces(self, rows: Sequence[int], own_rows: int) -> Iterator[tuple[int, ...]]:
        """Each row with the numbers of the tokens that the model's tokenizer cuts its text into; none without text."""
        path = Path(self._own.file)
        if path.name != FAST_NAME:
            what = f"the tokenizer of '{self.model.reference}' has no {FAST_NAME}, which subwords are cut by"
            raise UsageError("E710", what, "load it with transformers' AutoTokenizer and save it again")
        tokenizer = open_tokenizer(self._own.file)
        puts_space = tokenizer.encode("a", add_special_tokens=False).tokens[:1] in (["▁a"], ["▁"])
        for row in rows:
            text = self._tokens[row].text
            if puts_space and len(text) > 1:  # which it puts before a text by itself
                text = text.removeprefix(" ")
            numbers = tokenizer.encode(text, add_special_tokens=False).ids if text else []
            if numbers and max(numbers) < own_rows:
                yield (row, *numbers)


def _floats(model: Model, name: str) -> TensorRef:
    """A tensor with a row per token; refused if these are no numbers to reckon with."""
    found = model.checkpoint.tensors[name]
    if found.dtype not in FLOATS:
        what = f"{name} of '{model.reference}' has a row per token, and is {found.dtype}"
        raise UsageError("E711", what, "rows are made of floats: name the model before it was quantised")
    return found


def _found(token: Token, known: Mapping[Word, int], bytes_too: bool, prefixes_too: bool) -> Iterator[tuple[str, int]]:
    """The model's rows that a token may copy, the best first, and how each was found."""
    ways: list[tuple[str, Iterator[Word]]] = [("exact", iter(token.words))]
    ways += [("byte", token.words[0].twins)] if bytes_too else []
    ways += [("prefix", token.words[0].prefixes)] if prefixes_too else []
    return ((how, known[word]) for how, words in ways for word in words if word in known)


def _side_files(model: Model, donor: Model, vocabulary: Vocabulary) -> tuple[SideFile, ...]:
    """The donor's tokenizer, the model's other files, and its configs with the donor's size and token ids."""
    own = {name: path for name, path in model.checkpoint.side_files.items() if not is_tokenizer_file(name)}
    theirs = {name: path for name, path in donor.checkpoint.side_files.items() if is_tokenizer_file(name)}
    made = {name: copied_file(name, path) for name, path in {**own, **theirs}.items()}
    ids = _ids(donor, vocabulary)
    if model.checkpoint.config is not None:
        before = rows_of(model)
        config = _with_ids(model.checkpoint.config, donor.checkpoint.config or {}, ids, vocabulary.size, before)
        config |= {key: ids[key] for key in _IDS if key in ids and key not in config and _has_ids(config)}
        made["config.json"] = written_file("config.json", json_text(config))
    if GENERATION_NAME in own:
        path = donor.checkpoint.side_files.get(GENERATION_NAME)
        generation = json_file(own[GENERATION_NAME])
        more = {**ids, **(json_file(path) if path else {})}
        changed = {key: more.get(key) if key.endswith(ID_ENDS) else value for key, value in generation.items()}
        made[GENERATION_NAME] = written_file(GENERATION_NAME, json_text(changed))
    return tuple(sorted(made.values(), key=lambda file: file.name))


def _ids(donor: Model, vocabulary: Vocabulary) -> dict[str, Any]:
    """The donor's token ids: those of its config, else those of its tokenizer's special tokens."""
    special = {f"{role}_id": vocabulary.ids[one] for role, one in vocabulary.special.items() if one in vocabulary.ids}
    configs = (donor.checkpoint.text_config, donor.checkpoint.config or {})
    said = ((key, value) for config in configs for key, value in config.items() if key.endswith(ID_ENDS))
    return {**special, **{key: value for key, value in said if value is not None}}


def _has_ids(config: Mapping[str, Any]) -> bool:
    """Whether ids stand here, and not in a config inside."""
    return any(key in config for key in _IDS) or "text_config" not in config


def _with_ids(
    config: Mapping[str, Any], donor: Mapping[str, Any], ids: Mapping[str, Any], size: int, before: int | None
) -> dict[str, Any]:
    """A config, and those in it, with the donor's size and token ids; None for an id that the donor does not name."""
    made = copy.deepcopy(dict(config))
    set_rows(made, before, size)
    for path, part in parts(made):
        theirs = at(donor, path)
        for key in part:
            if key.endswith(ID_ENDS):
                part[key] = theirs[key] if theirs.get(key) is not None else ids.get(key)
    return made
