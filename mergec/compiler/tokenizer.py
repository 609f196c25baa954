"""The tokenizer of a result: its donor's files, changed where tokens are added or taken out, and ids in configs."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any

from mergec.compiler.models import Model
from mergec.compiler.nested import at, parts, set_rows
from mergec.compiler.templates import chosen_template, json_file, with_template
from mergec.compiler.vocabulary import Chosen
from mergec.errors import count, first_few
from mergec.io.checkpoint import is_absent
from mergec.io.vocabulary import CONFIG_NAME, FAST_NAME, ROLES, SPECIAL_NAME, AddedToken, Vocabulary
from mergec.recipe.schema import Recipe

GENERATION_NAME = "generation_config.json"
_STALE = ("vocab.json", "vocab.txt", "merges.txt", "added_tokens.json")  # what tokenizer.json says where it is changed
ID_ENDS = ("_token_id", "_token_index")


def rewritten(recipe: Recipe, chosen: Chosen | None, models: Mapping[str, Model]) -> tuple[dict[str, Any], list[str]]:
    """Files of tokenizer and generation that are not as the donors have them, and notes on them.

    Each is text, a JSON document, or None for one that is left out.
    """
    first = recipe.references[0]
    donor = models[chosen.donor if chosen else first]
    made: dict[str, Any] = changed_files(chosen, donor) if chosen else {}
    generation = generation_config(chosen, models, first) if chosen else None
    if generation is not None:
        made[GENERATION_NAME] = generation
    notes = _changes(chosen) if chosen else []
    if not recipe.chat_template:
        return made, notes
    text, note = chosen_template(recipe.chat_template, {one: models[one] for one in recipe.references})
    return (with_template(text, donor.checkpoint.side_files, made) if text is not None else made), [*notes, note]


def _changes(chosen: Chosen) -> list[str]:
    """What the tokenizer of the result is, where it is no model's own."""
    added = [f"{one.content!r} {one.id}" for one in chosen.appended]
    texts = [f"with {count(len(added), 'token')} added: {first_few(added)}"] if added else []
    gone = [repr(token) for token in chosen.gone]
    texts += [f"without {count(len(gone), 'token')} that no row stands for: {first_few(gone)}"] if gone else []
    return [f"tokenizer: that of {chosen.donor}, {' and '.join(texts)}"] if texts else []


def changed_files(chosen: Chosen, donor: Model) -> dict[str, Any]:
    """The donor's tokenizer files that are written anew, by name, as JSON documents; None for one that is left out."""
    vocabulary = chosen.vocabulary
    if not chosen.is_new or vocabulary is None or vocabulary.document is None:
        return {}
    names = donor.checkpoint.side_files
    made: dict[str, Any] = {name: None for name in _STALE if name in names}
    if chosen.removed and "tokenizer.model" in names:
        made["tokenizer.model"] = None
    made[FAST_NAME] = _document(vocabulary, set(chosen.removed), chosen.appended)
    if vocabulary.config:
        made[CONFIG_NAME] = _config(vocabulary.config, chosen)
    if chosen.gone and SPECIAL_NAME in names:
        made[SPECIAL_NAME] = _without_roles(json_file(names[SPECIAL_NAME]), set(chosen.gone))
    return made


def _document(vocabulary: Vocabulary, removed: set[str], appended: Collection[AddedToken]) -> dict[str, Any]:
    """tokenizer.json with other tokens."""
    made = dict(vocabulary.document or {})
    model = made["model"] = dict(made["model"])
    if removed:
        model["vocab"] = _kept_vocab(model["vocab"], removed)
    if removed and model.get("merges"):
        pairs = zip(model["merges"], vocabulary.merges, strict=True)
        model["merges"] = [one for one, (left, right) in pairs if not {left, right, left + right} & removed]
    kept = [entry for entry in made.get("added_tokens") or [] if entry["content"] not in removed]
    entries = {entry["content"]: entry for entry in kept} | {one.content: one.to_json() for one in appended}
    made["added_tokens"] = sorted(entries.values(), key=lambda entry: int(entry["id"]))
    return made


