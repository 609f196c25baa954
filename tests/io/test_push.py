"""Push: what is sent to a hub, in one commit; what is refused before anything is sent."""

# ruff: noqa: E501 - a message is one line

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from hub_server import Hub, call_mergec, serving
from recipes_fixtures import Called, mergec, tensors_of, write_family

pytest.importorskip("huggingface_hub")

Run = Callable[..., Called]
TWICE = ("--set", "models.0.parameters.weight=2")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    server = Hub()
    server.home = tmp_path / "hub"
    with serving(server):
        yield server


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder with the models, a recipe, and its merge in `out`."""
    folder = write_family(tmp_path / "work", ["a", "b"])
    (folder / "soup.yml").write_text(
        "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}\n"
    )
    assert mergec("run", folder / "soup.yml", folder / "out", "-q") == Called(0, "", "")
    return folder


@pytest.fixture
def run(tmp_path: Path, hub: Hub, work: Path) -> Run:
    """mergec in a process of its own; sends large files by LFS, which the server knows."""
    return partial(call_mergec, work, hub, tmp_path / "cache", HF_TOKEN=hub.token, HF_HUB_DISABLE_XET="1")


def at(hub: Hub, repo: str, revision: str = "main") -> dict[str, bytes]:
    """The files of a repository."""
    _, folder = hub.repos[repo][revision]
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_sent_is_the_merge(run: Run, hub: Hub, work: Path) -> None:
    (work / "out/notes.txt").write_text("mine")
    called = run("push", "out", "me/soup", "--yes")
    assert called.code == 0, called.err
    commit, _ = hub.repos["me/soup"]["main"]
    assert called.out.splitlines() == [
        f"sent out to me/soup: 6 files, {called.out.split(', ')[1]}, commit {commit[:12]}",
        f"{hub.url}/me/soup/commit/{commit}",
    ]
    sent = at(hub, "me/soup")
    assert sent == {path.name: path.read_bytes() for path in (work / "out").iterdir() if path.name != "notes.txt"}
    assert {"model.safetensors", "config.json", "mergec.lock", "README.md"} <= sent.keys()
    back = run("inspect", "me/soup", "--json")
    assert json.loads(back.out)["tensors"] == len(tensors_of(work / "out/model.safetensors"))


def test_without_yes_nothing_is_sent(run: Run, hub: Hub) -> None:
    called = run("push", "out", "me/soup")
    assert called.code == 2
    assert called.out.splitlines() == [
        "README.md",
        "config.json",
        "mergec_recipe.yml",
        "model.safetensors",
        "tokenizer.json",
        "mergec.lock",
    ]
    assert called.err.splitlines()[-1].startswith("mergec: error[E723]: 6 files of ")
    assert called.err.endswith(" would be sent to me/soup, nothing was; hint: --yes sends them\n")
    assert hub.requests == []


def test_a_later_push_replaces_weights_of_other_names_in_the_same_commit(run: Run, hub: Hub, work: Path) -> None:
    assert run("push", "out", "me/soup", "--yes").code == 0
    assert mergec("run", work / "soup.yml", work / "out", "--shard-size", "300", "-q", *TWICE).code == 0
    called = run("push", "out", "me/soup", "--yes", "-m", "smaller")
    assert called.code == 0, called.err
    assert "removed there: model.safetensors\n" in called.out
    assert at(hub, "me/soup") == {path.name: path.read_bytes() for path in (work / "out").iterdir()}
    again = run("push", "out", "me/soup", "--yes", "--json")
    assert json.loads(again.out)["removed"] == []


def test_a_branch_is_made_and_main_is_left(run: Run, hub: Hub, work: Path) -> None:
    assert run("push", "out", "me/soup", "--yes").code == 0
    before = at(hub, "me/soup")
    assert mergec("run", work / "soup.yml", work / "out", "-q", *TWICE).code == 0
    assert run("push", "out", "me/soup@two", "--yes").code == 0
    assert at(hub, "me/soup") == before
    assert at(hub, "me/soup", "two") == {path.name: path.read_bytes() for path in (work / "out").iterdir()}


def test_what_was_sent_is_not_sent_again(run: Run, hub: Hub, work: Path) -> None:
    import hashlib

    weights = hashlib.sha256((work / "out/model.safetensors").read_bytes()).hexdigest()
    hub.refused.add(weights)
    called = run("push", "out", "me/soup", "--yes")
    assert called.code == 1
    assert called.err.splitlines()[-1].startswith("mergec: error[E725]: me/soup: the hub does not take it: ")
    assert "Traceback" not in called.err
    assert at(hub, "me/soup") == {}
    hub.refused.clear()
    assert run("push", "out", "me/soup", "--yes").code == 0
    hub.requests.clear()
    assert run("push", "out", "me/other", "--yes").code == 0
    assert not [one for one in hub.requests if one.method == "PUT"]


def test_a_repository_of_others_is_left_alone(run: Run, hub: Hub, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "pytorch_model.bin").write_bytes(b"theirs")
    hub.repos["me/theirs"] = {"main": ("2" * 40, theirs)}
    called = run("push", "out", "me/theirs", "--yes")
    assert called.code == 2
    assert called.err.splitlines()[-1] == (
        "mergec: error[E724]: the repository me/theirs has files, and mergec did not make them; hint: name another "
        "repository, or --force to replace its weights"
    )
    assert at(hub, "me/theirs") == {"pytorch_model.bin": b"theirs"}
    assert run("push", "out", "me/theirs", "--yes", "--force").code == 0
    assert "pytorch_model.bin" not in at(hub, "me/theirs")


def test_a_changed_byte_is_not_sent(run: Run, hub: Hub, work: Path) -> None:
    weights = bytearray((work / "out/model.safetensors").read_bytes())
    weights[-1] ^= 1
    (work / "out/model.safetensors").write_bytes(weights)
    called = run("push", "out", "me/soup", "--yes")
    assert called.code == 1
    assert called.err.splitlines()[-1] == (
        "mergec: error[E724]: out is not what its lock says: model.safetensors, model.norm.weight is not what it was; "
        "hint: mergec verify out lists all"
    )
    assert hub.requests == []


@pytest.mark.parametrize(
    ("out", "repo", "message"),
    [
        ("a", "me/soup", "E620]: there is no a/mergec.lock; hint: `mergec run` writes one into its output, `mergec lock RECIPE` one beside the recipe"),
        ("ot", "me/soup", "E620]: no folder ot; hint: did you mean 'out'?"),
        ("recipes", "me/soup", "E622]: recipes/mergec.lock locks recipes, not the output of a merge; hint: name the folder of a merge"),
        ("out", "me/so up", "E724]: 'me/so up' is no name of a repository on the hub; hint: write USER/NAME, or USER/NAME@BRANCH"),
    ],
)  # fmt: skip
def test_what_is_refused_before_anything_is_asked(
    out: str, repo: str, message: str, run: Run, hub: Hub, work: Path
) -> None:
    (work / "recipes").mkdir()
    shutil.copy(work / "soup.yml", work / "recipes/soup.yml")
    for name in ("a", "b"):
        shutil.copytree(work / name, work / "recipes" / name)
    assert run("lock", "recipes/soup.yml").code == 0
    called = run("push", out, repo, "--yes")
    assert called.err.splitlines()[-1] == f"mergec: error[{message}"
    assert called.code == 2
    assert hub.requests == []


def test_a_lock_that_names_files_elsewhere_is_refused(run: Run, hub: Hub, work: Path) -> None:
    lock = json.loads((work / "out/mergec.lock").read_text())
    lock["files"]["../soup.yml"] = {"bytes": (work / "soup.yml").stat().st_size, "sha256": "0" * 64}
    (work / "out/mergec.lock").write_text(json.dumps(lock))
    called = run("push", "out", "me/soup", "--yes")
    assert called.err.startswith("mergec: error[E621]: out/mergec.lock is no sound lock: files.../soup.yml")
    assert hub.requests == []


def test_without_a_token_or_a_network(run: Run, hub: Hub) -> None:
    called = run("push", "out", "me/soup", "--yes", HF_TOKEN="wrong")
    assert called.code == 1
    assert called.err.splitlines()[-1].startswith("mergec: error[E725]: me/soup: the hub does not take it: ")
    assert called.err.endswith("hint: log in with `hf auth login`\n")
    off = run("push", "out", "me/soup", "--yes", HF_HUB_OFFLINE="1")
    assert off.err == "mergec: error[E725]: the hub is switched off (HF_HUB_OFFLINE); hint: unset HF_HUB_OFFLINE\n"
    hub.shutdown()
    hub.server_close()
    down = run("push", "out", "me/soup", "--yes")
    assert "the hub does not take it: it cannot be reached; hint: check the network" in down.err
    assert "Traceback" not in down.err
