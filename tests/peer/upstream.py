"""A pytest plugin for mergekit's own tests: what they merge with `run_merge`, mergec merges.

Loaded with `-p upstream` in a process of its own, where its source distribution lies unpacked. That ships the tests
without `tests/common.py`; this module is that helper as well. MERGEC_UPSTREAM_REPORT names the file that gets
`{test: [went through run_merge, outcome, message]}`; MERGEC_UPSTREAM_BY=mergekit leaves the merging to mergekit.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from mergekit import merge
from safetensors.torch import load_file

import mergec

_merged = False
_report: dict[str, tuple[bool, str, str]] = {}
_made = 0


def run_merge(config: Any, out_path: str, options: Any, config_source: str | None = None) -> None:
    """The signature of mergekit's; what mergec refuses is a ValueError, which is what mergekit raises."""
    global _merged
    _merged = True
    recipe = yaml.safe_load(config.to_yaml()) | {"compat": "mergekit"}
    if options.random_seed is not None:
        recipe["seed"] = options.random_seed
    if options.unsafe_truncate_embeddings and not (config.tokenizer or config.tokenizer_source):
        recipe["tokenizer_source"] = "truncate"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yml"
        path.write_text(yaml.safe_dump(recipe))
        try:
            mergec.compile(path, workers=1, shard_bytes=options.out_shard_size).run(out_path, device="cpu")
        except mergec.RecipeError as refused:
            raise ValueError(str(refused)) from None


def run_and_check_merge(
    config: Any,
    check_nan: bool = True,
    check_tensors: bool = True,
    validate: Callable[[str], None] | None = None,
    auto_arch: bool = False,
) -> None:
    """Merge, then look: a config, the names of every input that has one, finite numbers, and what `validate` asks."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        merge.run_merge(config, str(out), _options())
        transformers.AutoConfig.from_pretrained(out)
        found = {name: tensor for file in out.glob("*.safetensors") for name, tensor in load_file(file).items()}
        assert found
        if check_tensors and config.models:
            donor = load_file(Path(config.models[0].model.model.path) / "model.safetensors")
            assert donor.keys() == found.keys()
        if check_nan:
            assert not [name for name, tensor in found.items() if not tensor.isfinite().all()]
        if validate:
            validate(str(out))


def _options() -> Any:
    from mergekit.options import MergeOptions

    return MergeOptions(quiet=True)


def _saved(model: Any, folder: Any) -> str:
    model.save_pretrained(folder, safe_serialization=True)
    return str(folder)


def _seed() -> None:
    """Every model is another one, and the same in every session."""
    global _made
    _made += 1
    torch.manual_seed(_made)


_SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_hidden_layers": 2,
}


def make_picollama(folder: Any, vocab_size: int = 64) -> str:
    _seed()
    config = transformers.LlamaConfig(vocab_size=vocab_size, **_SMALL)
    return _saved(transformers.LlamaForCausalLM(config), folder)


def make_picogranite(folder: Any, vocab_size: int = 64) -> str:
    _seed()
    config = transformers.GraniteConfig(vocab_size=vocab_size, pad_token_id=0, **_SMALL)
    return _saved(transformers.GraniteForCausalLM(config), folder)


def make_gpt2size(folder: Any, vocab_size: int = 64) -> str:
    """The twelve layers that its tests stack twice; narrow."""
    _seed()
    config = transformers.GPT2Config(vocab_size=vocab_size, n_embd=24, n_layer=12, n_head=4, n_positions=32)
    return _saved(transformers.GPT2LMHeadModel(config), folder)


def make_picoLlaVa(folder: Any) -> str:  # noqa: N802 - the name that the tests import
    _seed()
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=8, patch_size=2
        ),
        text_config=transformers.LlamaConfig(vocab_size=64, **_SMALL),
        image_token_index=63,
    )
    return _saved(transformers.LlavaForConditionalGeneration(config), folder)


def pytest_configure() -> None:
    sys.modules["tests.common"] = sys.modules[__name__]
    if os.environ.get("MERGEC_UPSTREAM_BY") == "mergekit":
        own = merge.run_merge

        def noted(*arguments: Any, **options: Any) -> None:
            global _merged
            _merged = True
            own(*arguments, **options)

        merge.run_merge = noted
    else:
        merge.run_merge = run_merge


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
    global _merged
    report = (yield).get_result()
    if call.when == "setup":
        _merged = False
    if call.when == "call" or report.failed:
        name = item.nodeid.removeprefix("tests/")
        _report[name] = (_merged, report.outcome, str(call.excinfo.value) if call.excinfo else "")


def pytest_sessionfinish() -> None:
    Path(os.environ["MERGEC_UPSTREAM_REPORT"]).write_text(json.dumps(_report))
