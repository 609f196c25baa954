"""Stages: the result of one recipe as a model of another, known by its headers before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator

from mergec.compiler.analysis import Analysis
from mergec.compiler.lower import stored_dtype
from mergec.compiler.models import STAGE, Model
from mergec.compiler.sidefiles import file_text, result_config
from mergec.compiler.tokenizer import rewritten
from mergec.errors import Place
from mergec.io.checkpoint import DATA, Checkpoint, is_tokenizer_file
from mergec.io.tensors import ITEM_BYTES, TensorRef


def stage_model(name: str, place: Place, analysis: Analysis) -> Model:
    """What a run of a stage would write, as a model."""
    tensors = {ref.name: ref for ref in _tensors(f"{STAGE}{name}", analysis)}
    inventories = [part.inventory for part in analysis.parts]
    chosen = analysis.vocabulary
    config, _ = result_config(analysis.recipe, analysis.models, inventories, list(tensors.values()), chosen)
    donor = analysis.models[analysis.recipe.references[0]].checkpoint
    tokenizer = analysis.models[chosen.donor].checkpoint if chosen else donor
    files = {name: path for name, path in donor.side_files.items() if not is_tokenizer_file(name)}
    files |= {name: path for name, path in tokenizer.side_files.items() if is_tokenizer_file(name)}
    for file, made in rewritten(analysis.recipe, chosen, analysis.models)[0].items():
        if made is None:
            files.pop(file, None)
        else:
            files[file] = f"{DATA}{file_text(made)}"
    checkpoint = Checkpoint(f"{STAGE}{name}", (), tensors, config, files)
    return Model(name, place, "a stage of this recipe", checkpoint)


def _tensors(file: str, analysis: Analysis) -> Iterator[TensorRef]:
    for name, (bound, inventory) in analysis.of_tensor.items():
        row = inventory.rows[name]
        dtype = stored_dtype(bound.recipe, row)
        yield TensorRef(file, name, dtype, row[0].shape, 0, row[0].numel * ITEM_BYTES[dtype])
