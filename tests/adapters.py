"""Adapters of tiny models as the PEFT library writes them, and the models that it makes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from models import auto_class


def write_adapter(
    model: Path, folder: Path, architecture: str = "llama", *, alter: Callable[[Any], None] | None = None, **config: Any
) -> dict[str, torch.Tensor]:
    """Save an adapter with random weights; returns the tensors of the model that PEFT merges it into."""
    from peft import LoraConfig, get_peft_model

    loaded = auto_class(architecture).from_pretrained(model, torch_dtype=torch.float32)
    torch.manual_seed(1)
    adapter = get_peft_model(loaded, LoraConfig(**{"task_type": "CAUSAL_LM", "target_modules": ["q_proj"], **config}))
    with torch.no_grad():
        for parameter in adapter.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape) * 0.05)
    if alter:
        alter(adapter)
    adapter.save_pretrained(folder, safe_serialization=True)
    return {name: tensor.clone() for name, tensor in adapter.merge_and_unload().state_dict().items()}


def furthest(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> float:
    """The largest difference of any entry, over all tensors that were found."""
    return max(float((found[name].double() - expected[name].double()).abs().max()) for name in found)
