"""An adapter's own config, as far as it says what its tensors mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mergec.errors import InputError, did_you_mean

ADAPTER_PREFIX = "base_model.model."
"""What the names of an adapter's tensors begin with, before the module they change."""

_KINDS = ("LORA",)


def factor_names(module: str, is_embedding: bool = False) -> tuple[str, str]:
    """The names of B and A of a module; the product of an embedding's is its transposed change."""
    word, end = ("lora_embedding", "") if is_embedding else ("lora", ".weight")
    return f"{ADAPTER_PREFIX}{module}.{word}_B{end}", f"{ADAPTER_PREFIX}{module}.{word}_A{end}"


_ARITHMETIC = {  # settings of PEFT under which the weights are not W + scale B A
    "alora_invocation_tokens": "an adapter that is active after some tokens only",
    "arrow_config": "routing between adapters",
    "kasa_config": "KaSA",
    "layer_replication": "replicated layers",
    "monteclora_config": "MonteCLoRA",
    "target_parameters": "adapters of packed parameters",
    "trainable_token_indices": "trained rows of an embedding",
    "use_bdlora": "block-diagonal factors",
    "use_qalora": "QALoRA",
}
_CHANGED_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")  # initialisations that change the base model


class AdapterConfig(BaseModel):
    """What adapter_config.json says, under the names of the PEFT library."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    r: int = Field(default=8, gt=0)
    lora_alpha: float = 8
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None
    use_rslora: bool = False
    use_dora: bool = False
    fan_in_fan_out: bool = False
    base_model_name_or_path: str | None = None
    revision: str | None = None

    def rank(self, module: str) -> int:
        """The rank of a module's factors."""
        return int(_of_module(self.rank_pattern, module, self.r))

    def scale(self, module: str) -> float:
        """What B A is multiplied by: alpha / r, or alpha / sqrt(r) for rsLoRA (arXiv:2312.03732)."""
        rank = self.rank(module)
        return float(_of_module(self.alpha_pattern, module, self.lora_alpha)) / (rank**0.5 if self.use_rslora else rank)


def _of_module(pattern: Mapping[str, float] | None, module: str, otherwise: float) -> float:
    """The entry whose key, a regular expression, matches the end of a module's name; the first one, as in PEFT."""
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return otherwise


def read_config(name: str, written: Mapping[str, Any]) -> AdapterConfig:
    """The config of the adapter `name`.

    Raises InputError: E340 for one that is broken, E341 for an adapter of a kind that is not computed here.
    """
    kind = str(written.get("peft_type", "LORA")).upper()
    if kind not in _KINDS:
        raise _refused(name, f"of the kind {kind}")
    for key, what in _ARITHMETIC.items():
        if written.get(key):
            raise _refused(name, f"with {what} ({key})")
    init = str(written.get("init_lora_weights", True)).lower()
    if init.startswith(_CHANGED_BASE):
        what = f"the adapter '{name}' was initialised with {init}, which changes the base model, so W + s B A is wrong"
        raise InputError("E341", what, "save it anew with PEFT's path_initial_model_for_weight_conversion")
    try:
        config = AdapterConfig.model_validate(dict(written))
        for key in (*(config.rank_pattern or ()), *(config.alpha_pattern or ())):
            re.compile(key)
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        where = ".".join(map(str, found["loc"]))
        what = f"{name}/adapter_config.json: {where} is {found['input']!r}, {found['msg'].lower()}"
        raise InputError("E340", what, did_you_mean(where, AdapterConfig.model_fields)) from None
    except re.error as error:
        what = f"{name}/adapter_config.json: {error.pattern!r} is no pattern: {error.msg}"
        raise InputError("E340", what) from None
    return config


def _refused(name: str, what: str) -> InputError:
    return InputError("E341", f"the adapter '{name}' is one {what}, which is not computed here", _MERGE_FIRST)


_MERGE_FIRST = "merge it into its model with PEFT, and name the result"