def _kept_vocab(vocab: Any, removed: set[str]) -> Any:
    if isinstance(vocab, dict):
        return {token: number for token, number in vocab.items() if token not in removed}
    return [piece for piece in vocab if piece[0] not in removed]


def _config(config: Mapping[str, Any], chosen: Chosen) -> dict[str, Any]:
    """tokenizer_config.json with other added tokens."""
    made = _without_roles(config, set(chosen.gone))
    if isinstance(made.get("added_tokens_decoder"), dict):
        written = made["added_tokens_decoder"].items()
        decoder = {number: entry for number, entry in written if entry["content"] not in chosen.removed}
        decoder |= {str(one.id): {"content": one.content, **one.flags} for one in chosen.appended}
        made["added_tokens_decoder"] = {number: decoder[number] for number in sorted(decoder, key=int)}
    return made


def _without_roles(document: Mapping[str, Any], removed: set[str]) -> dict[str, Any]:
    """Without tokens that are gone: a tokenizer that is told of them would add them again."""
    made = copy.deepcopy(dict(document))
    for role in ROLES:
        if _content(made.get(role)) in removed:
            del made[role]
    for name in ("additional_special_tokens", "extra_special_tokens"):
        if isinstance(made.get(name), list):
            made[name] = [one for one in made[name] if _content(one) not in removed]
    return made


def _content(value: Any) -> Any:
    return value.get("content") if isinstance(value, dict) else value


def set_vocabulary(config: dict[str, Any], chosen: Chosen, models: Mapping[str, Model], first: str) -> list[str]:
    """Give a config, that of the model `first`, the size and the token ids of the result; notes on what was changed."""
    target, source = chosen.alignment.target, models[chosen.donor].checkpoint.config or {}
    if not target.rows:  # no tensor has a row per token
        return []
    before = chosen.alignment.models[first].rows if first in chosen.alignment.models else 0
    notes = []
    set_rows(config, before, target.rows)
    for path, part in parts(config) if chosen.donor != first else ():
        notes += _set_ids(part, at(source, path), chosen, first)
    if before != target.rows:
        notes.insert(0, f"vocab_size is {target.rows:,}, the rows of the embedding; '{first}' has {before:,}")
    return notes


def generation_config(chosen: Chosen, models: Mapping[str, Model], first: str) -> dict[str, Any] | None:
    """generation_config.json with the ids of the result, None where the first model's is right as it is."""
    path = models[first].checkpoint.side_files.get(GENERATION_NAME)
    if path is None or chosen.donor == first or is_absent(path) or not chosen.alignment.target.numbers:
        return None
    theirs = models[chosen.donor].checkpoint.side_files.get(GENERATION_NAME)
    made = json_file(path)
    _set_ids(made, json_file(theirs) if theirs and not is_absent(theirs) else {}, chosen, first)
    return made


def _set_ids(part: dict[str, Any], theirs: Mapping[str, Any], chosen: Chosen, first: str) -> list[str]:
    """Ids as the tokenizer's donor has them, else those of the tokens they stand for; None for one that is gone."""
    gone = []
    for key, value in part.items():
        if not key.endswith(ID_ENDS):
            continue
        if key in theirs:
            part[key] = theirs[key]
        elif isinstance(value, list):
            found = [_renumbered(one, chosen, first) for one in value]
            part[key] = [one for one in found if one is not None]
        elif type(value) is int:
            part[key] = _renumbered(value, chosen, first)
            if part[key] is None:
                gone.append(f"{key} is none, for the result lacks the token that '{first}' has there")
    return gone


def _renumbered(number: Any, chosen: Chosen, first: str) -> int | None:
    tokens = chosen.alignment.models[first].tokens if first in chosen.alignment.models else {}
    token = next((token for token, one in tokens.items() if one == number), None)
    return chosen.alignment.target.numbers.get(token) if token is not None else None
