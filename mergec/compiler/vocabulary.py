"""Vocabulary: the tokens of the result, from those of the models and what the recipe says of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from mergec.compiler.align import Alignment, Numbered, Target, rows_of
from mergec.compiler.models import Model
from mergec.compiler.names import has_vocabulary
from mergec.errors import InputError, Place, Problem, count, first_few, near
from mergec.io.checkpoint import is_absent, is_tokenizer_file
from mergec.io.hub import is_hub_path
from mergec.io.vocabulary import CONVERT, FAST_NAME, AddedToken, Vocabulary, read_vocabulary
from mergec.recipe.schema import Recipe, TokenizerEntry, TokenSource
from mergec.recipe.vocabulary import TRUNCATE, UNION, vocabulary_source


@dataclass(frozen=True)
class Chosen:
    """The vocabulary of a result: how rows are aligned, and what its tokenizer is.

    Its files are those of the model `donor`, without the tokens that are `removed` and with those that are
    `appended`; `vocabulary` is the donor's own, None where it has no tokenizer.
    """

    alignment: Alignment
    donor: str
    vocabulary: Vocabulary | None = field(repr=False)
    removed: tuple[str, ...] = ()
    appended: tuple[AddedToken, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def gone(self) -> tuple[str, ...]:
        """The tokens that the result lacks: others are taken out and come back with another number."""
        back = {one.content for one in self.appended}
        return tuple(token for token in self.removed if token not in back)

    @property
    def is_new(self) -> bool:
        """Whether the donor's files do not say it as they are."""
        return bool(self.removed or self.appended)


def choose(recipe: Recipe, used: Collection[str], models: Mapping[str, Model]) -> tuple[Chosen | None, list[Problem]]:
    """The vocabulary that a recipe asks for, None where it says nothing; or why there is none, with warnings.

    `used` are the models that take part in the merge.
    """
    entry, source = recipe.vocabulary, vocabulary_source(recipe)
    if entry is None or source is None:
        return None, []
    chooser = _Chooser(recipe, entry, models)
    chosen = chooser.cropped() if source == TRUNCATE and source not in models else chooser.chosen(source, used)
    errors = any(problem.is_error for problem in chooser.problems)
    return (None if errors else chosen), chooser.problems


def renumbered(models: Sequence[Model]) -> Iterator[Problem]:
    """Warnings of models whose tokens have other numbers than the first one's, where rows are merged by number.

    Only of models that are on this machine, and only tokenizers that can be read.
    """
    read = [(model, vocabulary) for model in models if (vocabulary := _local_vocabulary(model)) is not None]
    for model, vocabulary in read[1:]:
        first, expected = read[0]
        if vocabulary is expected:
            continue
        rows = min(rows_of(first) or 0, rows_of(model) or 0)
        moved = [
            token
            for number, token in vocabulary.tokens.items()
            if number < rows and expected.ids.get(token, number) != number
        ]
        if moved:
            found, others = vocabulary.ids[moved[0]], expected.ids[moved[0]]
            what = f"'{model.reference}' has other numbers for {count(len(moved), 'token')} than '{first.reference}', "
            what += f"such as {found} for {moved[0]!r} and not {others}, and rows are merged by number"
            yield Problem(model.place, "W351", what, "tokenizer_source: union, or base, merges them token by token")


def _local_vocabulary(model: Model) -> Vocabulary | None:
    files = _files(model)
    if any(is_absent(path) or is_hub_path(path) for path in files.values()):
        return None
    try:
        return read_vocabulary(model.reference, files)
    except InputError:
        return None


def _files(model: Model) -> dict[str, str]:
    """A model's tokenizer files, with their paths."""
    return {name: path for name, path in model.checkpoint.side_files.items() if is_tokenizer_file(name)}


