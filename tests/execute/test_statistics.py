"""Numbers about the whole model: the same bytes however they are found, and found once."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import contents, write_recipe
from models import Family
from recipes_fixtures import write_family, write_model

import mergec
from mergec.errors import RecipeError, size_text
from mergec.execute import evaluate, work
from mergec.execute import run as run_module
from mergec.execute.run import publish, run_part
from mergec.io.journal import Journal, Placed
from mergec.keys import plan_keys, statistic_keys
from mergec.lock import by_content
from mergec.planfile import plan_json, read_plan


def ties(folder: Path, llama: Family, **parameters: Any) -> Path:
    given = {"weight": 0.5, "density": 0.3, "scope": "model", **parameters}
    return write_recipe(folder, "ties", llama.tunes, base_model=llama.base, parameters=given)


@pytest.fixture
def plan(family: Callable[..., Family], tmp_path: Path) -> mergec.Plan:
    return mergec.compile(ties(tmp_path, family("llama", torch.bfloat16)), workers=1)


def with_tiles(plan: mergec.Plan, tile: int, workers: int) -> mergec.Plan:
    return dataclasses.replace(plan, memory=dataclasses.replace(plan.memory, tile=tile, workers=workers))


def test_bytes_do_not_depend_on_workers_tiles_or_shards(plan: mergec.Plan, tmp_path: Path) -> None:
    plan.run(tmp_path / "one", device="cpu")
    whole = contents(tmp_path / "one")["model.safetensors"]
    for number, (tile, workers) in enumerate([(100, 1), (1000, 3), (7, 2)]):
        with_tiles(plan, tile, workers).run(tmp_path / str(number), device="cpu")
        assert contents(tmp_path / str(number))["model.safetensors"] == whole
    sharded = mergec.compile(tmp_path / "recipe.yml", shard_bytes=20_000)
    assert len(sharded.shards) > 2
    sharded.run(tmp_path / "shards", device="cpu")
    from safetensors.torch import load_file

    expected = load_file(tmp_path / "one" / "model.safetensors")
    for shard in sharded.shards:
        for name, tensor in load_file(tmp_path / "shards" / shard.file).items():
            assert torch.equal(tensor, expected[name])


def test_state_dicts_give_what_files_give(family: Callable[..., Family], plan: mergec.Plan, tmp_path: Path) -> None:
    from models import tensors_of

    llama = family("llama", torch.bfloat16)
    plan.run(tmp_path / "out", device="cpu")
    models = {str(number): tensors_of(tune) for number, tune in enumerate(llama.tunes)}
    given = {"weight": 0.5, "density": 0.3, "scope": "model"}
    merged = mergec.merge("ties", models, base=tensors_of(llama.base), parameters=given)
    for name, tensor in tensors_of(tmp_path / "out").items():
        assert torch.equal(merged[name], tensor), name


def test_the_plan_says_what_is_found_first(plan: mergec.Plan) -> None:
    from mergec.compiler.text import plan_text

    assert [one.name for one in plan.statistics] == [f"threshold of models[{number}]" for number in range(3)]
    row = next(line for line in plan_text(plan).splitlines() if "threshold of models[1] " in line)
    assert "density=0.3" in row
    assert f"over {len(plan.outputs)} tensors" in row
    base_and_model = 2 * sum(output.end - output.begin for output in plan.outputs)
    assert f"{size_text(base_and_model)} a sweep" in row


def test_a_plan_goes_through_json(plan: mergec.Plan, tmp_path: Path) -> None:
    again = read_plan(plan_json(plan))
    assert again == plan
    assert again.statistics == plan.statistics
    assert again.kinds == plan.kinds


def test_an_output_depends_on_all_tensors_that_feed_its_statistics(plan: mergec.Plan) -> None:
    everything = {ref for output in plan.outputs for ref in output.sources}
    assert plan.inputs_of(plan.outputs[0]) == everything
    assert plan.statistics_of(plan.outputs[0].kind) == plan.statistics


def surveys(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tensors that statistics look at from now on."""
    seen: list[str] = []

    def feed(*arguments: Any, **named: Any) -> None:
        seen.append(named["name"])
        evaluate.feed(*arguments, **named)

    monkeypatch.setattr(work, "feed", feed)
    return seen


