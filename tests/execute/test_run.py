"""What a run writes: a model that loads, the same bytes however it is run, and never a value nobody asked for."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import config, contents, dare, dtypes, linear, merged, write_recipe
from models import Family, tensors_of
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import mergec
from mergec.cli.main import _run
from mergec.io.staging import staging_folder

Families = Callable[..., Family]
Write = Callable[..., Path]

# the model


def test_a_merge_loads_in_transformers_and_generates(family: Families, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    llama = family("llama", torch.bfloat16)
    merged(dare(tmp_path, llama.base, *llama.tunes), tmp_path / "out")
    model, report = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values()), report
    assert model.dtype == torch.bfloat16
    written = model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=5, min_new_tokens=5, do_sample=False)
    assert written.shape == (1, 8)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, tensors_of(tmp_path / "out")[name])


@pytest.mark.parametrize("method", ["linear", "ties", "della"])
def test_every_tensor_is_there_once(family: Families, tmp_path: Path, method: str) -> None:
    llama = family("llama")
    rest = {} if method == "linear" else {"base_model": llama.base}
    merged(write_recipe(tmp_path, method, llama.tunes, parameters={"weight": 0.5}, **rest), tmp_path / "out")
    shapes = {name: tensor.shape for name, tensor in tensors_of(llama.a).items()}
    assert {name: tensor.shape for name, tensor in tensors_of(tmp_path / "out").items()} == shapes


# the same bytes


@pytest.fixture(scope="module")
def reference(family: Families, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A recipe with random trims and reductions over a family in bfloat16, and what one worker makes of it."""
    folder, llama = tmp_path_factory.mktemp("reference"), family("llama", torch.bfloat16)
    tune = {"model": str(llama.c), "parameters": {"density": 0.7, "weight": [0.2, 0.9]}}
    parameters = {"weight": 0.5, "density": 0.5, "epsilon": 0.1, "rescale": "l1"}
    recipe = write_recipe(folder, "della", [llama.a, llama.b, tune], base_model=llama.base, parameters=parameters)
    return recipe, merged(recipe, folder / "out", workers=1)


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_bytes_do_not_depend_on_the_workers(
    reference: tuple[Path, dict[str, bytes]], tmp_path: Path, workers: int
) -> None:
    recipe, expected = reference
    assert merged(recipe, tmp_path / "out", workers=workers) == expected


