"""Side files: config.json as the result needs it, what is copied from which donor, the index and the model card."""

from __future__ import annotations

import copy
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mergec.compiler.biases import agree
from mergec.compiler.inventory import Inventory
from mergec.compiler.mixture import mixture_config
from mergec.compiler.models import Model
from mergec.compiler.nested import parts
from mergec.compiler.restack import restack
from mergec.compiler.tokenizer import rewritten, set_vocabulary
from mergec.compiler.vocabulary import Chosen
from mergec.io.artifact import ARTIFACT_NAME, SHARED_FILE, Manifest, Router, expert_file, router_file
from mergec.io.checkpoint import DATA, is_tokenizer_file, small_file_digest
from mergec.io.layout import Shard, SideFile
from mergec.io.tensors import FLOATS, ITEM_BYTES, TensorRef
from mergec.ops.artifact import RULE
from mergec.ops.registry import Method
from mergec.plan import Output
from mergec.recipe.bound import Bound
from mergec.recipe.schema import Recipe

RECIPE_NAME = "mergec_recipe.yml"


def side_files(
    recipe: Recipe,
    method: Method,
    models: Mapping[str, Model],
    inventories: Sequence[Inventory],
    outputs: Sequence[Output],
    shards: Sequence[Shard],
    recipe_text: str,
    chosen: Chosen | None = None,
) -> tuple[tuple[SideFile, ...], list[str]]:
    """Every file beside the weights, and notes on what was changed or whence it comes.

    `chosen` is the vocabulary, where the recipe says something of it.
    """
    outputs = [output for output in outputs if not output.is_part]
    shards = shards[: 1 + max((output.shard for output in outputs), default=0)]
    donor = models[recipe.references[0]]
    tokenizer = models[chosen.donor] if chosen else donor
    written, notes = rewritten(recipe, chosen, models)
    files = [copied_file(name, path) for name, path in _copied(donor, tokenizer) if name not in written]
    files += [written_file(name, file_text(made)) for name, made in written.items() if made is not None]
    config, changes = result_config(recipe, models, inventories, outputs, chosen)
    notes += changes
    if config is not None:
        files.append(written_file("config.json", json_text(config)))
    records = {RECIPE_NAME: recipe_text, "README.md": _card(recipe, method, recipe_text)}
    if len(shards) > 1:
        records[f"{donor.checkpoint.stem}.safetensors.index.json"] = index_text(outputs, shards)
    files += [SideFile(name, text=text, is_record=True) for name, text in records.items()]
    copied = sorted(file.name for file in files if file.source)
    if copied:
        whence = (
            donor.reference if donor is tokenizer else f"{donor.reference}, the tokenizer from {tokenizer.reference}"
        )
        notes.append(f"copied from {whence}: {', '.join(copied)}")
    return tuple(sorted(files, key=lambda file: file.name)), notes


def result_config(
    recipe: Recipe,
    models: Mapping[str, Model],
    inventories: Sequence[Inventory],
    outputs: Sequence[Output | TensorRef],
    chosen: Chosen | None = None,
) -> tuple[dict[str, Any] | None, list[str]]:
    """The donor's config as it is for the result, if it has one, and notes on what was changed."""
    donor = models[recipe.references[0]]
    if donor.checkpoint.config is None:
        return None, []
    notes: list[str] = []
    config = _config(donor, any(one.is_untied for one in inventories), outputs, notes)
    if chosen:
        notes += [*chosen.notes, *set_vocabulary(config, chosen, models, donor.reference)]
    configs = {name: model.checkpoint.config or {} for name, model in models.items()}
    if recipe.experts:
        config = mixture_config(recipe, models, config)
    notes += agree(config, donor.tensors, [output.name for output in outputs])
    for stacked in (stacked for one in inventories for stacked in one.stacked):
        notes += restack(config, stacked, configs)
    return config, notes


def copied_file(name: str, path: str) -> SideFile:
    if path.startswith(DATA):
        return written_file(name, path.removeprefix(DATA))
    return SideFile(name, source=path, digest=small_file_digest(path))


def written_file(name: str, text: str) -> SideFile:
    return SideFile(name, text=text, digest=hashlib.sha256(text.encode()).hexdigest())


