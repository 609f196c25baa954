"""Configs of models that are merged: what differs in meaning is said, what differs in wording is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from recipes_fixtures import CONFIG, mergec, write_model

from mergec.compiler.configs import meaning

RECIPE = "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 0.5}\n"


def said(folder: Path, monkeypatch: pytest.MonkeyPatch, one: dict[str, Any], other: dict[str, Any]) -> str:
    """What `check` says of two models with these configs."""
    monkeypatch.chdir(folder)
    for name, config in (("a", one), ("b", other)):
        write_model(folder / name, config={**CONFIG, **config}, seed=name)
    (folder / "r.yml").write_text(RECIPE)
    called = mergec("check", "r.yml")
    assert called.code == 0
    return called.out + called.err


def test_a_model_of_other_positions_is_named_with_both_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = said(tmp_path, monkeypatch, {"rope_theta": 10_000.0}, {"rope_theta": 1e6, "max_position_embeddings": 32768})
    assert (
        "r.yml:2:30: warning[W730]: the config of 'b' differs in what weights compute: rope_theta 1000000.0 "
        "(in 'a' 10000.0); hint: the result has the config of 'a'; another base_model brings its own"
    ) in text


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"num_attention_heads": 4}, {"num_attention_heads": 8}),
        ({"rope_scaling": None}, {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
        (
            {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}},
            {"rope_parameters": {"full_attention": {"rope_theta": 1e6}}},
        ),
        ({"rms_norm_eps": 1e-5}, {"rms_norm_eps": 1e-6}),
        ({"hidden_act": "silu"}, {"hidden_act": "gelu"}),
        ({"text_config": {"sliding_window": 8}}, {"text_config": {"sliding_window": 16}}),
    ],
)
def test_what_changes_the_meaning_of_weights_is_said(
    one: dict[str, Any], other: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "W730" in said(tmp_path, monkeypatch, one, other)


def test_what_does_not_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = {"rope_theta": 10000, "_name_or_path": "x", "use_cache": True, "eos_token_id": 2}
    other = {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}, "transformers_version": "5"}
    assert "W730" not in said(tmp_path, monkeypatch, one, other)


def test_a_rotation_is_the_same_by_its_older_name() -> None:
    older = {"rope_theta": 500000.0, "rope_scaling": {"type": "yarn", "factor": 4.0}}
    newer = {"rope_parameters": {"rope_theta": 500000.0, "rope_type": "yarn", "factor": 4.0}}
    assert meaning(older) == meaning(json.loads(json.dumps(newer)))


@pytest.mark.parametrize("odd", [[1], "linear", 3, None])
def test_a_config_of_odd_values_is_read_all_the_same(odd: Any) -> None:
    assert meaning({"rope_scaling": odd, "rope_theta": odd, "hidden_act": odd})["rotations"] == "unscaled"