def test_an_interrupted_run_does_not_survey_again(
    plan: mergec.Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan.run(tmp_path / "clean", device="cpu")
    seen, calls = surveys(monkeypatch), []

    def stop(progress: Any) -> None:
        calls.append(progress)
        if progress.written_bytes:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plan.run(tmp_path / "out", device="cpu", report=stop)
    assert set(seen) == {output.name for output in plan.outputs}
    seen.clear()
    plan.run(tmp_path / "out", device="cpu")
    assert seen == []
    assert contents(tmp_path / "out") == contents(tmp_path / "clean")


def test_parts_give_the_same_bytes_and_share_what_is_found(
    plan: mergec.Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan.run(tmp_path / "clean", device="cpu")
    names = [output.name for output in plan.outputs]
    run_part(plan, names[::2], tmp_path / "shared", device="cpu")
    seen = surveys(monkeypatch)
    run_part(plan, names[1::2], tmp_path / "shared", device="cpu")
    assert seen == []
    publish(plan, tmp_path / "shared", tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "clean")


def test_a_journal_keeps_every_bit_of_a_statistic(tmp_path: Path) -> None:
    values = (0.1 + 0.2, float("inf"), -1.0, 2.0**-149)
    placed = Placed("f", 1, 2, "0")
    with Journal(tmp_path, {}, lambda: None) as journal:
        journal.record_statistic("norm", values)
        journal.record("w", placed)
    with Journal(tmp_path, {}, lambda: None) as journal:
        assert (journal.statistics, journal.placed) == ({"norm": values}, {"w": placed})
    with Journal(tmp_path, {"other": "1"}, lambda: None) as journal:
        assert journal.statistics == {}


def test_a_density_per_layer_has_no_threshold_over_the_model(family: Callable[..., Family], tmp_path: Path) -> None:
    recipe = ties(tmp_path, family("llama"), density=[0.2, 0.5])
    line = next(n for n, text in enumerate(recipe.read_text().splitlines(), 1) if '"density"' in text)
    with pytest.raises(mergec.RecipeError, match=rf"{line}:\d+: error\[E630\].*density is 0\.\d+ .*scope: tensor"):
        mergec.compile(recipe)


def test_a_threshold_over_two_dtypes_is_refused() -> None:
    base = {"v": torch.ones(3), "w": torch.ones(3, dtype=torch.float64)}
    model = {name: tensor * 2 for name, tensor in base.items()}
    parameters = {"weight": 1.0, "density": 0.5, "scope": "model"}
    with pytest.raises(mergec.RecipeError, match=r"E630.*float32 and in float64.*compute_dtype"):
        mergec.merge("ties", [model], base=base, parameters=parameters)


def test_ties_in_a_threshold_go_by_name_and_then_by_index() -> None:
    names = ["layers.2.w", "layers.10.w", "layers.1.w"]
    base = {name: torch.zeros(4) for name in names}
    model = {name: torch.ones(4) for name in names}
    for density, kept in ((0.5, {"layers.1.w": [0, 1, 2, 3], "layers.2.w": [0, 1]}), (0.3, {"layers.1.w": [0, 1, 2]})):
        parameters = {"weight": 1.0, "density": density, "scope": "model"}
        merged = mergec.merge("ties", [model], base=base, parameters=parameters)
        found = {name: tensor.nonzero().flatten().tolist() for name, tensor in merged.items() if tensor.any()}
        assert found == kept
    merged = mergec.merge("ties", [model], base=base, parameters={**parameters, "keep_count": "reference"})
    assert all(bool(tensor.all()) for tensor in merged.values())


@pytest.mark.parametrize("keep_count", ["exact", "reference"])
@pytest.mark.parametrize("density", [0.0, 0.01, 0.5, 1.0])
def test_edges_are_defined(keep_count: str, density: float) -> None:
    base = {"a": torch.zeros(0), "b": torch.zeros(2, 3), "c": torch.zeros(()), "n": torch.tensor([7])}
    same = mergec.merge(
        "ties",
        [base],
        base=base,
        parameters={"weight": 1.0, "density": density, "scope": "model", "keep_count": keep_count},
    )
    assert all(torch.equal(same[name], base[name]) for name in base)
    empty = {"a": torch.zeros(0)}
    merged = mergec.merge("ties", [empty], base=empty, parameters={"weight": 1.0, "density": 0.5, "scope": "model"})
    assert merged["a"].shape == (0,)


def test_the_key_of_an_output_covers_every_tensor_that_feeds_its_statistics(plan: mergec.Plan) -> None:
    """A change in the last tensor of one input changes all outputs; without the statistic, only its own."""
    files = {source.path: "same" for source in plan.files}
    local = mergec.compile(Path(plan.recipe_path), overrides={"parameters.scope": "tensor"})
    last = max((ref for output in plan.outputs for ref in output.sources), key=lambda ref: (ref.file, ref.begin))
    for one, changed in ((plan, len(plan.outputs)), (local, 1)):
        moved = [dataclasses.replace(output, sources=_moved(output.sources, last)) for output in one.outputs]
        before = plan_keys(one, by_content(files))
        after = plan_keys(dataclasses.replace(one, outputs=tuple(moved)), by_content(files))
        assert sum(before[name] != after[name] for name in before) == changed
    assert statistic_keys(local, by_content(files)) == {}


def _moved(sources: Any, chosen: Any) -> Any:
    return tuple(ref._replace(begin=ref.begin + 2) if ref == chosen else ref for ref in sources)


# ----------------------------------------------------------------------------------------------- kept in locks

GLOBAL = {"scope": "model", "density": 0.4, "weight": 0.5}


def test_what_an_earlier_output_knows_is_not_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another lambda has the same thresholds; another density, other inputs, or a lock that was changed has not."""
    write_family(tmp_path)
    monkeypatch.chdir(tmp_path)
    surveyed: list[int] = []
    real = run_module.survey

    def survey(plan: Any, statistics: Any, todo: Any, **options: Any) -> int:
        read: int = real(plan, statistics, todo, **options)
        surveyed.append(read)
        return read

    monkeypatch.setattr(run_module, "survey", survey)

    def again(**changed: Any) -> int:
        path = write_recipe(tmp_path, "ties", ["a", "b"], base_model="base", parameters={**GLOBAL, **changed})
        surveyed.clear()
        mergec.compile(path).run("out")
        held = contents(Path("out"))
        read = sum(surveyed)
        mergec.compile(path).run("clean", rebuild=True, force=True)
        assert held["model.safetensors"] == contents(Path("clean"))["model.safetensors"]
        return read

    assert again() > 0
    assert again(**{"lambda": 0.5}) == 0
    assert again(density=0.3) > 0
    write_model(tmp_path / "b", seed="another")
    assert again(density=0.3) > 0
    lock = Path("out/mergec.lock")
    values = re.search(r'"values": \["(0x1\.[0-9a-f]+)', lock.read_text())
    assert values
    lock.write_text(lock.read_text().replace(values[1], "0x1.0"))
    assert again(density=0.3, **{"lambda": 0.7}) > 0


def test_two_statistics_of_one_name_are_refused(tmp_path: Path) -> None:
    write_family(tmp_path)
    trims = [{"trim": {"keep": "largest", "density": share, "scope": "model"}} for share in (0.5, 0.3)]
    steps = ["diff", *trims, "elect", {"fuse": "agreeing"}]
    path = write_recipe(tmp_path, "pipeline", ["a", "b"], base_model="base", steps=steps)
    with pytest.raises(RecipeError, match=r"E631.*two steps need a threshold of models"):
        mergec.compile(path)
