"""The memory promise: what a run allocates beyond the runtime's own stays under the peak its plan states."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import write_recipe
from safetensors.torch import save_file
from vocabularies import word_tokenizer

import mergec
from mergec.compiler.materialize import compile_task
from mergec.compiler.schedule import Options, peak_bytes
from mergec.compiler.transplant import Wanted, compile_transplant
from mergec.execute.run import run

STATUS = Path("/proc/self/status")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not STATUS.exists() or "RssAnon" not in STATUS.read_text(), reason="reads /proc"),
]
MIB = 1 << 20
DELTAS = {"weight": 0.5, "density": 0.5}
METHODS: dict[str, dict[str, Any]] = {
    "linear": {"weight": 1.0},
    "passthrough": {},
    "slerp": {"t": 0.3},
    "model_stock": {},
    "ties": DELTAS,
    "ties over the model": {**DELTAS, "scope": "model"},
    "dare_ties": DELTAS,
    "dare_linear": {**DELTAS, "rescale": "l1"},
    "della": {**DELTAS, "epsilon": 0.1},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four models of two matrices of 25 million entries, 100 MB each: a base and three others."""
    folder = tmp_path_factory.mktemp("large")
    for number in range(4):
        generator = torch.Generator().manual_seed(number)
        tensors = {name: torch.empty(4096, 6144, dtype=torch.bfloat16).normal_(generator=generator) for name in "vw"}
        (folder / str(number)).mkdir()
        save_file(tensors, folder / str(number) / "model.safetensors")
    return [folder / str(number) for number in range(4)]


