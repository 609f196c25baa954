"""What every test shares: no network, one thread, reproducible hypothesis, golden texts, tiny checkpoints on disk."""

from __future__ import annotations

import os
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["MERGEC_CACHE"] = tempfile.mkdtemp(prefix="mergec-cache-")  # of this session's own

import difflib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from models import Family, make_family
from safetensors.torch import save_file

torch.set_num_threads(1)
settings.register_profile(
    "mergec", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("mergec")

_TESTS = Path(__file__).parent
_GOLDEN = _TESTS / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden texts instead of comparing")
    parser.addoption("--full-matrix", action="store_true", help="run what is compared with mergekit whole, not a cover")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without --full-matrix, what is marked `full_matrix` is left out."""
    if config.getoption("--full-matrix"):
        return
    left_out = [item for item in items if item.get_closest_marker("full_matrix")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


class Golden:
    """A text kept in a file; equal to what it was when it was last accepted."""

    def __init__(self, path: Path, update: bool) -> None:
        self.path, self.update = path, update

    @property
    def text(self) -> str | None:
        return self.path.read_text(encoding="utf-8") if self.path.exists() else None

    def __eq__(self, other: object) -> bool:
        if self.update and isinstance(other, str):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(_ended(other), encoding="utf-8")
        return isinstance(other, str) and self.text == _ended(other)

    __hash__ = None  # type: ignore[assignment]

    def difference(self, found: str) -> list[str]:
        where = self.path.relative_to(_TESTS.parent)
        if self.text is None:
            return [f"{where} does not exist; accept this text with --update-golden:", *found.splitlines()]
        lines = difflib.unified_diff(
            self.text.splitlines(), _ended(found).splitlines(), str(where), "found", lineterm=""
        )
        return ["the text differs from the golden one; accept it with --update-golden:", *lines]


def _ended(text: str) -> str:
    return text.rstrip("\n") + "\n"


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    for golden, found in ((left, right), (right, left)):
        if op == "==" and isinstance(golden, Golden) and isinstance(found, str):
            return golden.difference(found)
    return None


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[..., Golden]:
    """`assert text == golden()`: the text of this test; `golden("name")` where a test has several."""
    update = request.config.getoption("--update-golden")
    folder = _GOLDEN / request.path.relative_to(_TESTS).with_suffix("")

    def open_golden(name: str = "") -> Golden:
        stem = re.sub(r"[^\w.-]+", "-", name or request.node.name).strip("-")
        return Golden(folder / f"{stem}.txt", update)

    return open_golden


Checkpoint = Callable[..., Path]


def write_checkpoint(
    folder: Path, tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any] | None = None, shards: int = 1
) -> Path:
    """A model folder: config.json and the tensors, dealt to `shards` safetensors files in the order given."""
    folder.mkdir(parents=True, exist_ok=True)
    described = {"architectures": ["TinyModel"], "model_type": "tiny"} if config is None else dict(config)
    (folder / "config.json").write_text(json.dumps(described, indent=2))
    if shards == 1:
        save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    files = [f"model-{number + 1:05d}-of-{shards:05d}.safetensors" for number in range(shards)]
    weight_map = {name: files[position * shards // len(tensors)] for position, name in enumerate(tensors)}
    for file in files:
        part = {name: tensors[name] for name in tensors if weight_map[name] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    """`checkpoint("a", {"w": tensor}, config={...}, shards=2)` writes a model folder below tmp_path."""

    def write(name: str, tensors: Mapping[str, torch.Tensor], **options: Any) -> Path:
        return write_checkpoint(tmp_path / name, tensors, **options)

    return write


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Family]:
    """`family("llama", torch.bfloat16)`: a tiny base model and three fine-tunes of it on disk, made once a session."""
    made: dict[tuple[str, torch.dtype], Family] = {}

    def find(architecture: str, dtype: torch.dtype = torch.float32) -> Family:
        key = (architecture, dtype)
        if key not in made:
            stem = f"{architecture}-{str(dtype).removeprefix('torch.')}-"
            made[key] = make_family(architecture, tmp_path_factory.mktemp(stem), dtype)
        return made[key]

    return find
