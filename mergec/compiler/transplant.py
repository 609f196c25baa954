"""Transplant: from a model and the donor of a tokenizer to the plan of the model with that tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mergec.compiler.align import rows_of
from mergec.compiler.inventory import Model, open_model
from mergec.compiler.lower import Lowered
from mergec.compiler.names import has_vocabulary, is_head, vocabulary_axis
from mergec.compiler.passes import rewrite
from mergec.compiler.schedule import Options, schedule
from mergec.compiler.sidefiles import copied_file, index_text, json_text, written_file
from mergec.errors import UsageError, count
from mergec.graph import Graph, Node, TensorType, slots_of
from mergec.io.checkpoint import INDEX_NAME, is_tokenizer_file
from mergec.io.layout import SideFile
from mergec.io.tensors import FLOATS, TensorRef
from mergec.io.vocabulary import FAST_NAME, Vocabulary, read_vocabulary
from mergec.io.words import words_of
from mergec.ops.basic import cast, load
from mergec.ops.embed import index_text as rows_text
from mergec.ops.transplant import (
    Scheme,
    Subword,
    transplant_nearest,
    transplant_omp,
    transplant_plain,
    transplant_subword,
)
from mergec.plan import ModelUse, Plan

Approximation = Literal["omp", "common_interpolation", "subword", "mean", "zero", "randn"]
Where = Literal["no", "yes", "embed", "lm_head"]
_FROM_DONOR = ("omp", "common_interpolation")


@dataclass(frozen=True)
class Wanted:
    """How rows of new tokens are made: of `k` shared tokens, of pieces, as their longest prefix is, and so on."""

    approximation: Approximation = "omp"
    k: int = 64
    weight_scheme: Scheme = "distance_proportional"
    cosine_similarity: bool = False
    subword_method: Subword = "mean"
    prefix_match: Where = "no"
    seed: int = 0

    def matches_prefixes(self, name: str) -> bool:
        return self.prefix_match in ("yes", "lm_head" if is_head(name) else "embed")


@dataclass(frozen=True)
class _Rows:
    """For each row of the result the model's row that it copies, or -1; which are new; how many are which."""

    kept: tuple[int, ...]
    wanted: tuple[int, ...]
    by_prefix: int

    @property
    def copied(self) -> int:
        return sum(row >= 0 for row in self.kept) - self.by_prefix


def compile_transplant(model: str, donor: str, wanted: Wanted, options: Options) -> Plan:
    """The plan of `model` with the tokenizer of `donor`: a row for each of its tokens, everything else copied.

    Tokens of both keep the model's rows. Raises InputError for models that cannot be read, UsageError where one has
    no tokenizer (E710), no tensor has a row per token (E711), or too few tokens are shared (E712).
    """
    opened = open_model(model, Path()), open_model(donor, Path())
    own, theirs = (_vocabulary(one) for one in opened)
    made = _Made(opened[0], opened[1], own, theirs, wanted)
    for name, ref in opened[0].checkpoint.tensors.items():
        made.add(name, ref)
    if not made.notes:
        raise UsageError("E711", f"no tensor of '{model}' has a row per token", "is it a language model?")
    plan = schedule(made.lowered, made.graph, [f for one in opened for f in one.checkpoint.files], options)
    index = [SideFile(INDEX_NAME, text=index_text(plan.outputs, plan.shards), is_record=True)]
    uses = zip(("model", "donor of the tokenizer"), opened, strict=True)
    return replace(
        plan,
        name=f"{Path(model).name}-with-tokens-of-{Path(donor).name}",
        method=f"tokens, {wanted.approximation}",
        slots=("model", "donor"),
        models=tuple(ModelUse(role, one.reference, one.checkpoint.origin, one.found) for role, one in uses),
        side_files=(*_side_files(*opened, theirs), *(index if len(plan.shards) > 1 else ())),
        notes=tuple(made.notes),
    )


