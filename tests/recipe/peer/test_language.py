"""What mergec takes mergekit's language to be, held against the mergekit that is installed."""

from __future__ import annotations

import pytest

from mergec.recipe.peer.language import KEYS, METHODS

pytest.importorskip("mergekit")


def test_methods_and_their_parameters_are_the_peers() -> None:
    from mergekit.merge_methods.registry import registered_methods

    specs = {one.spec.name: one.spec for one in registered_methods()}
    assert METHODS.keys() == specs.keys()
    for name, spec in specs.items():
        own = {one.name: one.scope.value for one in spec.input_parameters}
        assert METHODS[name].per_model == own.keys(), name
        assert METHODS[name].shared == {one.name for one in spec.shared_parameters}, name
        assert METHODS[name].is_base_read == (spec.contract.base.value == "ignored"), name
        assert set(own.values()) <= {"input" if METHODS[name].is_base_read else "non_base"}, name


def test_keys_are_the_peers() -> None:
    from mergekit import common, config
    from mergekit.tokenizer import config as tokens

    fields = {
        "recipe": {*config.MergeConfiguration.model_fields, "name"},  # mergekit-multi's
        "models": {*config.InputModelDefinition.model_fields},
        "slices": {*config.OutputSliceDefinition.model_fields} - {"residual_weight"},  # never used
        "sources": {*config.InputSliceDefinition.model_fields},
        "modules": {*config.OutputModuleDefinition.model_fields},
        "setting": {*config.ConditionalParameter.model_fields},
        "reference": {*common.ModelReference.model_fields} - {"override_architecture"},  # without meaning here
        "path": {*common.ModelPath.model_fields},
        "tokenizer": {*tokens.TokenizerConfig.model_fields},
        "token": {*tokens.TokenEmbeddingConfig.model_fields},
        "token source": {*tokens.ModelTokenEmbedding.model_fields},
    }
    assert fields == KEYS
