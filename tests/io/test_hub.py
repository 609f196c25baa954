"""Models on the hub, spoken to over HTTP: a check reads headers only, a run fetches only what it needs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from hub_server import Hub, call_mergec, serving
from recipes_fixtures import CONFIG, SHAPES, Called, mergec, safetensors_bytes, tensors_of, write_model

pytest.importorskip("huggingface_hub")

COMMIT, OLD = "c" * 40, "0" * 40
WIDE = {**SHAPES, "model.embed_tokens.weight": (300, 300), "lm_head.weight": (300, 300)}
SOUP = "merge_method: linear\nmodels: [{model: org/a}, {model: org/b@v1}]\nparameters: {weight: 1}\n"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """A hub with `org/a` (one file, and much else) and `org/b` (three shards; `v1` is its only revision)."""
    server = Hub()
    a = write_model(tmp_path / "hub/a", shapes=WIDE, config={**CONFIG, "vocab_size": 300}, seed="a")
    b = write_model(tmp_path / "hub/b", shapes=WIDE, seed="b", shards=3)
    (a / "consolidated.safetensors").write_bytes(bytes(1000))
    (a / "pytorch_model.bin").write_bytes(bytes(1000))
    (a / "original").mkdir()
    (a / "original/model.safetensors").write_bytes(bytes(1000))
    (a / "README.md").write_text("a")
    server.repos = {"org/a": {"main": (COMMIT, a), COMMIT: (COMMIT, a)}, "org/b": {"v1": (OLD, b), OLD: (OLD, b)}}
    with serving(server):
        yield server


Run = Callable[..., Called]


@pytest.fixture
def run(tmp_path: Path, hub: Hub) -> Run:
    """`run("check", "soup.yml")`: mergec in a process of its own, with the hub and an empty cache of its own."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "soup.yml").write_text(SOUP)
    return partial(call_mergec, work, hub, tmp_path / "cache")


def weights_of(folder: Path) -> dict[str, int]:
    """Where the header of each weight file ends."""
    return {
        file.name: 8 + int.from_bytes(file.read_bytes()[:8], "little") for file in folder.glob("model*.safetensors")
    }


def test_a_plan_reads_headers_and_names_the_commits(run: Run, hub: Hub, tmp_path: Path) -> None:
    called = run("plan", "soup.yml")
    assert called.code == 0, called.err
    assert re.search(rf"models\[0\] +org/a +hf://org/a@{COMMIT} +on the hub", called.out)
    assert re.search(rf"models\[1\] +org/b@v1 +hf://org/b@{OLD} +on the hub", called.out)
    for model in ("a", "b"):
        for name, header in weights_of(tmp_path / "hub" / model).items():
            ranges = [one for one in hub.requests if one.path.endswith(f"/{name}") and f"/{model}/" in one.path]
            assert ranges
            assert all(one.end is not None and one.end <= max(header, 256 * 1024) for one in ranges)
    fetched = {one.path.rpartition("/")[2] for one in hub.requests if "/org/" in one.path and one.begin is None}
    assert fetched == {"a", "v1", "config.json", "model.safetensors.index.json"}


@pytest.mark.parametrize("reference", ["org/a+org/lora@v2", "org/lora@v2"])
def test_an_adapter_on_the_hub_is_read_beside_its_model(reference: str, run: Run, hub: Hub, tmp_path: Path) -> None:
    lora, name = tmp_path / "hub/lora", "base_model.model.model.layers.0.self_attn.q_proj"
    lora.mkdir()
    factors = {f"{name}.lora_A.weight": ("float32", (2, 4)), f"{name}.lora_B.weight": ("float32", (4, 2))}
    (lora / "adapter_model.safetensors").write_bytes(safetensors_bytes(factors))
    (lora / "adapter_config.json").write_text(json.dumps({"r": 2, "base_model_name_or_path": "org/a"}))
    hub.repos["org/lora"] = {"v2": (OLD, lora), OLD: (OLD, lora)}
    recipe = f"merge_method: passthrough\nmodels: [{{model: {reference}}}]\n"
    (tmp_path / "work/hub.yml").write_text(recipe)
    (tmp_path / "work/local.yml").write_text(recipe.replace(reference, f"{tmp_path}/hub/a+{lora}"))
    assert run("run", "hub.yml", "out", "-q") == Called(0, "", "")
    assert mergec("run", tmp_path / "work/local.yml", tmp_path / "work/local", "-q") == Called(0, "", "")
    made = (tmp_path / "work/out/model.safetensors").read_bytes()
    assert made == (tmp_path / "work/local/model.safetensors").read_bytes()
    assert made != (tmp_path / "hub/a/model.safetensors").read_bytes()
    card = (tmp_path / "work/out/README.md").read_text()
    assert "- org/lora\n" in card.split("---")[1]