def _vocabulary(model: Model) -> Vocabulary:
    found = read_vocabulary(model.reference, model.checkpoint.side_files)
    if found is None:
        raise UsageError("E710", f"'{model.reference}' has no tokenizer", "it needs tokenizer.json or vocab.json")
    return found


class _Made:
    """The tensors of the result as graphs, and what was done for each that has a row per token."""

    def __init__(self, model: Model, donor: Model, own: Vocabulary, theirs: Vocabulary, wanted: Wanted) -> None:
        self.model, self.donor, self.wanted = model, donor, wanted
        self.graph = Graph()
        self.lowered: list[Lowered] = []
        self.notes: list[str] = []
        self._own_file, self._size = own.file, theirs.size
        self._own, self._theirs = words_of(own), words_of(theirs)
        self._rows = rows_of(model)

    def add(self, name: str, ref: TensorRef) -> None:
        axis = vocabulary_axis(name, ref.shape, self._rows)
        if axis != 0 or ref.dtype not in FLOATS:
            self._add(name, self._load(0, ref), {0: ref})
            return
        if len(ref.shape) == 1:
            rows = self._rows_of(ref.shape[0], self._size, prefixes=False)
            made = transplant_plain(self._part(0, ref), **_indices(rows), how="zero", seed=0, stream="")
            self._finish(name, ref, made, {0: ref}, rows, "zero")
            return
        source = self._of_donor(name)
        rows = self._rows_of(ref.shape[0], source.shape[0], prefixes=self.wanted.matches_prefixes(name))
        made, how = self._approximated(name, ref, source, rows)
        self._finish(name, ref, made, {0: ref, 1: source}, rows, how)

    def _approximated(self, name: str, ref: TensorRef, source: TensorRef, rows: _Rows) -> tuple[Node, str]:
        wanted, table = self.wanted, self._part(0, ref)
        if wanted.approximation == "subword":
            how = f"{wanted.subword_method} of a head" if is_head(name) else wanted.subword_method
            pieces = tuple(self._pieces(rows, ref.shape[0]))
            return transplant_subword(table, kept=rows_text(rows.kept), pieces=pieces, how=how), "their subwords"
        if wanted.approximation not in _FROM_DONOR:
            made = transplant_plain(
                table, **_indices(rows), how=wanted.approximation, seed=wanted.seed, stream="tokens"
            )
            return made, wanted.approximation
        if any(row >= 0 for row in rows.wanted) and rows.copied < wanted.k:
            both = f"'{self.model.reference}' and '{self.donor.reference}'"
            what = f"{both} share {count(rows.copied, 'token')}, and {wanted.k} of them make up a new one"
            hint = f"-k {rows.copied}, or --approximation-method subword" if rows.copied else "try subword"
            raise UsageError("E712", what, hint)
        theirs = self._part(1, source)
        if wanted.approximation == "omp":
            return transplant_omp(table, theirs, **_indices(rows), k=wanted.k), f"omp of {wanted.k}"
        more = {"scheme": wanted.weight_scheme, "cosine": wanted.cosine_similarity}
        return transplant_nearest(table, theirs, **_indices(rows), k=wanted.k, **more), f"the nearest {wanted.k}"

    def _finish(
        self, name: str, ref: TensorRef, made: Node, refs: Mapping[int, TensorRef], rows: _Rows, how: str
    ) -> None:
        self._add(name, rewrite(cast(made, dtype=ref.dtype)), refs)
        fresh = sum(row >= 0 for row in rows.wanted)
        prefixes = f"{rows.by_prefix:,} copied from a prefix, " if rows.by_prefix else ""
        empty = len(rows.kept) - fresh - rows.copied - rows.by_prefix
        zeros = f", {empty:,} zero" if empty else ""
        self.notes.append(f"{name}: {rows.copied:,} rows copied, {prefixes}{fresh:,} by {how}{zeros}")

    def _add(self, name: str, root: Node, refs: Mapping[int, TensorRef]) -> None:
        sources = tuple(refs[slot] for slot in slots_of(root))
        self.lowered.append(Lowered(name, root, sources, identity=frozenset({"tokens"})))

    def _load(self, slot: int, ref: TensorRef) -> Node:
        return load(self.graph, slot, TensorType(ref.shape, ref.dtype, "weight"))

    def _part(self, slot: int, ref: TensorRef) -> Node:
        compute = "float64" if ref.dtype == "float64" else "float32"
        return cast(load(self.graph, slot, TensorType(ref.shape, ref.dtype, "part")), dtype=compute)

    def _of_donor(self, name: str) -> TensorRef:
        """The donor's tensor of the same use: its head for a head, unless it is tied to the embedding."""
        tensors = self.donor.checkpoint.tensors
        wanted = [one for one in tensors if has_vocabulary(one) and len(tensors[one].shape) > 1]
        alike = [one for one in wanted if is_head(one) == is_head(name)]
        if not wanted:
            raise UsageError("E711", f"no tensor of '{self.donor.reference}' has a row per token", "name another donor")
        return tensors[(alike or wanted)[0]]

    def _rows_of(self, own_rows: int, their_rows: int, prefixes: bool) -> _Rows:
        kept, wanted, by_prefix = [-1] * self._size, [-1] * self._size, 0
        known = {word: number for word, number in self._own.items() if number < own_rows}
        for word, row in self._theirs.items():
            if row >= min(self._size, their_rows):
                continue
            if word in known:
                kept[row] = known[word]
            elif prefixes and (found := next((known[one] for one in word.prefixes if one in known), None)) is not None:
                kept[row] = found
                by_prefix += 1
            else:
                wanted[row] = row
        return _Rows(tuple(kept), tuple(wanted), by_prefix)

    def _pieces(self, rows: _Rows, own_rows: int) -> Iterator[tuple[int, ...]]:
        """Each new row with the numbers of the tokens that the model's tokenizer cuts its text into."""
        from tokenizers import Tokenizer

        path = Path(self._own_file)
        if path.name != FAST_NAME:
            what = f"the tokenizer of '{self.model.reference}' has no {FAST_NAME}, which subwords are cut by"
            raise UsageError("E710", what, "load it with transformers' AutoTokenizer and save it again")
        tokenizer = Tokenizer.from_file(str(path))
        text_of = {row: word.text for word, row in self._theirs.items()}
        for row in rows.wanted:
            if row >= 0 and text_of[row]:
                numbers = tokenizer.encode(text_of[row], add_special_tokens=False).ids
                if numbers and max(numbers) < own_rows:
                    yield (row, *numbers)