@pytest.mark.parametrize("tile", [5, 37, 1000])
@pytest.mark.parametrize("method", ["della", "linear", "model_stock", "slerp", "ties"])
def test_bytes_do_not_depend_on_the_tiles(family: Families, tmp_path: Path, method: str, tile: int) -> None:
    llama = family("llama", torch.bfloat16)
    parameters = {"slerp": {"t": 0.3}, "model_stock": {}}.get(method, {"weight": 0.5})
    models = llama.tunes[:1] if method == "slerp" else llama.tunes
    rest = {} if method == "linear" else {"base_model": llama.base}
    plan = mergec.compile(write_recipe(tmp_path, method, models, parameters=parameters, **rest))
    layer = tuple(output for output in plan.outputs if ".layers.1." in output.name)
    weights = []
    for size in (tile, plan.memory.tile):
        cut = dataclasses.replace(plan, memory=dataclasses.replace(plan.memory, tile=size), outputs=layer)
        cut.run(tmp_path / f"out-{size}", device="cpu")
        weights.append((tmp_path / f"out-{size}" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_tensors_do_not_depend_on_the_shards(reference: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    recipe, expected = reference
    whole = mergec.compile(recipe)
    largest = max(output.end - output.begin for output in whole.outputs)
    for size in (1, 5000, largest, largest + 1, whole.written_bytes // 2):
        out = tmp_path / str(size)
        found = merged(recipe, out, shard_bytes=size)
        index = json.loads(found["model.safetensors.index.json"])
        stored = {path.name: load_file(path) for path in out.glob("*.safetensors")}
        assert index["weight_map"] == {name: file for file, tensors in stored.items() for name in tensors}
        tensors = {name: tensor for part in stored.values() for name, tensor in part.items()}
        assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())
        for file, part in stored.items():
            assert len(part) == 1 or sum(tensor.nbytes for tensor in part.values()) <= size, file
        total = len(stored)
        assert sorted(stored) == [f"model-{number + 1:05d}-of-{total:05d}.safetensors" for number in range(total)]
        (tmp_path / "reference.safetensors").write_bytes(expected["model.safetensors"])
        wanted = load_file(tmp_path / "reference.safetensors")
        assert tensors.keys() == wanted.keys()
        assert all(torch.equal(tensors[name], wanted[name]) for name in wanted)


def test_bytes_do_not_depend_on_how_the_inputs_are_stored(checkpoint: Write, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    made = []
    for shards in (1, 3):
        models = []
        for label in "abc":
            tensors = {f"layers.{i}.w": torch.randn(4, 5, generator=generator) for i in range(11)}
            models.append(checkpoint(f"{label}{shards}", dict(reversed(tensors.items())), shards=shards))
        generator.manual_seed(0)
        found = merged(linear(tmp_path, *models), tmp_path / f"out{shards}")
        made.append(found["model.safetensors"])
    assert made[0] == made[1]


def test_bytes_do_not_depend_on_the_hash_seed(family: Families, tmp_path: Path) -> None:
    llama = family("llama", torch.bfloat16)
    (tmp_path / "dare").mkdir()
    recipes = [linear(tmp_path, *llama.tunes), dare(tmp_path / "dare", llama.base, *llama.tunes)]
    code = (
        "import hashlib, sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from checkpoints import merged\n"
        "for recipe in sys.argv[3:]:\n"
        "    files = merged(Path(recipe), Path(sys.argv[2]) / Path(recipe).parent.name)\n"
        "    print(hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest())"
    )
    printed = set()
    for seed in ("0", "1", "2", "3"):
        command = [sys.executable, "-c", code, Path(__file__).parent.parent, tmp_path / seed, *recipes]
        done = subprocess.run(
            command, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        )
        printed.add(done.stdout)
    assert len(printed) == 1
    assert len(printed.pop().split()) == 2


def test_a_second_run_writes_the_same_bytes_and_the_seed_is_what_changes_them(
    reference: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    recipe, expected = reference
    assert merged(recipe, tmp_path / "out") == merged(recipe, tmp_path / "out") == expected
    other = merged(recipe, tmp_path / "seed", overrides={"seed": 1})
    assert other["model.safetensors"] != expected["model.safetensors"]


# dtypes


@pytest.mark.parametrize(
    ("rest", "stored"),
    [
        ({}, "BF16"),
        ({"dtype": "float32"}, "F32"),
        ({"dtype": "float32", "out_dtype": "float16"}, "F16"),
        ({"out_dtype": "float32"}, "F32"),
        ({"dtype": "float16", "compute_dtype": "float64"}, "F16"),
    ],
)
@pytest.mark.parametrize("method", ["linear", "passthrough"])
def test_the_dtype_asked_for_is_the_dtype_written(
    family: Families, tmp_path: Path, rest: dict[str, str], stored: str, method: str
) -> None:
    llama = family("llama", torch.bfloat16)
    parameters = {"weight": 1.0} if method == "linear" else {}
    models = llama.tunes if method == "linear" else [llama.a]
    merged(write_recipe(tmp_path, method, models, parameters=parameters, **rest), tmp_path / "out")
    assert set(dtypes(tmp_path / "out").values()) == {stored}
    said = {config(tmp_path / "out")[key] for key in ("dtype", "torch_dtype") if key in config(tmp_path / "out")}
    assert said == {{"BF16": "bfloat16", "F16": "float16", "F32": "float32"}[stored]}


def test_integers_and_booleans_are_copied(checkpoint: Write, tmp_path: Path) -> None:
    def model(label: str, number: int) -> Path:
        ids, mask = torch.arange(2**60, 2**60 + 9) + number, torch.tensor([number == 1, True])
        return checkpoint(label, {"w": torch.ones(4) * number, "position_ids": ids, "mask": mask})

    one, two = model("one", 1), model("two", 2)
    merged(linear(tmp_path, one, two, dtype="bfloat16"), tmp_path / "out")
    found = tensors_of(tmp_path / "out")
    assert found["w"].tolist() == [1.5] * 4
    assert found["w"].dtype == torch.bfloat16
    for name in ("position_ids", "mask"):
        assert torch.equal(found[name], tensors_of(one)[name])


# heads and vocabularies


def test_tied_in_tied_out(family: Families, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    qwen = family("qwen2")
    merged(linear(tmp_path, *qwen.tunes), tmp_path / "out")
    assert tensors_of(tmp_path / "out").keys() == tensors_of(qwen.a).keys()
    assert "lm_head.weight" not in tensors_of(tmp_path / "out")
    assert config(tmp_path / "out")["tie_word_embeddings"] is True
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.num_parameters() == AutoModelForCausalLM.from_pretrained(qwen.a).num_parameters()


def test_a_stored_copy_of_a_tied_head_is_not_merged_twice(checkpoint: Write, tmp_path: Path) -> None:
    embedding = torch.randn(6, 2)
    tensors = {"model.embed_tokens.weight": embedding, "lm_head.weight": embedding.clone()}
    models = [checkpoint(label, tensors, config={"tie_word_embeddings": True}) for label in "ab"]
    merged(linear(tmp_path, *models), tmp_path / "out")
    assert list(tensors_of(tmp_path / "out")) == ["model.embed_tokens.weight"]


@pytest.mark.parametrize("tied_first", [True, False])
def test_tied_and_untied_give_a_head_of_its_own(checkpoint: Write, tmp_path: Path, tied_first: bool) -> None:
    name = "model.embed_tokens.weight"
    tied = checkpoint("tied", {name: torch.full((6, 2), 1.0)}, config={"tie_word_embeddings": True})
    untied = checkpoint(
        "untied",
        {name: torch.full((6, 2), 3.0), "lm_head.weight": torch.full((6, 2), 9.0)},
        config={"tie_word_embeddings": False},
    )
    merged(linear(tmp_path, *((tied, untied) if tied_first else (untied, tied))), tmp_path / "out")
    found = tensors_of(tmp_path / "out")
    assert found[name].unique().tolist() == [2.0]
    assert found["lm_head.weight"].unique().tolist() == [5.0]
    assert config(tmp_path / "out")["tie_word_embeddings"] is False


def test_padding_rows_of_a_vocabulary_stay(checkpoint: Write, tmp_path: Path) -> None:
    tokens = {"model": {"vocab": {f"t{number}": number for number in range(5)}}}
    models = []
    for label in "ab":
        models.append(checkpoint(label, {"model.embed_tokens.weight": torch.ones(8, 2)}, config={"vocab_size": 8}))
        (models[-1] / "tokenizer.json").write_text(json.dumps(tokens))
    merged(linear(tmp_path, *models), tmp_path / "out")
    assert tensors_of(tmp_path / "out")["model.embed_tokens.weight"].shape == (8, 2)
    assert config(tmp_path / "out")["vocab_size"] == 8


# values that are no numbers


def poisoned(checkpoint: Write, value: float) -> tuple[Path, Path]:
    tensors = {"v": torch.ones(300), "w": torch.ones(20, 30)}
    sound = checkpoint("sound", tensors)
    tensors["w"][7, 11] = value
    return sound, checkpoint("poisoned", tensors)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_is_refused_with_its_input(
    checkpoint: Write, tmp_path: Path, value: float, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, out = linear(tmp_path, *poisoned(checkpoint, value)), tmp_path / "out"
    assert _run(["run", str(recipe), str(out), "--device", "cpu"]) == 1
    said = capsys.readouterr().err
    assert "E413" in said
    assert f"w is not finite at entry {7 * 30 + 11}" in said
    assert str(tmp_path / "poisoned" / "model.safetensors") in said
    assert str(tmp_path / "sound") not in said
    assert not out.exists()
    assert _run(["run", str(recipe), str(out), "--device", "cpu", "--allow-nonfinite", "--quiet"]) == 0
    found = tensors_of(out)["w"]
    assert (~torch.isfinite(found)).nonzero().tolist() == [[7, 11]]


def test_an_overflow_is_named_as_one(checkpoint: Write, tmp_path: Path) -> None:
    models = [checkpoint(label, {"w": torch.tensor([1.0, 60000.0])}) for label in "ab"]
    recipe = linear(tmp_path, *models, out_dtype="float16", parameters={"weight": 1.0, "normalize": False})
    with pytest.raises(mergec.RunError, match=r"w is not finite at entry 1: .*overflowed float16"):
        merged(recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_zero_weight_keeps_the_poison_out(checkpoint: Write, tmp_path: Path) -> None:
    sound, sick = poisoned(checkpoint, float("nan"))
    recipe = linear(tmp_path, sound, {"model": str(sick), "parameters": {"weight": 0}})
    merged(recipe, tmp_path / "out")
    assert torch.equal(tensors_of(tmp_path / "out")["w"], torch.ones(20, 30))


# copies


@pytest.mark.parametrize("kernel", ["helps", "refuses"])
def test_passthrough_copies_bytes(
    family: Families, tmp_path: Path, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> int:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    if kernel == "refuses":
        monkeypatch.setattr(os, "copy_file_range", refuse, raising=False)
    llama = family("llama", torch.bfloat16)
    plan = mergec.compile(write_recipe(tmp_path, "passthrough", [llama.a]))
    assert {kind.kind_class for kind in plan.kinds} == {"copy"}
    plan.run(tmp_path / "out")
    before, after = tensors_of(llama.a), tensors_of(tmp_path / "out")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_copy_does_not_need_torch(family: Families, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, "passthrough", [family("llama").a])
    code = "import mergec, sys; mergec.compile(sys.argv[1]).run(sys.argv[2]); print('torch' in sys.modules)"
    command = [sys.executable, "-c", code, recipe, tmp_path / "out"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"


# the files beside the weights


def test_side_files_come_from_the_donor_and_say_how_it_was_made(checkpoint: Write, tmp_path: Path) -> None:
    base, tune = (checkpoint(label, {"w": torch.ones(4)}) for label in ("a base", "a+tune@home (ü)"))
    for folder in (base, tune):
        for name in ("generation_config.json", "tokenizer.json", "chat_template.jinja"):
            (folder / name).write_text(json.dumps(f"{name} of {folder.name}"))
    recipe = write_recipe(
        tmp_path,
        "task_arithmetic",
        [tune],
        base_model=base,
        tokenizer_source=str(tune),
        name="my merge",
        parameters={"weight": 1.0},
    )
    out = tmp_path / "out with spaces"
    found = merged(recipe, out, overrides={"parameters.weight": 0.25})
    assert json.loads(found["generation_config.json"]) == "generation_config.json of a base"
    assert json.loads(found["tokenizer.json"]) == "tokenizer.json of a+tune@home (ü)"
    assert json.loads(found["chat_template.jinja"]) == "chat_template.jinja of a+tune@home (ü)"
    written = found["mergec_recipe.yml"].decode()
    assert written.startswith(recipe.read_text().rstrip())
    assert "# run with --set parameters.weight=0.25" in written
    card = found["README.md"].decode()
    assert card.startswith("---\nlibrary_name: transformers\ntags:\n- mergec\n- merge\n---\n\n# my merge\n")
    assert "a+tune@home (ü)" in card
    assert written.rstrip() in card
    with safe_open(out / "model.safetensors", "pt") as opened:
        assert opened.metadata() == {"format": "pt"}


def test_a_stale_quantization_config_is_dropped(checkpoint: Write, tmp_path: Path) -> None:
    said = {
        "model_type": "tiny",
        "quantization_config": {"quant_method": "bitsandbytes"},
        "text_config": {"dtype": "x"},
    }
    models = [checkpoint(label, {"w": torch.ones(4)}, config=said) for label in "ab"]
    merged(linear(tmp_path, *models, dtype="float16"), tmp_path / "out")
    assert config(tmp_path / "out") == {
        "model_type": "tiny",
        "text_config": {"dtype": "float16"},
        "torch_dtype": "float16",
    }


# what goes wrong on the way


def test_an_input_that_changed_after_planning_is_refused(checkpoint: Write, tmp_path: Path) -> None:
    models = [checkpoint(label, {"w": torch.ones(4)}) for label in "ab"]
    plan = mergec.compile(linear(tmp_path, *models))
    save_file({"w": torch.ones(5)}, models[1] / "model.safetensors")
    with pytest.raises(mergec.RunError, match=r"E411.*b/model\.safetensors"):
        plan.run(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_failure_stops_all_workers_and_leaves_no_model(
    family: Families, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llama = family("llama")
    recipe, out = linear(tmp_path, *llama.tunes), tmp_path / "out"
    calls: list[int] = []
    write = os.pwrite

    def fill_up(descriptor: int, buffer: Any, position: int) -> int:
        calls.append(len(buffer))
        if len(calls) > 9:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, buffer, position)

    monkeypatch.setattr(os, "pwrite", fill_up)
    with pytest.raises(mergec.RunError, match=r"E412.*No space left"):
        merged(recipe, out, workers=4)
    assert len(calls) <= 9 + 4
    assert not out.exists()
    assert not list(tmp_path.rglob("*.safetensors"))
    monkeypatch.undo()
    result = mergec.compile(recipe).run(out, device="cpu")
    assert result.kept == 8  # one of the nine writes was the header
    assert contents(out) == merged(recipe, tmp_path / "clean")
    assert not staging_folder(out).exists()


def test_progress_adds_up(family: Families, tmp_path: Path) -> None:
    plan = mergec.compile(linear(tmp_path, *family("llama").tunes), workers=3)
    reports: list[Any] = []
    result = plan.run(tmp_path / "out", device="cpu", report=reports.append)
    assert sum(report.tensors for report in reports) == result.tensors == len(plan.outputs)
    assert sum(report.read_bytes for report in reports) == result.read_bytes == plan.read_bytes
    assert sum(report.written_bytes for report in reports) == sum(one.end - one.begin for one in plan.outputs)
    assert result.written_bytes == (tmp_path / "out" / "model.safetensors").stat().st_size


def test_a_device_that_is_not_there_is_refused(family: Families, tmp_path: Path) -> None:
    plan = mergec.compile(linear(tmp_path, *family("llama").tunes))
    for device in ("cuda:99", "mps", "toaster"):
        with pytest.raises(mergec.UsageError, match="E503"):
            plan.run(tmp_path / "out", device=device)
    assert not staging_folder(tmp_path / "out").exists()