def test_a_header_longer_than_the_first_request_takes_one_more(run: Run, hub: Hub, tmp_path: Path) -> None:
    shapes = {f"model.layers.{n}.{'x' * 900}.weight": (1,) for n in range(400)}
    long = write_model(tmp_path / "hub/long", shapes=shapes)
    hub.repos["org/long"] = {"main": (COMMIT, long), COMMIT: (COMMIT, long)}
    header = weights_of(long)["model.safetensors"]
    called = run("inspect", "org/long", "--json")
    assert called.code == 0, called.err
    assert json.loads(called.out)["tensors"] == 400
    assert [(one.begin, one.end) for one in hub.asked("model.safetensors")] == [(0, 256 * 1024), (256 * 1024, header)]


def test_a_run_makes_the_same_bytes_and_fetches_what_it_needs(run: Run, hub: Hub, tmp_path: Path) -> None:
    called = run("run", "soup.yml", "out", "-q")
    assert called == Called(0, "", "")
    local = SOUP.replace("org/a", str(tmp_path / "hub/a")).replace("org/b@v1", str(tmp_path / "hub/b"))
    (tmp_path / "work/local.yml").write_text(local)
    assert mergec("run", tmp_path / "work/local.yml", tmp_path / "work/local", "-q") == Called(0, "", "")
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "work/out" / name).read_bytes() == (tmp_path / "work/local" / name).read_bytes()
    whole = [one for one in hub.requests if one.method == "GET" and one.begin is None and "/resolve/" in one.path]
    assert sorted(one.path.removeprefix("/org/") for one in whole) == [
        *(f"a/resolve/{COMMIT}/{name}" for name in ("config.json", "model.safetensors", "tokenizer.json")),
        f"b/resolve/{OLD}/config.json",
        *(f"b/resolve/{OLD}/model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)),
        f"b/resolve/{OLD}/model.safetensors.index.json",
    ]
    assert not hub.asked("consolidated.safetensors")


def test_a_word_on_tokens_fetches_tokenizers_and_no_weights(run: Run, hub: Hub, tmp_path: Path) -> None:
    vocabulary = {token: number for number, token in enumerate("hgfedcba")}
    (tmp_path / "hub/b/tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    (tmp_path / "work/soup.yml").write_text(SOUP + "tokenizer_source: union\n")
    assert run("check", "soup.yml") == Called(0, "soup.yml: ok, 9 tensors from 2 models; no weights were read\n", "")
    assert len(hub.asked("tokenizer.json")) == 2
    assert not [one for one in hub.asked("model.safetensors") if one.begin is None]
    (tmp_path / "work/soup.yml").write_text(SOUP)
    hub.requests.clear()
    assert run("check", "soup.yml").code == 0
    assert not hub.asked("tokenizer.json")


def test_what_is_not_needed_is_not_fetched(run: Run, hub: Hub, tmp_path: Path) -> None:
    settings = ["--set", "models.1.parameters.weight=0", "-q"]
    assert run("run", "soup.yml", "out", *settings) == Called(0, "", "")
    assert not [one for one in hub.requests if "/b/" in one.path and "-of-" in one.path and one.begin is None]
    made = tensors_of(tmp_path / "work/out/model.safetensors")
    assert made == tensors_of(tmp_path / "hub/a/model.safetensors")


def test_a_plan_holds_on_to_its_commit_and_the_cache_to_its_files(run: Run, hub: Hub, tmp_path: Path) -> None:
    work = tmp_path / "work"
    (work / "copy.yml").write_text("merge_method: passthrough\nmodels: [{model: org/a}]\n")
    (work / "plan.json").write_text(run("plan", "copy.yml", "--json").out)
    other = write_model(tmp_path / "hub/other", shapes=WIDE, seed="other")
    hub.repos["org/a"] |= dict.fromkeys(["main", "d" * 40], ("d" * 40, other))
    assert run("run", "plan.json", "old", "-q") == Called(0, "", "")
    hub.requests.clear()
    assert run("run", "plan.json", "again", "-q") == Called(0, "", "")
    assert not hub.asked("model.safetensors")
    assert run("run", "copy.yml", "new", "-q") == Called(0, "", "")
    for name, source in {"old": "a", "again": "a", "new": "other"}.items():
        made = tensors_of(work / name / "model.safetensors")
        assert made == tensors_of(tmp_path / "hub" / source / "model.safetensors")


NAME = "is the name right, and do you have access? a local folder is named with a leading ./"


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        ("org/nothing", f"no such repository; hint: {NAME}"),
        ("nothing", f"no such repository; hint: {NAME}"),
        ("org/a@v9", "no such revision of the repository; hint: a revision is a branch, a tag or a commit"),
        ("org/b", "no such revision of the repository; hint: a revision is a branch, a tag or a commit"),
        (
            "org/gated",
            "the repository is gated, and you have no access; "
            "hint: accept its terms on its page, and log in with `hf auth login`",
        ),
    ],
)
def test_what_the_hub_does_not_give(reference: str, why: str, run: Run, hub: Hub, tmp_path: Path) -> None:
    hub.gated.add("org/gated")
    (tmp_path / "work/p.yml").write_text(f"merge_method: passthrough\nmodels: [{{model: {reference}}}]\n")
    called = run("run", "p.yml", "out")
    assert called.err.splitlines() == [
        f"p.yml:2:18: error[E301]: no local folder '{reference}', and the hub: {why}",
        "1 error; no weights were read",
    ]
    assert called.code == 2
    assert not (tmp_path / "work/out").exists()