def artifact_files(bound: Bound, shards: Sequence[Shard]) -> tuple[SideFile, ...]:
    """The manifest of an artifact - its tasks in the models' order, where their parts lie - and the user's router."""
    made = {shard.file for shard in shards}
    files = {task: expert_file(task) if expert_file(task) in made else None for task in bound.tasks}
    shared = SHARED_FILE if SHARED_FILE in made else None
    entry = bound.router
    copied = copied_file(router_file(entry.file), str(_beside(bound, entry.file))) if entry.file else None
    router = Router(entry.scores, entry.rule, entry.top_k, copied.name if copied else None)
    manifest = Manifest(f"{bound.method.name} (version {bound.method.version})", RULE, files, shared, router)
    made_here = written_file(ARTIFACT_NAME, manifest.to_json())
    return (made_here, copied) if copied else (made_here,)


def _beside(bound: Bound, file: str) -> Path:
    return bound.recipe.document.folder / file


def _copied(donor: Model, tokenizer: Model) -> Iterable[tuple[str, str]]:
    for model, of_tokenizer in ((donor, False), (tokenizer, True)):
        for name, path in model.checkpoint.side_files.items():
            if is_tokenizer_file(name) == of_tokenizer:
                yield name, path


def _config(donor: Model, is_untied: bool, outputs: Sequence[Output | TensorRef], notes: list[str]) -> dict[str, Any]:
    """The donor's config with the dtype, the tie and the quantisation of the result."""
    config = config_with_dtype(donor.checkpoint.config or {}, outputs)
    if is_untied:
        for _, part in parts(config):
            if part is config or "tie_word_embeddings" in part:
                part["tie_word_embeddings"] = False
        notes.append("some models tie their head to the embedding, others do not: the result has its own head")
    quantised = ("quantization_config", "compression_config")
    schemes = [part.pop(key, None) for _, part in list(parts(config)) for key in quantised]
    if any(schemes):
        notes.append("quantization_config is dropped: the tensors are not quantised")
    return config


def file_text(made: Any) -> str:
    """What is written to a file: text as it is, anything else as JSON."""
    return made if isinstance(made, str) else json_text(made)


def json_text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def config_with_dtype(config: Mapping[str, Any], outputs: Sequence[Output | TensorRef]) -> dict[str, Any]:
    """A config that names the dtype most of the result has."""
    changed: dict[str, Any] = copy.deepcopy(dict(config))
    dtype = _main_dtype(outputs)
    if dtype:
        for _, part in parts(changed):
            for key in ("dtype", "torch_dtype"):
                if isinstance(part.get(key), str):
                    part[key] = dtype
        if not {"dtype", "torch_dtype"} & changed.keys():
            changed["torch_dtype"] = dtype
    return changed


def _main_dtype(outputs: Sequence[Output | TensorRef]) -> str | None:
    """The float dtype that most bytes of the result have."""
    sizes: Counter[str] = Counter()
    for output in outputs:
        if output.dtype in FLOATS:
            sizes[output.dtype] += output.numel * ITEM_BYTES[output.dtype]
    return max(sorted(sizes), key=lambda dtype: sizes[dtype]) if sizes else None


def index_text(outputs: Sequence[Output], shards: Sequence[Shard]) -> str:
    total = sum(output.end - output.begin for output in outputs)
    weight_map = {output.name: shards[output.shard].file for output in sorted(outputs, key=lambda output: output.name)}
    return json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2) + "\n"


def _card(recipe: Recipe, method: Method, recipe_text: str) -> str:
    """The model card: its metadata, how the merge was made, and the recipe."""
    named = dict.fromkeys(part for reference in recipe.references for part in reference.split("+"))
    hub_ids = [name for name in named if name.count("/") == 1 and not name.startswith((".", "/", "~"))]
    bases = "".join(f"- {name.partition('@')[0]}\n" for name in hub_ids)
    head = f"base_model:\n{bases}" if bases else ""
    models = [*(one.model for _, one in recipe.entries), *(one.source_model for _, one in recipe.all_experts)]
    listed = "\n".join(f"- `{model}`" for model in dict.fromkeys(models))
    base = f"\nBase model: `{recipe.base_model}`\n" if recipe.base_model else ""
    fence = "```"
    return (
        f"---\n{head}library_name: transformers\ntags:\n- mergec\n- merge\n---\n\n"
        f"# {recipe.name or 'A merge'}\n\n"
        f"Merged with [{method.name}]({_link(method.paper)}) by mergec. {method.summary}\n{base}\n"
        f"Models:\n\n{listed}\n\nRecipe:\n\n{fence}yaml\n{recipe_text.rstrip()}\n{fence}\n"
    )


def _link(paper: str) -> str:
    return f"https://arxiv.org/abs/{paper.removeprefix('arXiv:')}" if paper.startswith("arXiv:") else paper