class _Chooser:
    def __init__(self, recipe: Recipe, entry: TokenizerEntry, models: Mapping[str, Model]) -> None:
        self.recipe, self.entry = recipe, entry
        all_rows = {reference: rows_of(models[reference]) or 0 for reference in recipe.references}
        self.rows = {reference: rows for reference, rows in all_rows.items() if rows} or all_rows
        self.models = {reference: models[reference] for reference in self.rows}  # others have no row per token
        self.slots = {reference: recipe.slot(reference) for reference in self.models}
        self.place = recipe.document.place(recipe.vocabulary_path)
        self.problems: list[Problem] = []
        self.notes: list[str] = []

    def _refuse(self, place: Place, code: str, what: str, hint: str = "") -> None:
        self.problems.append(Problem(place, code, what, hint))

    def cropped(self) -> Chosen:
        """The rows that all models have, with the tokens of the first."""
        chosen = self._as_numbered(next(iter(self.models)))
        if any(map(is_absent, _files(self.models[chosen.donor]).values())):
            return chosen
        vocabulary = self._read(chosen.donor)
        if vocabulary is None:
            return chosen
        rows = chosen.alignment.target.rows
        beyond = tuple(token for number, token in vocabulary.tokens.items() if number >= rows)
        return self._checked(replace(chosen, vocabulary=vocabulary, removed=beyond))

    def _as_numbered(self, donor: str) -> Chosen:
        """Rows by their numbers alone."""
        rows = min(size for model in self.models.values() for size in _sizes(model)) if any(self.rows.values()) else 0
        numbered = {reference: Numbered({}, frozenset(), size) for reference, size in self.rows.items()}
        target = Target({}, rows, rows, crops=True)
        return Chosen(Alignment(target, numbered, self.slots, {}, None), donor, None)

    def chosen(self, source: str, used: Collection[str]) -> Chosen | None:
        """The tokens of a model, or of all, with those that the recipe adds."""
        donor = next(iter(self.models)) if source == UNION and source not in self.models else source
        if not any(self.rows.values()) or self._is_known_by_rows():
            return self._as_numbered(donor)
        if donor not in self.models:
            what = f"the tokens are to be those of '{donor}', which has no tensor with a row per token"
            self._refuse(self.place, "E356", what, f"take one of {', '.join(self.models)}")
            return None
        vocabularies = self._vocabularies(donor)
        if vocabularies is None:
            return self._as_numbered(donor)
        own = vocabularies[donor]
        numbered = {reference: self._numbered(reference, one) for reference, one in vocabularies.items()}
        numbers = dict(numbered[donor].tokens)
        self._note_strangers(donor, numbered)
        removed = tuple(token for token in own.ids if token not in numbers)
        added: list[AddedToken] = []
        if donor != source:
            added += _union(numbers, numbered, vocabularies)
        listed = {*numbers, *(one.content for one in added)}
        added += [_flagged(token, vocabularies.values()) for token in self.entry.tokens if token not in listed]
        self._check_tokens(numbered, used, {one.content for one in added})
        appended = tuple(self._placed(own, numbers, added))
        alignment = Alignment(
            self._target(numbers, self.rows[donor]), numbered, self.slots, self.entry.tokens, self.recipe.base_model
        )
        return self._checked(Chosen(alignment, donor, own, removed, appended, tuple(self.notes)))

    def _vocabularies(self, donor: str) -> dict[str, Vocabulary] | None:
        """The vocabulary of every model; one without a tokenizer has the donor's if it has as many rows."""
        read = {reference: self._read(reference) for reference in self.models}
        if any(problem.is_error for problem in self.problems):
            return None
        own = read[donor]
        if own is None:
            if len(set(self.rows.values())) > 1 or any(read.values()) or self.entry.tokens:
                what = f"the tokens are to be those of '{donor}', which has no tokenizer"
                self._refuse(self.place, "E356", what, "name a model that has one")
            return None
        found = {}
        for reference, vocabulary in read.items():
            found[reference] = vocabulary or own
            if vocabulary is None and self.rows[reference] != self.rows[donor]:
                what = f"'{reference}' has no tokenizer, and {count(self.rows[reference], 'row')} in its embedding, "
                what += f"'{donor}' has {self.rows[donor]:,}, so nothing says which rows are whose"
                self._refuse(self.models[reference].place, "E356", what, "add the model's tokenizer to its folder")
            elif vocabulary is None:
                self.notes.append(f"{reference} has no tokenizer, so its rows are taken for the tokens of {donor}")
        return found

    def _is_known_by_rows(self) -> bool:
        """Whether models that are not here have as many rows as the others, which then count as one vocabulary's."""
        absent = any(is_absent(path) for model in self.models.values() for path in _files(model).values())
        return absent and len(set(self.rows.values())) == 1 and not self.entry.tokens

    def _read(self, reference: str) -> Vocabulary | None:
        """A model's vocabulary; None where it has none."""
        model = self.models[reference]
        try:
            return read_vocabulary(reference, _files(model))
        except InputError as error:
            self.problems.append(error.at(model.place))
            return None

    def _numbered(self, reference: str, vocabulary: Vocabulary) -> Numbered:
        rows = self.rows[reference]
        tokens = {token: number for token, number in vocabulary.ids.items() if number < rows}
        beyond = len(vocabulary) - len(tokens)
        if beyond:
            what = f"{count(beyond, 'token')} of '{reference}' have numbers past the {rows:,} rows of its embedding, "
            what += f"and are passed over: {first_few(map(repr, sorted(set(vocabulary.ids) - tokens.keys())))}"
            self._refuse(self.models[reference].place, "W350", what, "is the tokenizer of this model?")
        return Numbered(tokens, frozenset(vocabulary.tokens), rows)

    def _note_strangers(self, donor: str, numbered: Mapping[str, Numbered]) -> None:
        """Say which tokenizers have too little in common for rows to be merged."""
        own = numbered[donor].tokens
        for reference, model in numbered.items():
            shared = len(model.tokens.keys() & own.keys())
            if 2 * shared < min(len(model.tokens), len(own)):
                what = f"'{reference}' shares {shared:,} of its {count(len(model.tokens), 'token')} with '{donor}', so "
                what += "most rows are merged with stand-ins"
                self._refuse(self.models[reference].place, "W352", what, "merge models of one family of tokenizers")

    def _check_tokens(self, numbered: Mapping[str, Numbered], used: Collection[str], fresh: Collection[str]) -> None:
        """Every token of the recipe has a row to begin with."""
        document = self.recipe.document
        for token, entry in self.entry.tokens.items():
            path = ("tokenizer", "tokens", token)
            if entry.source is None and token in fresh and not any(token in one.tokens for one in numbered.values()):
                what = f"no model has a token {token!r}, so it needs a source"
                hint = "add source: {kind: model_token, model: MODEL, token: TOKEN}, or source: {kind: zero}"
                self._refuse(document.key_place(path), "E354", what, hint)
            elif entry.source is not None and (wrong := _absent_row(token, entry.source, numbered, used)):
                self._refuse(document.place((*path, "source")), "E354", *wrong)

    def _placed(self, own: Vocabulary, numbers: dict[str, int], added: Iterable[AddedToken]) -> Iterator[AddedToken]:
        """Tokens with the numbers that the tokenizers library will give them when it reads the file."""
        plain = {token for token in numbers if token not in own.added or _is_plain(own, token)}
        last = max((number for token, number in numbers.items() if token in own.added), default=-1)
        following = max(len(plain), last + 1)
        taken = set(numbers.values())
        for one in added:
            if one.content in numbers:
                yield replace(one, id=numbers[one.content])
                continue
            if following in taken:
                what = f"the tokens of the result have gaps in their numbers, so {one.content!r} cannot follow them"
                self._refuse(self.place, "E357", what, "take the tokens of a model as they are")
                return
            numbers[one.content] = following
            yield replace(one, id=following)
            following += 1

    def _target(self, numbers: Mapping[str, int], rows: int) -> Target:
        """How many rows there are: those of the donor or more, or up to a multiple; in mergekit a row per token."""
        tokens, multiple = 1 + max(numbers.values(), default=-1), self.entry.pad_to_multiple_of
        if multiple:
            return Target(numbers, -(-tokens // multiple) * multiple, tokens, keeps=False)
        if self.recipe.compat == "mergekit":
            return Target(numbers, tokens, tokens, keeps=False)
        rows = max(tokens, rows)
        return Target(numbers, rows, rows)

    def _checked(self, chosen: Chosen) -> Chosen:
        """That the donor's files can be changed, where they must be."""
        if chosen.is_new and chosen.vocabulary is not None and chosen.vocabulary.document is None:
            why = "tokens are added" if chosen.appended else "tokens are taken out"
            what = f"{why}, and '{chosen.donor}' has no {FAST_NAME} that could be changed"
            self._refuse(self.place, "E357", what, CONVERT)
        return chosen


def _sizes(model: Model) -> list[int]:
    """The rows of the tensors that have one per token, or as many as the config says."""
    return [source.shape[0] for name, source in model.tensors.items() if has_vocabulary(name) and source.shape] or [
        rows_of(model) or 0
    ]


def _absent_row(
    token: str, source: TokenSource, numbered: Mapping[str, Numbered], used: Collection[str]
) -> tuple[str, str] | None:
    """Why the row that is to stand for a token does not exist, and a hint; None if it does."""
    if source.model is None:
        return None
    whence = f"the row of {token!r} is to come from '{source.model}'"
    if source.model not in used or source.model not in numbered:
        return f"{whence}, which takes no part in the merge", "name a model that is merged"
    model, wanted = numbered[source.model], token if source.token is None else source.token
    if source.token_id is not None and source.token_id >= model.rows:
        what = f"found token_id {source.token_id} for {token!r}, '{source.model}' has {model.rows:,} rows"
        return what, f"expected a number below {model.rows}"
    if source.token_id is None and wanted not in model.tokens:
        hint = near(wanted, sorted(model.tokens)[:20_000]) or "name one that it has"
        return f"{whence}, which has no token {wanted!r}", hint
    return None


def _flagged(token: str, vocabularies: Iterable[Vocabulary]) -> AddedToken:
    """A token to be added, with the flags of the first model that has it as such."""
    return next(
        (one.added[token] for one in vocabularies if token in one.added), AddedToken(token, -1, normalized=True)
    )


def _is_plain(vocabulary: Vocabulary, token: str) -> bool:
    """Whether an added token stands in the model's vocab too."""
    vocab = ((vocabulary.document or {}).get("model") or {}).get("vocab")
    if isinstance(vocab, list):
        return vocabulary.ids[token] < len(vocab)
    return isinstance(vocab, dict) and token in vocab


def _union(
    numbers: Mapping[str, int], numbered: Mapping[str, Numbered], vocabularies: Mapping[str, Vocabulary]
) -> list[AddedToken]:
    """What the first model lacks of the others: their tokens by number, model by model, then their added tokens.

    A token that any model has as an added one becomes one, with the flags of the first such model.
    """
    flagged: dict[str, AddedToken] = {}
    for reference, vocabulary in vocabularies.items():
        tokens = numbered[reference].tokens
        flagged |= {t: one for t, one in vocabulary.added.items() if t in tokens and t not in flagged}
    plain: dict[str, AddedToken] = {}
    for model in numbered.values():
        for token in sorted(model.tokens, key=model.tokens.__getitem__):
            if token not in numbers and token not in flagged:
                plain.setdefault(token, AddedToken(token, -1, normalized=True))
    first = next(iter(vocabularies.values()))
    known = first.added.keys() & numbers.keys()
    return [*plain.values(), *(one for token, one in flagged.items() if token not in known)]