def test_a_hub_that_is_down(run: Run, hub: Hub) -> None:
    hub.shutdown()
    hub.server_close()
    called = run("check", "soup.yml")
    assert called.code == 2
    assert len(called.err.splitlines()) == 3
    assert (
        "soup.yml:2:18: error[E301]: no local folder 'org/a', and the hub: it cannot be reached; hint: check"
        in called.err
    )
    assert "Traceback" not in called.err


def test_a_truncated_file_on_the_hub(run: Run, hub: Hub, tmp_path: Path) -> None:
    file = tmp_path / "hub/a/model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    called = run("check", "soup.yml")
    assert re.search(rf"soup.yml:2:18: error\[E310\]: hf://org/a@{COMMIT}/model.safetensors .* truncated", called.err)


def test_a_model_without_safetensors(run: Run, hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "hub/a/model.safetensors").unlink()
    called = run("check", "soup.yml")
    assert "soup.yml:2:18: error[E302]: 'org/a' has no safetensors weights on the hub; hint: convert" in called.err


def test_offline_nothing_is_asked(run: Run, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mergec.compiler.models import open_model
    from mergec.errors import InputError

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match=r"no model 'org/a'.* the hub is switched off"):
        open_model("org/a", tmp_path)
    assert hub.requests == []


def test_a_local_folder_of_that_name_wins(run: Run, hub: Hub, tmp_path: Path) -> None:
    write_model(tmp_path / "work/org/a", shapes=WIDE, seed="local")
    write_model(tmp_path / "work/org/b@v1", shapes=WIDE, seed="local")
    called = run("plan", "soup.yml")
    assert re.search(r"models\[0\] +org/a +org/a +beside the recipe", called.out)
    assert hub.requests == []


def small_chunks(work: Path) -> tuple[str, str]:
    """Options under which the hub's client writes what it gets at once, not from 10 MB on."""
    text = "import huggingface_hub.constants as constants\nconstants.DOWNLOAD_CHUNK_SIZE = 10_000\n"
    (work / "chunks.py").write_text(text)
    return "--plugin", "chunks.py"


def test_a_fetch_that_was_interrupted_goes_on_where_it_was(run: Run, hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "work/copy.yml").write_text("merge_method: passthrough\nmodels: [{model: org/a}]\n")
    hub.cut = 100_000
    called = run("run", "copy.yml", "out", *small_chunks(tmp_path / "work"))
    assert called.code != 0
    assert "the hub does not give model.safetensors of org/a@cccccccccccc: " in called.err
    assert called.err.endswith("hint: run it again: what was fetched is kept\n")
    assert "Traceback" not in called.err
    (left,) = (tmp_path / "cache").rglob("*.mergec-part")
    assert left.stat().st_size == 100_000
    hub.cut = None
    hub.requests.clear()
    assert run("run", "copy.yml", "out", "-q").code == 0
    assert [one.begin for one in hub.asked("model.safetensors") if one.end is None] == [100_000]
    assert tensors_of(tmp_path / "work/out/model.safetensors") == tensors_of(tmp_path / "hub/a/model.safetensors")
    assert not [*(tmp_path / "cache").rglob("*.mergec-part")]


def test_what_was_left_of_another_file_is_fetched_anew(run: Run, hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "work/copy.yml").write_text("merge_method: passthrough\nmodels: [{model: org/a}]\n")
    hub.cut = 100_000
    run("run", "copy.yml", "out", *small_chunks(tmp_path / "work"))
    (left,) = (tmp_path / "cache").rglob("*.mergec-part")
    left.write_bytes(bytes(100_000))
    hub.cut = None
    called = run("run", "copy.yml", "out")
    assert "model.safetensors of org/a@cccccccccccc has another SHA-256 than it says; hint: run it again" in called.err
    assert not (tmp_path / "work/out").exists()
    assert run("run", "copy.yml", "out", "-q").code == 0
    assert tensors_of(tmp_path / "work/out/model.safetensors") == tensors_of(tmp_path / "hub/a/model.safetensors")


def test_a_disk_that_cannot_hold_what_is_fetched_is_refused_before_the_start(
    run: Run, hub: Hub, tmp_path: Path
) -> None:
    size = (tmp_path / "hub/a/model.safetensors").stat().st_size
    free = f"shutil.disk_usage = lambda _: SimpleNamespace(free={size})\n"
    (tmp_path / "work/full.py").write_text(f"import shutil\nfrom types import SimpleNamespace\n{free}")
    (tmp_path / "work/copy.yml").write_text("merge_method: passthrough\nmodels: [{model: org/a}]\n")
    called = run("run", "copy.yml", "out", "--plugin", "full.py")
    assert re.fullmatch(
        r"mergec: error\[E402\]: the result takes 721\.\d+ kB, and the files to be fetched 721\.\d+ kB, /.* has "
        r"721\.\d+ kB free; hint: make room; the output folder and the hub's cache \(HF_HOME\) may be on different "
        r"disks\n",
        called.err,
    ), called.err
    assert called.code == 2
    assert not [one for one in hub.asked("model.safetensors") if one.end is None]