def _indices(rows: _Rows) -> dict[str, str]:
    return {"kept": rows_text(rows.kept), "wanted": rows_text(rows.wanted)}


def _side_files(model: Model, donor: Model, vocabulary: Vocabulary) -> tuple[SideFile, ...]:
    """The donor's tokenizer, the model's other files, and its config with the donor's size and token ids."""
    own = {name: path for name, path in model.checkpoint.side_files.items() if not is_tokenizer_file(name)}
    theirs = {name: path for name, path in donor.checkpoint.side_files.items() if is_tokenizer_file(name)}
    made = [copied_file(name, path) for name, path in {**own, **theirs}.items()]
    if model.checkpoint.config is not None:
        config = _with_ids(model.checkpoint.config, donor.checkpoint.config or {}, vocabulary.size)
        made.append(written_file("config.json", json_text(config)))
    return tuple(sorted(made, key=lambda file: file.name))


def _with_ids(config: Mapping[str, Any], donor: Mapping[str, Any], size: int) -> dict[str, Any]:
    """A config, and those in it, with the donor's token ids; None for one that the donor does not name."""
    made: dict[str, Any] = {}
    for key, value in config.items():
        if key.endswith("_config") and isinstance(value, dict):
            nested = donor.get(key)
            made[key] = _with_ids(value, nested if isinstance(nested, dict) else donor, size)
        elif key == "vocab_size":
            made[key] = size
        else:
            made[key] = donor.get(key) if key.endswith("_token_id") else value
    return made