def allocated(pid: int | str) -> int:
    """Bytes of memory a process has that is not backed by files."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)


def peak_of(work: Callable[[], object]) -> int:
    """How much more memory a function takes, at most, than this process has: measured from outside of a fork."""
    receiver, sender = multiprocessing.get_context("fork").Pipe()

    def measured() -> None:
        sender.send(allocated("self"))
        work()

    process = multiprocessing.get_context("fork").Process(target=measured)
    process.start()
    before = peak = receiver.recv()
    while process.is_alive():
        try:
            peak = max(peak, allocated(process.pid or 0))
        except (FileNotFoundError, ProcessLookupError):
            break
        time.sleep(0.001)
    process.join()
    assert process.exitcode == 0
    return peak - before


def plan_for(method: str, models: list[Path], folder: Path, **options: Any) -> mergec.Plan:
    base, *others = models
    rest = {} if method in ("linear", "passthrough") else {"base_model": base}
    others = others[:1] if method in ("passthrough", "slerp") else others
    plan = mergec.compile(
        write_recipe(folder, method.split()[0], others, parameters=METHODS[method], **rest), **options
    )
    return dataclasses.replace(plan, outputs=plan.outputs[:1]) if method == "della" else plan


def test_the_measurement_sees_what_is_allocated() -> None:
    assert 50 * MIB < peak_of(lambda: (torch.ones(50 * MIB, dtype=torch.uint8), time.sleep(0.1))) < 60 * MIB


@pytest.mark.parametrize("method", METHODS)
def test_a_run_stays_under_the_peak_its_plan_states(method: str, models: list[Path], tmp_path: Path) -> None:
    plan = plan_for(method, models, tmp_path, workers=2)
    assert plan.memory.peak_bytes < 110 * MIB  # a promise anybody could keep is none
    assert peak_of(lambda: plan.run(tmp_path / "out", device="cpu")) < plan.memory.peak_bytes


@pytest.mark.parametrize("shape", [(1024, 1024), (4096, 256), (256, 2048)], ids=str)
@pytest.mark.parametrize("method", ["fr", "tsv", "iso_c", "iso_cts", "wudi", "opcm", "svc"])
def test_whole_matrices_take_no_more_than_their_scratch(method: str, shape: tuple[int, int], tmp_path: Path) -> None:
    for number in range(4):
        generator = torch.Generator().manual_seed(number)
        tensors = {name: torch.empty(shape, dtype=torch.bfloat16).normal_(generator=generator) for name in "vw"}
        (tmp_path / str(number)).mkdir()
        save_file(tensors, tmp_path / str(number) / "model.safetensors")
    base, *others = (tmp_path / str(number) for number in range(4))
    values: dict[str, Any] = {"wudi": {"iterations": 3}, "fr": {"filter": "reference"}, "svc": {"weight": 0.5}}
    rest: dict[str, Any] = {"base_model": base, "parameters": values.get(method, {})}
    if method == "svc":
        recipe = write_recipe(tmp_path, "task_arithmetic", others, **rest, post=["svc"])
    else:
        recipe = write_recipe(tmp_path, method, others, **rest)
    plan = mergec.compile(recipe, workers=2)
    peak = peak_of(lambda: plan.run(tmp_path / "out", device="cpu"))
    assert peak < plan.memory.peak_bytes


@pytest.mark.parametrize("workers", [1, 2])
def test_factors_of_an_adapter_are_in_the_promise(workers: int, tmp_path: Path) -> None:
    """An embedding whose factors are larger than itself, and blocks of float8."""
    shape = {"w": (2048, 2048), "model.embed_tokens": (100_000, 64)}
    tensors = {f"{name}.weight": torch.ones(size, dtype=torch.bfloat16) for name, size in shape.items()}
    scales = {"v.weight": torch.ones(2048, 2048).to(torch.float8_e4m3fn), "v.weight_scale_inv": torch.ones(128, 128)}
    (tmp_path / "base").mkdir()
    save_file(tensors | scales, tmp_path / "base/model.safetensors")
    scheme = {"quant_method": "fp8", "weight_block_size": [16, 16]}
    (tmp_path / "base/config.json").write_text(json.dumps({"quantization_config": scheme}))
    (tmp_path / "a").mkdir()
    factors = {
        "w.lora_A.weight": (64, 2048),
        "w.lora_B.weight": (2048, 64),
        "model.embed_tokens.lora_embedding_A": (192, 100_000),
        "model.embed_tokens.lora_embedding_B": (64, 192),
    }
    made = {f"base_model.model.{name}": torch.ones(size) / 100 for name, size in factors.items()}
    save_file(made, tmp_path / "a/adapter_model.safetensors")
    pattern = {"embed_tokens": 192}
    (tmp_path / "a/adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 64, "rank_pattern": pattern}))
    plan = mergec.compile(write_recipe(tmp_path, "passthrough", ["base+a"]), workers=workers)
    assert peak_of(lambda: plan.run(tmp_path / "out", device="cpu")) < plan.memory.peak_bytes


@pytest.mark.parametrize("method", ["ties", "slerp", "model_stock"])
@pytest.mark.parametrize("limit", [48 * MIB, 128 * MIB])
def test_a_limit_is_kept_at_the_cost_of_workers_and_tiles(
    method: str, limit: int, models: list[Path], tmp_path: Path
) -> None:
    free = plan_for(method, models, tmp_path, workers=8)
    plan = plan_for(method, models, tmp_path, workers=8, max_memory_bytes=limit)
    plan = dataclasses.replace(plan, outputs=plan.outputs[: 1 if limit < 100 * MIB else 2])
    assert plan.memory.peak_bytes <= limit
    assert (plan.memory.workers, plan.memory.tile) <= (free.memory.workers, free.memory.tile)
    assert peak_of(lambda: plan.run(tmp_path / "out", device="cpu")) < plan.memory.peak_bytes


@pytest.mark.parametrize("method", ["ties", "ties over the model", "della"])
@pytest.mark.parametrize("tile", [1 << 14, 1 << 15])
def test_small_tiles_leave_no_memory_behind(method: str, tile: int, models: list[Path], tmp_path: Path) -> None:
    plan = plan_for(method, models, tmp_path, workers=1)
    plan = dataclasses.replace(plan, memory=dataclasses.replace(plan.memory, tile=tile))
    promised = peak_bytes(plan.kinds, plan.outputs, tile, 1, len(plan.statistics))
    assert peak_of(lambda: plan.run(tmp_path / "out", device="cpu", compile="off")) < promised


def test_a_limit_that_cannot_be_kept_is_refused(models: list[Path], tmp_path: Path) -> None:
    with pytest.raises(mergec.RecipeError, match=r"E403.*the limit is 16 MiB.*--max-memory"):
        plan_for("ties", models, tmp_path, max_memory_bytes=16 * MIB)


def test_more_models_need_more_memory(models: list[Path], tmp_path: Path) -> None:
    peaks = [plan_for("ties", models[: 2 + number], tmp_path, workers=2).memory.peak_bytes for number in range(3)]
    assert peaks == sorted(set(peaks))


@pytest.mark.parametrize(("method", "scores"), [("emr", "none"), ("emr", "subspace"), ("twin", "none")])
def test_artifacts_are_made_and_made_dense_under_their_peaks(method: str, scores: str, tmp_path: Path) -> None:
    for number in range(3):
        generator = torch.Generator().manual_seed(number)
        shapes = {f"layers.0.{name}.weight": torch.empty(1024, 768, dtype=torch.bfloat16) for name in "abc"}
        (tmp_path / str(number)).mkdir()
        tensors = {name: one.normal_(generator=generator) for name, one in shapes.items()}
        save_file(tensors, tmp_path / str(number) / "model.safetensors")
        (tmp_path / str(number) / "config.json").write_text('{"num_hidden_layers": 1}')
    recipe = write_recipe(tmp_path, method, ["1", "2"], base_model="0", router={"scores": scores})
    plan = mergec.compile(recipe, workers=2)
    assert peak_of(lambda: plan.run(tmp_path / "out", device="cpu")) < plan.memory.peak_bytes
    plan.run(tmp_path / "out", device="cpu")
    dense = mergec.api.adopt(compile_task(tmp_path / "out", "1"))
    assert peak_of(lambda: dense.run(tmp_path / "dense", device="cpu")) < dense.memory.peak_bytes


@pytest.mark.parametrize(("method", "workers"), [("linear", 1), ("ties", 2)])
def test_rows_of_shuffled_vocabularies_are_read_block_by_block(method: str, workers: int, tmp_path: Path) -> None:
    """No matrix over the vocabulary: beside the tiles there is an index of one number per row for each table."""
    rows = 24_000
    for number in range(3):
        generator = torch.Generator().manual_seed(number)
        table = torch.empty(rows, 960, dtype=torch.bfloat16).normal_(generator=generator)
        order = torch.randperm(rows, generator=generator).tolist() if number else range(rows)
        vocabulary = {f"t{token}": row for row, token in enumerate(order)}
        (tmp_path / str(number)).mkdir()
        save_file(
            {"embed_tokens.weight": table, "lm_head.weight": table.clone()}, tmp_path / f"{number}/model.safetensors"
        )
        (tmp_path / str(number) / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    base = {"base_model": "0", "parameters": DELTAS} if method == "ties" else {"parameters": {"weight": 1.0}}
    tokenizer = {"source": "union", "pad_to_multiple_of": 4096}
    recipe = write_recipe(tmp_path, method, ["1", "2"], **base, tokenizer=tokenizer)
    plan = mergec.compile(recipe, workers=workers)
    assert plan.memory.peak_bytes < 120 * MIB
    assert peak_of(lambda: plan.run(tmp_path / "out", device="cpu")) < plan.memory.peak_bytes


@pytest.mark.parametrize("coded", [False, True])
def test_rows_that_are_computed_are_made_block_by_block(coded: bool, tmp_path: Path) -> None:
    """Rows of a float8 embedding with an adapter, in another order, and of another model: one tile of each."""
    rows, width, rank = 24_000, 960, 4
    for name, start in (("0", 0), ("1", 2_000)):
        (tmp_path / name).mkdir()
        table = torch.ones(rows, width, dtype=torch.bfloat16)
        tensors = {"embed_tokens.weight": table, "lm_head.weight": table.clone()}
        if coded:
            tensors = {key: one.to(torch.float8_e4m3fn) for key, one in tensors.items()}
            tensors |= {f"{key}_scale_inv": torch.ones(-(-rows // 16), width // 16) for key in list(tensors)}
        save_file(tensors, tmp_path / name / "model.safetensors")
        vocabulary = {f"t{token}": row for row, token in enumerate(range(start, start + rows))}
        (tmp_path / name / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
        scheme = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [16, 16]}}
        (tmp_path / name / "config.json").write_text(json.dumps(scheme if coded else {}))
    (tmp_path / "a").mkdir()
    factors = {"A": (rank, width), "B": (rows, rank)}
    made = {f"lm_head.lora_{part}.weight": torch.ones(size) / 100 for part, size in factors.items()}
    made |= {"lm_head.lora_magnitude_vector": torch.ones(rows)}
    save_file({f"base_model.model.{key}": one for key, one in made.items()}, tmp_path / "a/adapter_model.safetensors")
    described = {"peft_type": "LORA", "r": rank, "lora_alpha": 1, "use_dora": True}
    (tmp_path / "a/adapter_config.json").write_text(json.dumps(described))
    tokenizer = {"source": "union"}
    recipe = write_recipe(tmp_path, "linear", ["0", "1+a"], parameters={"weight": 1.0}, tokenizer=tokenizer)
    plan = mergec.compile(recipe, workers=1)
    assert plan.memory.peak_bytes < 120 * MIB
    assert peak_of(lambda: plan.run(tmp_path / "out", device="cpu")) < plan.memory.peak_bytes


@pytest.mark.parametrize("method", ["omp", "common_interpolation", "landmark_pca", "subword", "randn", "john_hewitt"])
def test_another_tokenizer_takes_no_more_than_its_plan_states(method: str, tmp_path: Path) -> None:
    tokens = {"model": [f"a{number}" for number in range(12_000)]}
    tokens["donor"] = [*tokens["model"][:6_000], *(f"new{number}" for number in range(300))]
    for name, words in tokens.items():
        table = torch.empty(len(words), 384, dtype=torch.bfloat16).normal_(generator=torch.Generator().manual_seed(1))
        (tmp_path / name).mkdir()
        save_file({"model.embed_tokens.weight": table}, tmp_path / name / "model.safetensors")
        word_tokenizer(words).save_pretrained(tmp_path / name)
    wanted = Wanted(approximation=method, k=16)  # type: ignore[arg-type]
    plan = compile_transplant(str(tmp_path / "model"), str(tmp_path / "donor"), wanted, Options(workers=1)).plan
    assert peak_of(lambda: run(plan, tmp_path / "out", device="cpu")) < plan.memory.peak_bytes < 400 * MIB
